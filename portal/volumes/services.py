"""Writes about volumes by themselves. What machines do with them is in `portal.machines.disks`, which claims a volume
here first: of two who want the same one, one changes exactly one row."""

from collections.abc import Collection
from uuid import UUID, uuid4

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import quota
from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, NoCapacityError, NotFoundError
from portal.events.kinds import Kind
from portal.hosts import services as hosts
from portal.hosts.models import Host
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.jobs.selectors import active_job_of
from portal.volumes import events
from portal.volumes.models import Volume, disk_amount
from portal.volumes.states import CAN_ATTACH, CAN_DELETE, LIVE, Status, Task
from portal.volumes.validators import check_size, clean_name

# --- what people ask for ------------------------------------------------------------------------------------------


def request_volume(
    project: Project,
    *,
    actor: User,
    name: str,
    size_gib: int,
    host: Host | None = None,
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> Volume:
    """Reserve quota and a place, and have the volume made; beside a machine if its `host` is said. The same
    `request_key` gives the same volume again.
    """
    earlier = _volume_of_request(project, request_key)
    if earlier is not None:
        require(actor, project.pk, Permission.MACHINE_CREATE)
        return earlier
    try:
        with transaction.atomic():
            volume = create(
                project, actor=actor, name=name, size_gib=size_gib, host=host, task=Task.CREATING, key=request_key
            )
            audit.record(actor, JobName.VOLUME_CREATE.value, volume, detail=_size(size_gib), request_ip=request_ip)
            jobs.enqueue(JobName.VOLUME_CREATE, volume, queue=volume.host.queue, actor=actor)
            return volume
    except IntegrityError as error:
        earlier = _volume_of_request(project, request_key)
        if earlier is not None:
            return earlier
        raise name_is_taken(name) from error


def create(
    project: Project,
    *,
    actor: User,
    name: str,
    size_gib: int,
    host: Host | None,
    task: Task,
    key: UUID | None = None,
) -> Volume:
    """The row, with quota and capacity reserved, for a caller who has it made. IntegrityError if the name is taken."""
    require(actor, project.pk, Permission.MACHINE_CREATE)
    name = clean_name(name)
    check_size(size_gib)
    return _add(
        project, name=name, size_gib=size_gib, host=host, task=task, created_by=actor, request_key=key or uuid4()
    )


def create_personal(project: Project, *, name: str, size_gib: int, host: Host, task: Task) -> Volume:
    """The row of somebody's own one, which the portal makes for them wherever they may work. As `create` otherwise."""
    return _add(
        project, name=clean_name(name), size_gib=size_gib, host=host, task=task, personal=True, request_key=uuid4()
    )


def _add(project: Project, *, size_gib: int, host: Host | None, task: Task, **values: object) -> Volume:
    quota.reserve(project.pk, disk_amount(size_gib))
    volume = Volume.objects.create(
        project=project,
        size_gib=size_gib,
        host=_reserve_on(host, size_gib),
        task=task,
        task_since=timezone.now(),
        **values,
    )
    events.volume_changed(volume)
    return volume


def _reserve_on(host: Host | None, size_gib: int) -> Host:
    if host is not None:
        hosts.reserve_disk(host, size_gib)
        return host
    try:
        return hosts.reserve_capacity(disk_amount(size_gib))
    except NoCapacityError as error:
        raise NoCapacityError(
            _("No host has room for a disk of %(size)s GiB just now. Choose a smaller one, or ask an operator.")
            % {"size": size_gib}
        ) from error


@transaction.atomic
def request_grow(volume: Volume, *, actor: User, size_gib: int, request_ip: str | None = None) -> Job:
    """Make a free volume larger. One that a machine has grows by way of the machine."""
    require(actor, volume.project_id, Permission.MACHINE_OPERATE)
    check_size(size_gib, more_than=volume.size_gib)
    claim_or_refuse(volume, Task.GROWING, CAN_ATTACH)
    reserve_growth(volume.project, volume.host, size_gib - volume.size_gib)
    Volume.objects.filter(pk=volume.pk).update(wanted_gib=size_gib)
    audit.record(actor, JobName.VOLUME_GROW.value, volume, detail=_size(size_gib), request_ip=request_ip)
    return jobs.enqueue(JobName.VOLUME_GROW, volume, queue=volume.host.queue, actor=actor)


@transaction.atomic
def request_delete(volume: Volume, *, actor: User, request_ip: str | None = None) -> Job:
    """Have a volume removed that no machine has. What is on it is lost. Not for somebody's own files."""
    require(actor, volume.project_id, Permission.MACHINE_DELETE)
    if volume.personal:
        raise ConflictError(_("These are somebody's own files. They are deleted on the page of people's files."))
    return delete(volume, actor=actor, request_ip=request_ip)


def delete(volume: Volume, *, actor: User | None, request_ip: str | None = None) -> Job:
    """As `request_delete`, for whoever has asked about permission already. Inside the caller's transaction."""
    if not claim(volume, Task.DELETING, CAN_DELETE):
        under_way = active_job_of(volume)
        if under_way is not None and under_way.name == JobName.VOLUME_DELETE:
            return under_way
        raise why_not(volume)
    audit.record(actor, JobName.VOLUME_DELETE.value, volume, request_ip=request_ip)
    return jobs.enqueue(JobName.VOLUME_DELETE, volume, queue=volume.host.queue, actor=actor)


# --- claims, for whoever works with a volume ------------------------------------------------------------------------


def claim(volume: Volume, task: Task, statuses: Collection[Status]) -> bool:
    """Become the one who does something with it. True if it was idle and in one of these states."""
    changed = Volume.objects.filter(pk=volume.pk, task=Task.NONE, status__in=statuses).update(
        task=task, task_since=timezone.now(), error_message=""
    )
    if changed:
        events.volume_changed(volume)
    return changed == 1


def claim_or_refuse(volume: Volume, task: Task, statuses: Collection[Status]) -> None:
    if not claim(volume, task, statuses):
        raise why_not(volume)


def reserve_growth(project: Project, host: Host, more_gib: int) -> None:
    """QuotaExceededError or NoCapacityError, and nothing is reserved once the caller's transaction is rolled back."""
    quota.reserve(project.pk, disk_amount(more_gib))
    hosts.reserve_disk(host, more_gib)


def release_growth(project: Project, host: Host, more_gib: int) -> None:
    """Of a disk that did not grow. The caller does this exactly once, by the transition that ends the growing."""
    quota.release(project.pk, disk_amount(more_gib))
    hosts.release_capacity(host, disk_amount(more_gib))


def why_not(volume: Volume) -> ConflictError | NotFoundError:
    """Which state the volume is in, for someone whose request does not fit it."""
    now = Volume.objects.get(pk=volume.pk)
    if now.status == Status.DELETED:
        return NotFoundError()
    words = now.get_task_display() if now.task else now.get_status_display()
    return ConflictError(_("%(name)s cannot do this now: %(state)s.") % {"name": now.name, "state": words})


def name_is_taken(name: str) -> ConflictError:
    return ConflictError(
        _("There is a volume named %(name)s in this project already.") % {"name": name.strip()}, field="name"
    )


# --- what workers found out -----------------------------------------------------------------------------------------


@transaction.atomic
def record_made(volume: Volume) -> None:
    """Its file is there, whole."""
    if _end_making(volume, status=Status.AVAILABLE):
        events.record(Kind.VOLUME_READY, volume, size_gib=volume.size_gib)


def record_created(volume: Volume) -> None:
    record_made(volume)
    record_task_ended(volume, Task.CREATING)


@transaction.atomic
def record_create_failed(volume: Volume, *, message: str) -> None:
    """It could not be made, and nothing of it is left on its host that is not removed by reconciliation."""
    values = {"status": Status.ERROR, "task": Task.NONE, "task_since": None, "error_message": message}
    if _end_making(volume, **values):
        release(volume)
        events.record(Kind.VOLUME_FAILED, volume, error=message)


def record_task_ended(volume: Volume, task: Task, *, message: str = "", **values: object) -> bool:
    """`task` is over; another one that took over meanwhile is left alone. True if it was over just now."""
    ended: dict[str, object] = {"task": Task.NONE, "task_since": None, "error_message": message, **values}
    changed = Volume.objects.filter(pk=volume.pk, task=task, status__in=LIVE).update(**ended)
    if changed:
        events.volume_changed(volume)
    return changed == 1


def record_grown(volume: Volume) -> None:
    """Its host has given it the size that was wanted."""
    wanted = Volume.objects.values_list("wanted_gib", flat=True).get(pk=volume.pk)
    if wanted is not None:
        record_size(volume, wanted)


@transaction.atomic
def record_size(volume: Volume, size_gib: int) -> None:
    """It has grown to this size."""
    if record_task_ended(volume, Task.GROWING, size_gib=size_gib, wanted_gib=None):
        events.record(Kind.VOLUME_GROWN, volume, size_gib=size_gib)


@transaction.atomic
def record_not_grown(volume: Volume, *, message: str) -> None:
    """It has the size that it had: what was reserved for more is given back."""
    now = Volume.objects.select_related("project", "host").get(pk=volume.pk)
    if record_task_ended(volume, Task.GROWING, message=message, wanted_gib=None) and now.wanted_gib:
        release_growth(now.project, now.host, now.wanted_gib - now.size_gib)


@transaction.atomic
def release(volume: Volume) -> None:
    """Give quota and host capacity back, exactly once whoever calls how often."""
    if Volume.objects.filter(pk=volume.pk, holds_quota=True).update(holds_quota=False) == 1:
        held = Volume.objects.select_related("host").get(pk=volume.pk)
        quota.release(held.project_id, held.amount)
        hosts.release_capacity(held.host, held.amount)


@transaction.atomic
def record_deleted(volume: Volume) -> None:
    """Nothing of it is left on its host. The row stays for the history."""
    release(volume)
    gone = {"status": Status.DELETED, "task": Task.NONE, "task_since": None, "deleted_at": timezone.now()}
    if Volume.objects.filter(pk=volume.pk, status__in=LIVE).update(**gone):
        events.volume_changed(volume)
        events.record(Kind.VOLUME_DELETED, volume)


def record_not_deleted(volume: Volume, *, message: str) -> None:
    record_task_ended(volume, Task.DELETING, message=message)


# --- helpers --------------------------------------------------------------------------------------------------------


def _end_making(volume: Volume, **values: object) -> bool:
    """Of a volume that is being made. True if it was until now."""
    changed = Volume.objects.filter(pk=volume.pk, status=Status.CREATING).update(**values)
    if changed:
        events.volume_changed(volume)
    return changed == 1


def _volume_of_request(project: Project, request_key: UUID | None) -> Volume | None:
    if request_key is None:
        return None
    return Volume.objects.filter(project=project, request_key=request_key).first()


def _size(size_gib: int) -> dict[str, object]:
    return {"size_gib": size_gib}
