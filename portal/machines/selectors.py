"""Reads about machines. Fetching and authorising are one call."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Q, QuerySet

from portal.accounts.models import Project, User
from portal.accounts.permissions import ROLE_PERMISSIONS, Permission
from portal.accounts.selectors import permissions_in, roles_of
from portal.errors import ForbiddenError, NotFoundError
from portal.hosts.models import Host
from portal.jobs.models import Job, JobStep
from portal.jobs.selectors import active_jobs_of, current_step, overall_progress
from portal.lib.secrets import unseal
from portal.machines.models import Flavour, Grant, Machine, MachineLabel
from portal.machines.querysets import GRANTED
from portal.machines.states import (
    CAN_CHANGE_DEVICES,
    CAN_FORCE_OFF,
    CAN_HIBERNATE,
    CAN_PAUSE,
    CAN_REBOOT,
    CAN_RESUME,
    CAN_START,
    CAN_STOP,
    INTERRUPTIBLE,
    IS_KNOWN,
    LIVE,
    PowerState,
    Status,
    Task,
)

_RELATED = ("project", "owner", "flavour", "host", "image_version__image")
_RELATED_TO_ONE = (*_RELATED, "next_version__image", "cloned_from", "rescue_version__image", "rescue_iso")

# What people mean by a state, which is several columns: the filter of the list page.
CONDITIONS = {
    "running": Q(status=Status.READY, power_state=PowerState.RUNNING),
    "off": Q(status=Status.READY, power_state=PowerState.SHUT_OFF, saved_at=None),
    "hibernated": Q(status=Status.READY, saved_at__isnull=False),
    "busy": ~Q(task=Task.NONE),
    "failed": Q(status=Status.ERROR),
    "unknown": Q(status=Status.READY, power_state=PowerState.UNKNOWN),
}


def machine_for(
    user: User | AnonymousUser,
    pk: UUID | str,
    permission: Permission = Permission.MACHINE_VIEW,
    *,
    related: Sequence[str] = _RELATED_TO_ONE,
) -> Machine:
    """The machine, if `user` holds `permission`. NotFoundError if unseen or deleted, ForbiddenError if only seen.

    What comes along with it is half the time that this takes.
    """
    machine = Machine.objects.visible_to(user).live().select_related(*related).filter(pk=pk).first()
    if machine is None:
        raise NotFoundError
    # Who sees it holds that one.
    if permission != Permission.MACHINE_VIEW and permission not in permissions_on(user, machine):
        raise ForbiddenError
    return machine


def permissions_on(user: User | AnonymousUser, machine: Machine) -> frozenset[Permission]:
    """Everything that `user` may do with this machine: by role in its project, and by a grant."""
    by_role = permissions_in(user, machine.project_id)
    return by_role if by_role >= GRANTED else by_role | granted_on([(user, machine)]).get(machine.pk, frozenset())


def granted_on(pairs: Collection[tuple[User | AnonymousUser, Machine]]) -> dict[UUID, frozenset[Permission]]:
    """What one person's grants let them do, by the id of the machine; one query, or none."""
    found = grants_of((user, machine) for user, machine in pairs if isinstance(user, User))
    return {machine_id: GRANTED for _user, machine_id in found}


def grants_of(pairs: Iterable[tuple[User, Machine]]) -> set[tuple[int, UUID]]:
    """Which of these people (ids) have a grant of which of these machines that is alive; one query, or none.

    A token that is limited to one project brings its person no machine of another.
    """
    wanted = {
        (user.pk, machine.pk)
        for user, machine in pairs
        if user.is_active and user.limited_to in {None, machine.project_id}
    }
    if not wanted:
        return set()
    people, machines = {user for user, _machine in wanted}, {machine for _user, machine in wanted}
    grants = Grant.objects.alive().filter(user__in=people, machine__in=machines)
    return set(grants.values_list("user_id", "machine_id")) & wanted


def machines_for(
    user: User | AnonymousUser,
    *,
    search: str = "",
    status: str = "",
    kind: str = "",
    project: str = "",
    label: str = "",
) -> QuerySet[Machine]:
    """Rows for the list page, newest first; one query. Filters that mean nothing are ignored."""
    # What somebody was only granted is found where that is handed out: this is the list of their projects' machines.
    machines = Machine.objects.with_permission(user, Permission.MACHINE_VIEW).live()
    machines = machines.select_related(*_RELATED).prefetch_related("labels")
    if search:
        # People are looked up once, rather than joined to each of the machines.
        owners = User.objects.filter(username__icontains=search)
        # Machines' names have no capitals, and comparing without regard to them costs PostgreSQL as much again.
        machines = machines.filter(Q(name__contains=search.lower()) | Q(owner__in=owners.values("pk")))
    if status in Status.values:
        machines = machines.filter(status=status)
    elif status in CONDITIONS:
        machines = machines.filter(CONDITIONS[status])
    if kind:
        machines = machines.filter(kind=kind)
    if project:
        machines = machines.filter(project__name=project)
    if label:
        machines = machines.filter(labels__name=label)
    return machines


MOST_LABELS_OFFERED = 200


def labels_of(user: User | AnonymousUser) -> list[str]:
    """The labels of machines that the person sees, for a filter."""
    labels = MachineLabel.objects.filter(machine__status__in=LIVE)
    if not user.is_staff:
        labels = labels.filter(machine__project__in=Project.objects.with_permission(user, Permission.MACHINE_VIEW))
    return list(labels.order_by("name").values_list("name", flat=True).distinct()[:MOST_LABELS_OFFERED])


@dataclass(frozen=True, slots=True)
class Row:
    """A machine as a card or line shows it, with what may be done to it and what is happening to it."""

    machine: Machine
    actions: frozenset[str]
    job: Job | None

    @property
    def step(self) -> JobStep | None:
        return current_step(self.job) if self.job else None

    @property
    def progress(self) -> int:
        return overall_progress(self.job) if self.job else 0


def rows_for(user: User | AnonymousUser, machines: Iterable[Machine]) -> list[Row]:
    """Rows for machines that `user` sees; the number of queries does not depend on how many they are."""
    listed = list(machines)
    roles = {} if user.is_staff else roles_of(user)
    everything, nothing = frozenset(Permission), frozenset[Permission]()
    jobs = active_jobs_of("machine", [machine.pk for machine in listed])
    rows = []
    strange = [(user, machine) for machine in listed if not user.is_staff and machine.project_id not in roles]
    by_grant = granted_on(strange)
    for machine in listed:
        role = roles.get(machine.project_id)
        granted = everything if user.is_staff else ROLE_PERMISSIONS[role] if role else by_grant.get(machine.pk, nothing)
        rows.append(Row(machine, _actions(granted, machine), jobs.get(machine.pk)))
    return rows


def last_project_id(user: User) -> UUID | None:
    """Where the person made a machine last: the likeliest place for the next."""
    return Machine.objects.filter(owner=user).order_by("-created_at").values_list("project_id", flat=True).first()


def machine_by_id(pk: UUID | str) -> Machine:
    """For workers, which act for the portal itself. NotFoundError if there is none."""
    machine = Machine.objects.select_related(*_RELATED_TO_ONE).filter(pk=pk).first()
    if machine is None:
        raise NotFoundError
    return machine


def flavours() -> QuerySet[Flavour]:
    return Flavour.objects.filter(enabled=True)


def allowed_actions(user: User | AnonymousUser, machine: Machine) -> frozenset[str]:
    """Words of buttons to show, such as start, stop, reboot, force-off, hibernate, resize, devices (disks and network
    cards may be changed), delete, console, secret.
    """
    return _actions(permissions_on(user, machine), machine)


def _actions(granted: frozenset[Permission], machine: Machine) -> frozenset[str]:
    possible: set[str] = set()
    if Permission.MACHINE_OPERATE in granted:
        possible |= {"edit", *_power_actions(machine)}
    if Permission.MACHINE_CREATE in granted:
        possible |= _rescue_actions(machine)
    if Permission.MACHINE_DELETE in granted and machine.task not in {Task.DELETING, Task.BINNING}:
        possible.add("delete")
    possible |= _copying_actions(granted, machine)
    if Permission.MACHINE_CREATE in granted and _may_be_resized(machine):
        possible.add("resize")
    if Permission.MACHINE_CREATE in granted and _may_be_retried(machine):
        possible.add("retry")
    if machine.has_screen and Permission.MACHINE_CONSOLE_VIEW in granted:
        possible.add("console" if Permission.MACHINE_CONSOLE in granted else "console-view")
    if Permission.MACHINE_SECRET in granted:
        possible |= _secret_actions(machine)
    return frozenset(possible)


def _may_be_resized(machine: Machine) -> bool:
    return _may_be_defined_anew(machine) and not machine.is_in_rescue


def _may_be_defined_anew(machine: Machine) -> bool:
    is_ready = machine.status == Status.READY and machine.task == Task.NONE and machine.power_state in IS_KNOWN
    return is_ready and not machine.keeps_definition and not machine.is_hibernated


def _copying_actions(granted: frozenset[Permission], machine: Machine) -> set[str]:
    """What reads or replaces its disk as a whole. Of one that somebody else defined it is not known where it lies."""
    is_ready = machine.status == Status.READY and machine.task == Task.NONE and machine.power_state in IS_KNOWN
    if not is_ready or machine.keeps_definition or machine.missing_since is not None or machine.is_in_rescue:
        return set()
    rules = {
        "clone": Permission.MACHINE_CREATE in granted,
        "capture": Permission.IMAGE_CREATE in granted,
        "rebuild": Permission.MACHINE_DELETE in granted and not machine.protected,
    }
    return {word for word, possible in rules.items() if possible}


def _rescue_actions(machine: Machine) -> set[str]:
    if not _may_be_defined_anew(machine):
        return set()
    return {"unrescue" if machine.is_in_rescue else "rescue"}


def _secret_actions(machine: Machine) -> set[str]:
    rules = {
        "secret": bool(machine.login_password),
        "user-data": bool(machine.user_data),
        "rescue-secret": bool(machine.rescue_password) and machine.is_in_rescue,
        "access": _may_be_asked_inside(machine),
    }
    return {word for word, possible in rules.items() if possible}


def _may_be_asked_inside(machine: Machine) -> bool:
    """Its guest runs, and it is known as whom one signs in there."""
    runs = machine.status == Status.READY and machine.power_state == PowerState.RUNNING
    return runs and machine.task == Task.NONE and bool(machine.login_user) and not machine.is_in_rescue


def _may_be_retried(machine: Machine) -> bool:
    """Its building failed and everything was given back. A clone is made of its original again, as that is then."""
    is_back = machine.status == Status.ERROR and machine.task == Task.NONE and not machine.holds_quota
    return is_back and machine.cloned_from_id is None


def _power_actions(machine: Machine) -> set[str]:
    if machine.status != Status.READY:
        return set()
    free = machine.task == Task.NONE
    rules = {
        "start": free and machine.power_state in CAN_START,
        "pause": free and machine.power_state in CAN_PAUSE,
        "resume": free and machine.power_state in CAN_RESUME,
        "hibernate": free and machine.power_state in CAN_HIBERNATE and not machine.is_in_rescue,
        "discard": free and machine.is_hibernated,
        "stop": free and machine.power_state in CAN_STOP,
        "reboot": free and machine.power_state in CAN_REBOOT,
        "reset": machine.task in INTERRUPTIBLE and machine.power_state in CAN_REBOOT,
        "force-off": machine.task in INTERRUPTIBLE and machine.power_state in CAN_FORCE_OFF,
        "devices": free and _may_change_devices(machine),
    }
    return {word for word, possible in rules.items() if possible}


def _may_change_devices(machine: Machine) -> bool:
    there = machine.missing_since is None and not machine.is_hibernated and not machine.is_in_rescue
    return there and machine.power_state in CAN_CHANGE_DEVICES


def counts_by_condition() -> Mapping[str, int]:
    """For the operator's overview: how many machines run, are off, are being built, or failed."""
    # By groups, which an index alone answers; the few groups are sorted out here.
    groups = Machine.objects.live().order_by().values_list("status", "power_state").annotate(number=Count("*"))
    counts = dict.fromkeys(("running", "off", "unknown", "building", "failed", "total"), 0)
    for status, power_state, number in groups:
        counts["total"] += number
        if condition := _CONDITIONS.get(status) or (status == Status.READY and _POWER_CONDITIONS.get(power_state)):
            counts[condition] += number
    return counts


_CONDITIONS = {Status.REQUESTED: "building", Status.BUILDING: "building", Status.ERROR: "failed"}
_POWER_CONDITIONS = {PowerState.RUNNING: "running", PowerState.SHUT_OFF: "off", PowerState.UNKNOWN: "unknown"}


def password_of(user: User | AnonymousUser, pk: UUID | str) -> tuple[Machine, str]:
    """The first password in the guest, for those who may work on the machine. ForbiddenError otherwise."""
    machine = machine_for(user, pk, Permission.MACHINE_SECRET)
    if not machine.login_password:
        raise ForbiddenError
    return machine, unseal(machine.login_password)


def user_data_of(user: User | AnonymousUser, pk: UUID | str) -> tuple[Machine, str]:
    """The cloud-config that it was launched with, for those who may work on it. ForbiddenError otherwise."""
    machine = machine_for(user, pk, Permission.MACHINE_SECRET)
    if not machine.user_data:
        raise ForbiddenError
    return machine, unseal(machine.user_data)


def rescue_password_of(user: User | AnonymousUser, pk: UUID | str) -> tuple[Machine, str]:
    """The password in the rescue system that it runs from, for those who may work on it. ForbiddenError otherwise."""
    machine = machine_for(user, pk, Permission.MACHINE_SECRET)
    if not machine.rescue_password:
        raise ForbiddenError
    return machine, unseal(machine.rescue_password)


def machines_in_error(*, limit: int = 10) -> list[Machine]:
    """For the operator's overview: machines whose building failed or whose last work did, newest trouble first."""
    wrong = Machine.objects.live().filter(Q(status=Status.ERROR) | ~Q(error_message=""))
    return list(wrong.select_related("project", "owner", "host").order_by("-created_at")[:limit])


def machines_on(host: Host) -> QuerySet[Machine]:
    """What is on a host, for operators."""
    return Machine.objects.live().filter(host=host).select_related("project", "owner", "flavour").order_by("name")


def machines_counted_in(project: Project) -> QuerySet[Machine]:
    """The machines that a project's quota is used by, largest first."""
    counted = Machine.objects.filter(project=project, holds_quota=True)
    return counted.select_related("owner", "flavour").order_by("-memory_mib", "name")
