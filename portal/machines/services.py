"""Writes about machines. Requests of people validate, claim the state, write the audit row and enqueue on commit; what
workers found out is recorded by the `record_*` half. None of them ever calls a hypervisor."""

import datetime as dt
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import quota
from portal.accounts.models import Project, SshKey, User
from portal.accounts.permissions import Permission
from portal.accounts.quota import NOTHING, Amount
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, InvalidError, NotFoundError
from portal.events.kinds import Kind
from portal.hosts import services as hosts
from portal.images.models import ImageVersion, VersionStatus
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE, JobName
from portal.jobs.selectors import active_job_of
from portal.lib.secrets import new_password, seal
from portal.machines import events, userdata
from portal.machines.models import Attachment, Flavour, Machine, NetworkCard
from portal.machines.states import (
    CAN_FORCE_OFF,
    CAN_PAUSE,
    CAN_REBOOT,
    CAN_RESUME,
    CAN_START,
    CAN_STOP,
    INTERRUPTIBLE,
    KEPT,
    LIVE,
    PowerState,
    Status,
    Task,
)
from portal.machines.validators import clean_ssh_key, validate_login_user, validate_machine_name
from portal.parents import selectors as parents

# --- what people ask for ------------------------------------------------------------------------------------------


def request_machine(
    project: Project,
    *,
    actor: User,
    image_version: ImageVersion,
    flavour: Flavour,
    name: str,
    login_user: str,
    ssh_key: str = "",
    user_data: str = "",
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> Machine:
    """Reserve quota and a host, and have the machine built. The same `request_key` gives the same machine again."""
    require(actor, project.pk, Permission.MACHINE_CREATE)
    return make_machine(
        project,
        actor=actor,
        image_version=image_version,
        flavour=flavour,
        name=name,
        login_user=login_user,
        ssh_key=ssh_key,
        user_data=user_data,
        request_key=request_key,
        request_ip=request_ip,
    )


def make_machine(
    project: Project,
    *,
    actor: User | None,
    image_version: ImageVersion,
    flavour: Flavour,
    name: str,
    login_user: str,
    ssh_key: str = "",
    user_data: str = "",
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> Machine:
    """As `request_machine`, for whoever was asked about permission already; without an actor it is nobody's yet."""
    earlier = machine_of_request(project, request_key)
    if earlier is not None:
        return earlier
    key = _checked(name=name, login_user=login_user, ssh_key=ssh_key)
    extra = userdata.checked(user_data, login_user=login_user)
    check_fits(image_version, project, flavour)
    try:
        with transaction.atomic():
            return _create(
                project,
                actor=actor,
                image_version=image_version,
                flavour=flavour,
                name=name,
                login_user=login_user,
                ssh_key=key,
                user_data=extra,
                request_key=request_key,
                request_ip=request_ip,
            )
    except IntegrityError as error:
        # The other of two requests at once may have been the same one (a double click) or one of the same name.
        earlier = machine_of_request(project, request_key)
        if earlier is not None:
            return earlier
        raise name_is_taken(name) from error


def _create(
    project: Project,
    *,
    actor: User | None,
    image_version: ImageVersion,
    flavour: Flavour,
    name: str,
    login_user: str,
    ssh_key: str,
    user_data: str,
    request_key: UUID | None,
    request_ip: str | None,
) -> Machine:
    quota.reserve(project.pk, flavour.amount)
    machine = _new(
        project,
        owner=actor,
        image_version=image_version,
        flavour=flavour,
        host=hosts.reserve_capacity(flavour.amount, rather=_where_it_can_be_forked(image_version, flavour, user_data)),
        request_key=request_key or uuid4(),
        name=name,
        login_user=login_user,
        ssh_key=ssh_key,
        user_data=seal(user_data),
        mac=new_mac(),
    )
    machine.save(force_insert=True)
    if actor is not None:
        _remember_key(actor, ssh_key)
    audit.record(
        actor,
        "machine.requested",
        machine,
        detail={"image": str(image_version), "flavour": flavour.name},
        request_ip=request_ip,
    )
    events.record(Kind.MACHINE_REQUESTED, machine, actor=actor, image=str(image_version), flavour=flavour.name)
    jobs.enqueue(JobName.MACHINE_CREATE, machine, queue=machine.host.queue, actor=actor)
    events.machine_changed(machine)
    return machine


@transaction.atomic
def make_many(
    project: Project, wanted: Sequence[tuple[str, str]], *, image_version: ImageVersion, flavour: Flavour
) -> list[Machine]:
    """Machines of nobody's that are all alike, each with its name and its user inside; a few statements for all.

    All of them or, with a PortalError or an IntegrityError (a name that is taken), none.
    """
    for name, login_user in wanted:
        _checked(name=name, login_user=login_user, ssh_key="")
    check_fits(image_version, project, flavour)
    quota.reserve(project.pk, flavour.amount.times(len(wanted)))
    rather = _where_it_can_be_forked(image_version, flavour, "")
    placed = hosts.reserve_many(flavour.amount, len(wanted), rather=rather)
    macs = _new_macs(len(wanted))
    machines = [
        _new(
            project,
            owner=None,
            image_version=image_version,
            flavour=flavour,
            host=host,
            name=name,
            login_user=login_user,
            mac=mac,
        )
        for (name, login_user), host, mac in zip(wanted, placed, macs, strict=True)
    ]
    Machine.objects.bulk_create(machines)
    told = {"image": str(image_version), "flavour": flavour.name}
    audit.record_many(None, "machine.requested", machines, detail=told)
    events.record_many(Kind.MACHINE_REQUESTED, machines, told)
    jobs.enqueue_many(JobName.MACHINE_CREATE, [(one, one.host.queue) for one in machines], project=project)
    events.machines_changed(machines)
    return machines


def _new(
    project: Project,
    *,
    owner: User | None,
    image_version: ImageVersion,
    flavour: Flavour,
    **values: Any,
) -> Machine:
    return Machine(
        project=project,
        owner=owner,
        kind=image_version.image.kind,
        image_version=image_version,
        flavour=flavour,
        vcpus=flavour.vcpus,
        memory_mib=flavour.memory_mib,
        disk_gib=flavour.disk_gib,
        login_password=seal(new_password()),
        task=Task.BUILDING,
        task_since=timezone.now(),
        **values,
    )


def _where_it_can_be_forked(version: ImageVersion, flavour: Flavour, user_data: str) -> list[UUID]:
    """Hosts on which it would be there in a moment; a cloud-config of one's own is for a first start."""
    if user_data:
        return []
    return parents.hosts_with(version, parents.Size(flavour.vcpus, flavour.memory_mib, flavour.disk_gib))


def request_start(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return claim(machine, JobName.MACHINE_START, Task.STARTING, CAN_START, actor=actor, request_ip=request_ip)


def request_stop(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return claim(machine, JobName.MACHINE_STOP, Task.STOPPING, CAN_STOP, actor=actor, request_ip=request_ip)


def request_reboot(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return claim(machine, JobName.MACHINE_REBOOT, Task.REBOOTING, CAN_REBOOT, actor=actor, request_ip=request_ip)


def request_reset(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return claim(
        machine, JobName.MACHINE_RESET, Task.RESETTING, CAN_REBOOT, INTERRUPTIBLE, actor=actor, request_ip=request_ip
    )


def request_force_off(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return claim(
        machine,
        JobName.MACHINE_FORCE_OFF,
        Task.FORCING_OFF,
        CAN_FORCE_OFF,
        INTERRUPTIBLE,
        actor=actor,
        request_ip=request_ip,
    )


def request_pause(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return claim(machine, JobName.MACHINE_PAUSE, Task.PAUSING, CAN_PAUSE, actor=actor, request_ip=request_ip)


def request_resume(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return claim(machine, JobName.MACHINE_RESUME, Task.RESUMING, CAN_RESUME, actor=actor, request_ip=request_ip)


# What makes sense while it runs from a rescue system. Everything else would be done to that, or undo what it does.
ALSO_IN_RESCUE = frozenset(
    {JobName.MACHINE_START, JobName.MACHINE_STOP, JobName.MACHINE_REBOOT, JobName.MACHINE_RESET}
    | {JobName.MACHINE_FORCE_OFF, JobName.MACHINE_PAUSE, JobName.MACHINE_RESUME, JobName.MACHINE_UNRESCUE}
)
NOT_IN_RESCUE: dict[str, object] = {"rescue_version": None, "rescue_iso": None}


@transaction.atomic
def claim(
    machine: Machine,
    name: JobName,
    task: Task,
    power_states: Collection[PowerState],
    from_tasks: Collection[Task] = (Task.NONE,),
    *,
    actor: User | None,
    request_ip: str | None,
    permission: Permission = Permission.MACHINE_OPERATE,
    where: Q | None = None,
    then: Callable[[Machine], None] | None = None,
    detail: dict[str, object] | None = None,
) -> Job:
    """Claim the machine for a job. The same request again, while it is under way, gives the job under way.

    `where` narrows which machines may be claimed; of those in rescue only what ALSO_IN_RESCUE names. `then` changes the
    claimed row further, or refuses by a PortalError. Without an actor it is the clock, which was told to do it by
    somebody who might.
    """
    if actor is not None:
        require(actor, machine.project_id, permission)
    also_in_rescue = name in ALSO_IN_RESCUE
    claimed = (
        Machine.objects.filter(
            where or Q(), pk=machine.pk, status=Status.READY, task__in=from_tasks, power_state__in=power_states
        )
        .filter(Q() if also_in_rescue else Q(**NOT_IN_RESCUE))
        .update(task=task, task_since=timezone.now())
    )
    if claimed != 1:
        under_way = same_job_under_way(machine, name)
        if under_way is not None:
            return under_way
        raise ConflictError(why_not(machine, in_rescue=not also_in_rescue))
    for job in Job.objects.filter(target_type="machine", target_id=machine.pk, status__in=ACTIVE):
        jobs.request_cancel(job)  # The gentler job that this one replaces.
    if then is not None:
        then(machine)
    audit.record(actor, name.value, machine, detail=detail, request_ip=request_ip)
    job = jobs.enqueue(name, machine, queue=machine.host.queue, actor=actor)
    events.machine_changed(machine)
    return job


def request_delete(
    machine: Machine, *, actor: User, request_ip: str | None = None, delete_volumes: Collection[UUID] | None = None
) -> Job:
    """Have the machine removed for good, whatever it is doing: running work is asked to stop first.

    Past the project's bin, or out of it, this needs a permission of its own. `delete_volumes` are the ids of its
    volumes that go with it; None leaves that to what each was attached with.
    """
    past_the_bin = machine.status == Status.BINNED or goes_to_bin(machine)
    permission = Permission.MACHINE_PURGE if past_the_bin else Permission.MACHINE_DELETE
    require(actor, machine.project_id, permission)
    return delete_for_good(machine, actor=actor, request_ip=request_ip, delete_volumes=delete_volumes)


def goes_to_bin(machine: Machine) -> bool:
    """What was built, in a project that keeps what is deleted for some days."""
    return machine.status == Status.READY and machine.project.bin_days > 0


@transaction.atomic
def delete_for_good(
    machine: Machine,
    *,
    actor: User | None,
    request_ip: str | None = None,
    delete_volumes: Collection[UUID] | None = None,
) -> Job:
    """As `request_delete`, for whoever was asked about permission already; without an actor it is the clock."""
    existing = Machine.objects.filter(pk=machine.pk, status__in=KEPT)
    claimed = existing.filter(protected=False).exclude(task=Task.DELETING)
    if claimed.update(task=Task.DELETING, task_since=timezone.now()) != 1:
        under_way = same_job_under_way(machine, JobName.MACHINE_DELETE)
        if under_way is not None:
            return under_way
        refuse_protected(machine)
        raise NotFoundError
    for job in Job.objects.filter(target_type="machine", target_id=machine.pk, status__in=ACTIVE):
        jobs.request_cancel(job)
    if delete_volumes is not None:
        volumes = Attachment.objects.filter(machine=machine, volume__isnull=False, volume__personal=False)
        volumes.update(delete_with_machine=False)  # Apart: “is one of none” as a value would make no UPDATE at all.
        volumes.filter(volume__in=delete_volumes).update(delete_with_machine=True)
    audit.record(actor, JobName.MACHINE_DELETE.value, machine, request_ip=request_ip)
    job = jobs.enqueue(JobName.MACHINE_DELETE, machine, queue=machine.host.queue, actor=actor)
    events.machine_changed(machine)
    return job


@transaction.atomic
def delete_many(project: Project, machines: Collection[Machine]) -> list[Machine]:
    """As `delete_for_good`, the clock's, of machines of one project; a few statements for all. Those that it was done
    to: one that is protected, or being deleted already, is not among them.
    """
    free = Machine.objects.filter(status__in=KEPT, protected=False).exclude(task=Task.DELETING)
    keys = [machine.pk for machine in machines]
    claimed = set(free.filter(pk__in=keys).select_for_update().values_list("pk", flat=True))
    free.filter(pk__in=claimed).update(task=Task.DELETING, task_since=timezone.now())
    under_way = Job.objects.filter(target_type="machine", target_id__in=claimed, status__in=ACTIVE)
    under_way.update(cancel_requested=True)
    gone = [machine for machine in machines if machine.pk in claimed]
    audit.record_many(None, JobName.MACHINE_DELETE.value, gone)
    jobs.enqueue_many(JobName.MACHINE_DELETE, [(one, one.host.queue) for one in gone], project=project)
    events.machines_changed(gone)
    return gone


def refuse_protected(machine: Machine) -> None:
    """ConflictError if it is protected from deletion."""
    if Machine.objects.filter(pk=machine.pk, protected=True).exists():
        raise ConflictError(
            _("%(name)s is protected from deletion. Take the protection off first, where its name is changed.")
            % {"name": machine.name}
        )


def request_retry(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    """Build a machine again whose building failed: quota and host are reserved anew. Asked twice it is built once."""
    require(actor, machine.project_id, Permission.MACHINE_CREATE)
    if machine.cloned_from_id is not None:
        raise ConflictError(_("A clone cannot be built again: clone its original once more."))
    with transaction.atomic():
        claimed = Machine.objects.filter(pk=machine.pk, status=Status.ERROR, task=Task.NONE, holds_quota=False).update(
            status=Status.REQUESTED, task=Task.BUILDING, task_since=timezone.now(), error_message="", holds_quota=True
        )
        if claimed != 1:
            under_way = same_job_under_way(machine, job_that_builds(machine))
            if under_way is not None:
                return under_way
            raise ConflictError(why_not(machine))
        quota.reserve(machine.project_id, machine.amount)
        version, flavour = machine.image_version, machine.flavour
        rather = _where_it_can_be_forked(version, flavour, machine.user_data) if version and flavour else ()
        host = hosts.reserve_capacity(machine.amount, rather=rather)
        Machine.objects.filter(pk=machine.pk).update(host=host)
        audit.record(actor, "machine.retried", machine, request_ip=request_ip)
        machine.refresh_from_db()
        events.record(Kind.MACHINE_REQUESTED, machine, actor=actor, again=True)
        job = jobs.enqueue(job_that_builds(machine), machine, queue=host.queue, actor=actor)
        events.machine_changed(machine)
        return job


def job_that_builds(machine: Machine) -> JobName:
    return JobName.MACHINE_INSTALL if machine.iso_name else JobName.MACHINE_CREATE


# --- what workers found out ---------------------------------------------------------------------------------------


def record_building(machine: Machine) -> None:
    _update(machine, Machine.objects.filter(status=Status.REQUESTED), status=Status.BUILDING)


def record_made(machine: Machine, **how: object) -> None:
    """How it came to run, and from what; see `portal.machines.forking`."""
    _update(machine, Machine.objects.filter(task=Task.BUILDING), **how)


def record_secret(machine: Machine, secret: str) -> None:
    """The VNC secret of the next start, stored before the domain knows it, so that it is never lost."""
    _update(machine, console_secret=seal(secret))


@transaction.atomic
def record_started(machine: Machine, *, console_socket: str, serial_socket: str = "") -> None:
    """The domain runs and its screen and serial port can be reached; the guest now has its time to come up."""
    now = timezone.now()
    # The watcher may have heard of it first: only one of the two tells of it.
    if _update(
        machine,
        Machine.objects.exclude(power_state=PowerState.RUNNING),
        power_state=PowerState.RUNNING,
    ):
        events.record_power(machine, PowerState.RUNNING)
    _update(
        machine,
        power_state_at=now,
        console_socket=console_socket,
        serial_socket=serial_socket,
        boot_deadline=now + dt.timedelta(seconds=settings.GUEST_BOOT_TIMEOUT_S),
    )
    events.screen_came(machine)


@transaction.atomic
def record_power_state(machine_id: UUID, state: PowerState, *, at: dt.datetime) -> bool:
    """What the hypervisor said at `at`; older news than what is known is dropped. True if it changed something."""
    values: dict[str, object] = {"power_state": state, "power_state_at": at}
    if state == PowerState.SHUT_OFF:
        values["console_socket"] = ""
    rows = Machine.objects.filter(pk=machine_id, status__in=LIVE).exclude(power_state=state)
    changed = rows.known_before(at).update(**values)
    if changed:
        if state == PowerState.SHUT_OFF:
            settle_size(machine_id)
        machine = Machine.objects.get(pk=machine_id)
        events.record_power(machine, state)
        events.machine_changed(machine)
    return changed == 1


@transaction.atomic
def record_host_silent(host_id: UUID) -> None:
    """The host does not answer: what its machines do is unknown from now on, and nothing else."""
    now = timezone.now()
    known = Machine.objects.filter(host=host_id, status=Status.READY).exclude(power_state=PowerState.UNKNOWN)
    machines = list(known)
    known.filter(pk__in=[machine.pk for machine in machines]).update(power_state=PowerState.UNKNOWN, power_state_at=now)
    for machine in machines:
        events.record_power(machine, PowerState.UNKNOWN)
        events.machine_changed(machine)


def record_console(machine: Machine, *, console_socket: str, serial_socket: str = "") -> None:
    """Where screen and serial port of a running domain are, found again after a restart of something."""
    places = {"console_socket": console_socket, "serial_socket": serial_socket}
    _update(machine, Machine.objects.exclude(**places), **places)


def record_addresses(machine: Machine, addresses: Collection[str]) -> None:
    _update(machine, Machine.objects.exclude(addresses=list(addresses)), addresses=list(addresses))


@transaction.atomic
def record_ready(machine: Machine) -> None:
    if _update(
        machine,
        Machine.objects.filter(task=Task.BUILDING),
        status=Status.READY,
        task=Task.NONE,
        task_since=None,
        ready_at=timezone.now(),
        boot_deadline=None,
        error_message="",
    ):
        events.record(Kind.MACHINE_BUILT, machine, addresses=list(machine.addresses))


@transaction.atomic
def record_build_failed(machine: Machine, *, message: str) -> None:
    """Building failed and everything on the host was taken back, so quota and capacity are free again."""
    if _update(
        machine,
        Machine.objects.filter(task=Task.BUILDING),
        status=Status.ERROR,
        task=Task.NONE,
        task_since=None,
        power_state=PowerState.SHUT_OFF,
        console_socket="",
        addresses=[],
        error_message=message,
        missing_since=None,
        **NOT_FORKED,
    ):
        events.record(Kind.MACHINE_BUILD_FAILED, machine, error=message)
    release_resources(machine)


def record_task_ended(machine: Machine, task: Task, *, message: str = "") -> None:
    """`task` is over, well or (with a message) not; another task that took over meanwhile is left alone."""
    _update(machine, Machine.objects.filter(task=task), task=Task.NONE, task_since=None, error_message=message)


@transaction.atomic
def release_resources(machine: Machine) -> None:
    """Give quota and host capacity back, exactly once whoever calls how often."""
    if Machine.objects.filter(pk=machine.pk, holds_quota=True).update(holds_quota=False) == 1:
        held = Machine.objects.get(pk=machine.pk).amount  # Another size may have come since `machine` was read.
        quota.release(machine.project_id, held)
        hosts.release_capacity(machine.host, held)


# The columns of a machine that starts from its own disk.
RESCUE_OVER: dict[str, object] = {
    "rescue_version_id": None,
    "rescue_iso_id": None,
    "rescue_key": None,
    "rescue_password": "",
    "rescued_at": None,
}

# The columns of a machine whose disk reads from no parent's, and that was not made from one.
NOT_FORKED: dict[str, object] = {"parent": None, "made_by": "", "made_by_reason": "", "forked_at": None}

Change = Callable[[Machine], dict[str, object]]


@transaction.atomic
def change_held(machine_id: UUID, where: Q, change: Change) -> bool:
    """Change columns that what a machine holds is counted by, and quota and host capacity by the difference.

    True if it was done, and there was something to change: exactly once, for `where` is looked at under the row's lock.
    QuotaExceededError or NoCapacityError, and nothing is changed, where there is no room for more.
    """
    machine = Machine.objects.select_for_update().filter(where, pk=machine_id, status__in=KEPT).first()
    if machine is None:
        return False
    before = machine.amount
    values = change(machine)
    if not values or Machine.objects.filter(where, pk=machine_id, status__in=KEPT).update(**values) != 1:
        return False
    for name, value in values.items():
        setattr(machine, name, value)
    if machine.holds_quota:
        _move(machine, before, machine.amount)
    events.machine_changed(machine)
    return True


def _move(machine: Machine, before: Amount, after: Amount) -> None:
    more, less = after.beyond(before), before.beyond(after)
    if more != NOTHING:
        quota.reserve(machine.project_id, more)
        hosts.reserve_more(machine.host, more)
    if less != NOTHING:
        quota.release(machine.project_id, less)
        hosts.release_capacity(machine.host, less)


def settle_size(machine_id: UUID) -> bool:
    """The machine is off, so the size of its next start is its size now. What it held besides is given back."""
    waits = Q(wanted_vcpus__isnull=False, saved_at=None)
    busy = Q(task__in=[Task.RESIZING, Task.HIBERNATING, Task.RESTORING])
    return change_held(machine_id, waits & ~busy, size_taken)


def size_taken(machine: Machine) -> dict[str, object]:
    """The columns of a machine that has the size which it waited for."""
    vcpus, memory_mib = machine.wanted_vcpus or machine.vcpus, machine.wanted_memory_mib or machine.memory_mib
    return {
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "flavour_id": machine.wanted_flavour_id or machine.flavour_id,
        **NO_SIZE_WANTED,
    }


NO_SIZE_WANTED: dict[str, object] = {"wanted_vcpus": None, "wanted_memory_mib": None, "wanted_flavour_id": None}


def record_room(machine: Machine, *, vcpus: int, memory_mib: int) -> None:
    """The most that its definition lets it have while it runs; written down before the domain knows it."""
    changed = Machine.objects.exclude(room_vcpus=vcpus, room_memory_mib=memory_mib)
    _update(machine, changed, room_vcpus=vcpus, room_memory_mib=memory_mib)


@transaction.atomic
def record_deleted(machine: Machine) -> None:
    """Nothing of it is left on the host. The row stays for the history, without its secrets."""
    release_resources(machine)
    if _update(
        machine,
        status=Status.DELETED,
        task=Task.NONE,
        task_since=None,
        power_state=PowerState.SHUT_OFF,
        console_socket="",
        console_secret="",
        login_password="",
        next_password="",
        user_data="",
        saved_at=None,
        saved_gib=0,
        purge_at=None,
        addresses=[],
        missing_since=None,
        deleted_at=timezone.now(),
        parent=None,
        **RESCUE_OVER,
    ):
        events.record(Kind.MACHINE_DELETED, machine)


# --- helpers ------------------------------------------------------------------------------------------------------


def new_mac() -> str:
    """A random address in the range that QEMU uses for itself, which no machine has or had.

    The range has sixteen million: of fifty thousand machines every three-hundredth new one would meet an old one.
    """
    while True:
        mac = _random_mac()
        if not Machine.objects.filter(mac=mac).exists() and not NetworkCard.objects.filter(mac=mac).exists():
            return mac


def _new_macs(count: int) -> list[str]:
    """As `new_mac`, so many that differ."""
    macs: set[str] = set()
    while len(macs) < count:
        wanted = {_random_mac() for _ in range(count - len(macs))}
        used = set(Machine.objects.filter(mac__in=wanted).values_list("mac", flat=True))
        used |= set(NetworkCard.objects.filter(mac__in=wanted).values_list("mac", flat=True))
        macs |= wanted - used
    return list(macs)


def _random_mac() -> str:
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


def suggest_name(project: Project, *, kind: str) -> str:
    """A name that is free in the project, such as desktop-3."""
    alike = Machine.objects.live().filter(project=project, name__startswith=f"{kind}-").order_by()
    taken = set(alike.values_list("name", flat=True))
    return next(name for number in range(1, len(taken) + 2) if (name := f"{kind}-{number}") not in taken)


def tell(machine_id: UUID) -> None:
    """The browsers, that its row has changed."""
    events.machine_changed(Machine.objects.get(pk=machine_id))


def _update(machine: Machine, rows: object = None, **values: object) -> bool:
    """Change columns of a machine that is not deleted, and tell the browsers. `rows` narrows when to do it."""
    queryset = Machine.objects.all() if rows is None else rows
    changed: int = queryset.filter(pk=machine.pk, status__in=KEPT).update(**values)  # type: ignore[attr-defined]
    if changed:
        for field, value in values.items():
            setattr(machine, field, value)
        events.machine_changed(machine)
    return changed == 1


def check_name(name: str) -> None:
    try:
        validate_machine_name(name)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="name") from error


def _checked(*, name: str, login_user: str, ssh_key: str) -> str:
    """Validate what was typed; the normalised key is given back."""
    check_name(name)
    try:
        validate_login_user(login_user)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="login_user") from error
    try:
        return clean_ssh_key(ssh_key)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="ssh_key") from error


def check_fits(version: ImageVersion, project: Project, flavour: Flavour) -> None:
    """That machines of the project can be made from this version in this size; else a PortalError says why not."""
    image = version.image
    if image.project_id not in (None, project.pk) or version.status == VersionStatus.DELETING:
        raise NotFoundError
    if version.status != VersionStatus.READY:
        raise ConflictError(_("This image is not ready yet."), field="image")
    if not flavour.enabled:
        raise InvalidError(_("This size is no longer offered."), field="flavour")
    if flavour.memory_mib < image.min_memory_mib:
        raise InvalidError(
            _("%(image)s needs at least %(memory)s MiB of memory; choose a larger size.")
            % {"image": image.title, "memory": image.min_memory_mib},
            field="flavour",
        )
    if flavour.disk_gib * 1024**3 < version.virtual_size_bytes:
        raise InvalidError(
            _("%(image)s needs a disk of at least %(disk)s GiB; choose a larger size.")
            % {"image": image.title, "disk": -(-version.virtual_size_bytes // 1024**3)},
            field="flavour",
        )


def name_is_taken(name: str) -> ConflictError:
    return ConflictError(
        _("There is a machine named %(name)s in this project already, or in its bin.") % {"name": name}, field="name"
    )


def machine_of_request(project: Project, request_key: UUID | None) -> Machine | None:
    if request_key is None:
        return None
    return Machine.objects.filter(project=project, request_key=request_key).first()


def same_job_under_way(machine: Machine, name: JobName) -> Job | None:
    job = active_job_of(machine)
    return job if job is not None and job.name == name and not job.cancel_requested else None


def _remember_key(actor: User, ssh_key: str) -> None:
    if ssh_key:
        label = (ssh_key.split(maxsplit=2)[2:] or [ssh_key.split(maxsplit=1)[0]])[0][:100]
        SshKey.objects.update_or_create(
            user=actor, name=label, defaults={"public_key": ssh_key, "used_at": timezone.now()}
        )


def why_not(machine: Machine, *, in_rescue: bool = False) -> str:
    """Which state the machine is in, for someone whose request does not fit it; `in_rescue` if it does not fit that."""
    machine.refresh_from_db()
    if machine.task != Task.NONE:
        return _("%(name)s is busy: %(task)s. Try again when that has ended.") % {
            "name": machine.name,
            "task": machine.get_task_display(),
        }
    if machine.status != Status.READY:
        return _("%(name)s cannot do this while it is “%(status)s”.") % {
            "name": machine.name,
            "status": machine.get_status_display(),
        }
    if in_rescue and machine.is_in_rescue:
        return _("%(name)s runs from a rescue system. Bring it back to its own disk first.") % {"name": machine.name}
    if machine.is_hibernated:
        return _("%(name)s is hibernated. Wake it first, or have its saved memory forgotten.") % {"name": machine.name}
    return _("%(name)s is %(power)s already.") % {"name": machine.name, "power": machine.get_power_state_display()}
