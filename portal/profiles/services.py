"""Writes about people's files: `attach` when a session starts, `release` when it ends, and what workers found out.

A person's files are on a volume that one machine has at most. Three things keep it so, each by itself: `state` and
`machine` of the profile, which change by conditional UPDATEs alone; the machine's row for the volume, of which the
database lets there be one; and that this row goes only when the host has said that the machine has the volume no more.
Whether the machine before still runs is therefore never taken from its row, which may not have heard of its end yet:
the job asks the host.

Who calls has decided that the person may use the machine. Nothing here is refused for want of quota or room: then the
job fails in words, `files_on(machine)` tells them, and the session goes on without files.
"""

from __future__ import annotations

import datetime as dt
from uuid import uuid4

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError
from portal.hosts.models import Host
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE, JobName
from portal.jobs.selectors import active_job_of
from portal.machines import disks
from portal.machines.devices import Plug
from portal.machines.models import Machine
from portal.machines.services import record_task_ended
from portal.machines.states import LIVE
from portal.machines.states import Task as MachineTask
from portal.profiles import events
from portal.profiles.models import Profile
from portal.profiles.selectors import active_job, attachment_of, profile_on, without_job
from portal.profiles.states import CAN_RELEASE, State
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import CAN_ATTACH, HAS_FILE
from portal.volumes.states import Status as VolumeStatus
from portal.volumes.states import Task as VolumeTask

# Putting files away that could not be put away is tried again after so long.
TRY_AGAIN_AFTER = dt.timedelta(seconds=60)

# --- what a session asks for ----------------------------------------------------------------------------------------


@transaction.atomic
def attach(person: User, machine: Machine, *, actor: User | None = None, request_ip: str | None = None) -> Job | None:
    """Have the person's files brought to the machine. Asked again, it is the job under way, or None if they are there.

    ConflictError if they are on their way to another machine, or somebody else's on their way to this one. If another
    machine has them the job finds out from its host: one that runs keeps them, and the job fails and says so; one that
    does not run is made to let them go first.
    """
    profile = Profile.objects.get_or_create(person=person, project_id=machine.project_id)[0]
    profile = Profile.objects.select_for_update().get(pk=profile.pk)
    under_way = active_job(machine, JobName.PROFILE_ATTACH)
    if profile.machine_id == machine.pk and profile.state in CAN_RELEASE:
        return under_way
    if profile.next_machine_id == machine.pk and under_way is not None:
        return under_way
    if profile.next_machine_id not in (None, machine.pk) and not without_job([profile], JobName.PROFILE_ATTACH):
        raise ConflictError(_("Your files are on their way to another desktop just now."))
    _want(profile, machine)
    audit.record(actor or person, JobName.PROFILE_ATTACH.value, machine, request_ip=request_ip)
    return jobs.enqueue(JobName.PROFILE_ATTACH, machine, queue=machine.host.queue, actor=actor or person)


def _want(profile: Profile, machine: Machine) -> None:
    try:
        with transaction.atomic():
            Profile.objects.filter(pk=profile.pk).update(next_machine=machine)
    except IntegrityError as error:
        raise ConflictError(_("Somebody else's files are on their way to this desktop.")) from error
    profile.next_machine = machine
    events.profile_changed(profile)


@transaction.atomic
def release(machine: Machine, *, actor: User | None = None, request_ip: str | None = None) -> Job | None:
    """Have whatever person's files the machine has put away, and none brought to it. Asked again, it is the same job.

    None if it has none. The machine may be running, off, lost, deleted, or its host silent: its files are free once the
    host says that the machine has them no more, and until then nobody else gets them.
    """
    _stop_waiting(machine)
    profile = Profile.objects.select_for_update().filter(machine=machine).first()
    if profile is None:
        return None
    if _move(profile, CAN_RELEASE, State.DETACHING):
        audit.record(actor, JobName.PROFILE_DETACH.value, machine, request_ip=request_ip)
    return _enqueue_detach(profile, machine, actor=actor)


def request_release(profile: Profile, *, actor: User, request_ip: str | None = None) -> Job:
    """For operators: have a person's files put away, whoever works with them. ConflictError if no machine has them."""
    _operators_only(actor)
    job = release(profile.machine, actor=actor, request_ip=request_ip) if profile.machine is not None else None
    if job is None:
        raise ConflictError(_("%(files)s are on no desktop.") % {"files": profile})
    return job


def _operators_only(actor: User) -> None:
    if not actor.is_staff:
        raise ForbiddenError(_("Only operators do this with people's files."))


def _stop_waiting(machine: Machine) -> None:
    """What is on its way is asked to stop; what it has made by then it takes back itself."""
    Profile.objects.filter(next_machine=machine).update(next_machine=None)
    coming = Job.objects.filter(target_type="machine", target_id=machine.pk, name=JobName.PROFILE_ATTACH)
    for job in coming.filter(status__in=ACTIVE, cancel_requested=False):
        if jobs.request_cancel(job):
            jobs.wake(job)


def _enqueue_detach(profile: Profile, machine: Machine, *, actor: User | None = None) -> Job | None:
    """One at a time. The machine is made busy with it at once if it is idle, so that nothing else comes in between."""
    under_way = active_job(machine, JobName.PROFILE_DETACH)
    if under_way is not None:
        return under_way
    begin_detach(profile, machine)
    return jobs.enqueue(JobName.PROFILE_DETACH, machine, queue=machine.host.queue, actor=actor)


@transaction.atomic
def request_delete(profile: Profile, *, actor: User, request_ip: str | None = None) -> Job | None:
    """For operators: remove a person's files for good. ConflictError while a machine has them. None if there are none.

    They get an empty volume when they come to a desktop the next time.
    """
    _operators_only(actor)
    locked = Profile.objects.select_for_update().get(pk=profile.pk)
    if locked.state != State.FREE:
        raise ConflictError(
            _("%(person)s's files are open on a desktop, or on their way. They can be deleted when they are put away.")
            % {"person": locked.person.get_username()}
        )
    if locked.volume is None or locked.volume.status not in (VolumeStatus.AVAILABLE, VolumeStatus.ERROR):
        return None
    if locked.volume.task == VolumeTask.DELETING:
        return active_job_of(locked.volume)
    audit.record(actor, "profile.delete", locked, request_ip=request_ip)
    Profile.objects.filter(pk=locked.pk).update(used_bytes=None, message="", is_read_only=False)
    events.profile_changed(locked)
    return volumes.delete(locked.volume, actor=actor, request_ip=request_ip)


def nothing_to_delete(profile: Profile) -> str:
    return _("%(files)s: there is nothing to delete, or it is being deleted already.") % {"files": profile}


# --- what workers do ------------------------------------------------------------------------------------------------


@transaction.atomic
def take(profile: Profile, machine: Machine) -> bool:
    """The machine gets the files, which no other has. False while it, or they, are busy with something else.

    From here on there is the machine's row for their volume. The volume is made beside the machine at first use:
    QuotaExceededError or NoCapacityError without room. ConflictError if they lie where this machine cannot reach them.
    """
    rows = Profile.objects.select_for_update(of=("self",)).select_related("person", "volume", "project")
    now = rows.get(pk=profile.pk)
    if now.state != State.FREE or Profile.objects.filter(machine=machine).exists():
        return False
    volume = _volume_for(now, machine)
    if volume is None:
        return False
    if not disks.begin_attach(machine, volume):
        transaction.set_rollback(True)
        return False
    return _move(now, (State.FREE,), State.ATTACHING, machine=machine, next_machine=None, volume=volume, message="")


def _volume_for(profile: Profile, machine: Machine) -> Volume | None:
    """Theirs, claimed, or a new one. None while theirs is busy."""
    volume = profile.volume
    if volume is None or volume.status in (VolumeStatus.ERROR, VolumeStatus.DELETED):
        Profile.objects.filter(pk=profile.pk).update(formatted_at=None, used_bytes=None, is_read_only=False)
        return _new_volume(profile, machine.host)
    refuse_elsewhere(profile, machine)
    return volume if volumes.claim(volume, VolumeTask.ATTACHING, CAN_ATTACH) else None


def refuse_elsewhere(profile: Profile, machine: Machine) -> None:
    """ConflictError if the files lie where this machine cannot reach them."""
    if profile.volume is not None and profile.volume.status in HAS_FILE and profile.volume.host_id != machine.host_id:
        raise ConflictError(_("Your files lie on another host than this desktop, which cannot reach them there."))


def _new_volume(profile: Profile, host: Host) -> Volume:
    person = "".join(letter if letter.isalnum() else "-" for letter in profile.person.get_username())[:40]
    # The end is another one each time: one that could not be made keeps its name.
    name = f"files {person} {uuid4().hex[:8]}"
    return volumes.create_personal(
        profile.project, name=name, size_gib=settings.PROFILE_GIB, host=host, task=VolumeTask.ATTACHING
    )


def begin_detach(profile: Profile, machine: Machine) -> bool:
    """The machine is busy with letting the files go. False while it is busy with something else. Again, the same."""
    return profile.volume is None or disks.begin_detach(machine, profile.volume)


def record_formatted(profile: Profile) -> None:
    """There is a file system on the volume: from now on none is ever made on it."""
    Profile.objects.filter(pk=profile.pk, formatted_at=None).update(formatted_at=timezone.now())


def record_opening(profile: Profile) -> None:
    """From now on they may be open in the guest."""
    Profile.objects.filter(pk=profile.pk, opened_at=None).update(opened_at=timezone.now())


def record_use(
    profile: Profile, *, used_bytes: int | None, is_read_only: bool | None = None, message: str = ""
) -> None:
    """What the guest said of them."""
    values: dict[str, object] = {"message": message} if message else {}
    if used_bytes is not None:
        values["used_bytes"] = used_bytes
    if is_read_only is not None:
        values["is_read_only"] = is_read_only
    if values and Profile.objects.filter(pk=profile.pk).update(**values):
        events.profile_changed(profile)


@transaction.atomic
def record_attached(machine: Machine) -> None:
    """They are open in the machine's guest, unless they are to be put away by now."""
    profile = coming_to(machine)
    if profile is None:
        return
    disks.record_attached(machine)
    _move(profile, (State.ATTACHING,), State.IN_USE)


@transaction.atomic
def record_taken_back(machine: Machine) -> None:
    """The host says that the machine does not have what was being brought: it is free, and so is the machine."""
    profile = coming_to(machine)
    attachment = attachment_of(profile) if profile is not None else None
    if profile is not None and attachment is not None:
        disks.record_gone(attachment)
        record_task_ended(machine, MachineTask.ATTACHING)
        record_free(profile)


@transaction.atomic
def record_not_attached(machine: Machine, *, message: str) -> None:
    """What the host has let go of is free. What it has not, is to be put away, and so nobody else gets it."""
    Profile.objects.filter(next_machine=machine).update(next_machine=None)
    profile = coming_to(machine)
    if profile is not None:
        disks.record_attach_failed(machine, message="")
    left = Profile.objects.filter(machine=machine, state=State.ATTACHING).first()
    if left is not None and not record_free(left):
        _move(left, (State.ATTACHING,), State.DETACHING, message=message)


@transaction.atomic
def record_detached(machine: Machine) -> None:
    """The host says that the machine has them no more."""
    profile = profile_on(machine)
    if profile is None:
        return
    attachment = attachment_of(profile)
    if attachment is not None and attachment.machine_id == machine.pk:
        disks.record_gone(attachment)
    record_task_ended(machine, MachineTask.DETACHING)
    record_free(profile)


@transaction.atomic
def record_not_detached(machine: Machine, *, message: str) -> None:
    """The machine has them still, as far as anybody knows. It is tried again: see `tend`."""
    profile = profile_on(machine)
    if profile is None:
        return
    attachment = attachment_of(profile)
    if attachment is not None and attachment.task == Plug.REMOVING:
        disks.record_not_detached(machine, message="")
    _move(profile, (State.DETACHING,), State.DETACHING, message=message)


@transaction.atomic
def record_free(profile: Profile) -> bool:
    """If no machine has the volume any more, by the rows that follow what hosts say. True if they are free now.

    Whoever waits for them is woken.
    """
    locked = Profile.objects.select_for_update().get(pk=profile.pk)
    if locked.state == State.FREE:
        return True
    if attachment_of(locked) is not None:
        return False
    free = {"machine": None, "opened_at": None, "message": ""}
    if not _move(locked, tuple(State), State.FREE, **free):
        return False
    if locked.next_machine is not None:
        waiting = active_job(locked.next_machine, JobName.PROFILE_ATTACH)
        if waiting is not None:
            jobs.wake(waiting)
    return True


def coming_to(machine: Machine) -> Profile | None:
    """Whose files the machine is busy with getting: its row for their volume says so."""
    profile = profile_on(machine)
    attachment = attachment_of(profile) if profile is not None else None
    adding = attachment is not None and attachment.machine_id == machine.pk and attachment.task == Plug.ADDING
    return profile if adding else None


def leaving(machine: Machine) -> Profile | None:
    """Whose files are to be put away from the machine."""
    profile = profile_on(machine)
    return profile if profile is not None and profile.state == State.DETACHING else None


# --- the clock's part -----------------------------------------------------------------------------------------------


def tend(host: Host) -> int:
    """Of files that lie on a host which answers: see to it that what was cut off comes to its end. Returns how many.

    Free is what no machine has any more. What is to be put away and was not, is tried again; what a machine that is
    gone for people has, and what was being brought by a job that is no more, is put away.
    """
    held = list(Profile.objects.held().filter(volume__host=host).select_related("machine__host", "volume", "person"))
    done = 0
    for profile in _settled(held):
        done += _put_away(profile)
    stale = Profile.objects.filter(next_machine__host=host).select_related("next_machine")
    for profile in without_job(stale, JobName.PROFILE_ATTACH):
        Profile.objects.filter(pk=profile.pk, next_machine=profile.next_machine_id).update(next_machine=None)
    return done


def _settled(held: list[Profile]) -> list[Profile]:
    """Those that are not free after all."""
    return [
        profile
        for profile in without_job(without_job(held, JobName.PROFILE_ATTACH), JobName.PROFILE_DETACH)
        if not record_free(profile)
    ]


@transaction.atomic
def _put_away(seen: Profile) -> int:
    held = Profile.objects.select_for_update(of=("self",)).held().select_related("machine__host", "volume")
    profile = held.filter(pk=seen.pk).first()
    if profile is None:
        return 0
    machine = profile.machine
    if machine is None or (profile.state == State.IN_USE and machine.status in LIVE):
        return 0
    if machine.is_hibernated and machine.status in LIVE:
        return 0  # Its memory knows them: they go when it has been woken, or its memory was forgotten.
    if profile.state == State.DETACHING and _was_tried_lately(machine):
        return 0
    _move(profile, CAN_RELEASE, State.DETACHING)
    _enqueue_detach(profile, machine)
    return 1


def _was_tried_lately(machine: Machine) -> bool:
    tried = Job.objects.filter(target_type="machine", target_id=machine.pk, name=JobName.PROFILE_DETACH)
    return tried.filter(finished_at__gt=timezone.now() - TRY_AGAIN_AFTER).exists()


# --- helpers --------------------------------------------------------------------------------------------------------


def _move(profile: Profile, before: tuple[State, ...], after: State, **values: object) -> bool:
    """The one place where `state` changes. True if it was one of `before`."""
    since = {} if before == (after,) else {"state_since": timezone.now()}
    changed = Profile.objects.filter(pk=profile.pk, state__in=before).update(state=after, **since, **values)
    if changed:
        events.profile_changed(profile)
        profile.refresh_from_db()
    return changed == 1
