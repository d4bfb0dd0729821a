"""A person's files: brought to a machine and opened in its guest, closed there and put away.

The machine's row for their volume is what both go by (see `portal.profiles.services`), and whether a machine runs is
asked of its host each time. So nothing depends on who has heard of what: a machine that was killed a moment ago and is
still "running" in its row has its files put away like any other that is off.
"""

from __future__ import annotations

import logging

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.jobs.names import JobName, StepName
from portal.jobs.selectors import others_at_work
from portal.machines import services as machines
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from portal.profiles import services
from portal.profiles.models import Profile
from portal.profiles.selectors import attachment_of, awaited_on
from portal.profiles.states import State
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from workers.hosts import driver_of
from workers.hypervisor import guest_files
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import DomainNotFoundError, GuestAgentError
from workers.hypervisor.guest_files import Answer, Program, Said
from workers.hypervisor.types import PowerState as HostPowerState
from workers.workflows import common
from workers.workflows.base import Again, Context, Step, WorkFailedError, Workflow

logger = logging.getLogger(__name__)

GIB = 1024**3
POLL_S = 1.0
# For the machine before to let them go, and for this one to be idle.
FIND_WAIT_S = 300.0
# For a guest that is starting, or has just been given the disk.
OPEN_WAIT_S = 300.0
# A check of a large file system that was not closed may take its time; it is not ended by that, and asked for again.
GUEST_WAIT_S = 120.0
BUSY_WAIT_S = 300.0
# Programs that have a file open are told to end, then ended; then the machine is switched off.
TOLD_FOR_S = 5.0
CLOSE_WAIT_S = 45.0
LET_GO_WAIT_S = 45.0


# --- bringing them ----------------------------------------------------------------------------------------------------


def find(context: Context[Machine]) -> None:
    """Until no machine has them and this one is idle; then it is the one that has them."""
    machine = context.target
    profile = awaited_on(machine)
    if profile is None:
        return  # They have been taken, or are not wanted any more.
    _refuse_unfit(machine)
    services.refuse_elsewhere(profile, machine)
    if profile.state in (State.ATTACHING, State.IN_USE):
        _take_from_dead(profile)
    elif _runs(common.driver(context), machine) and services.take(profile, machine):
        return  # One that is off is not made busy: it could not be started then.
    if context.seconds_in_step() > FIND_WAIT_S:
        raise WorkFailedError(_still_away(profile), code="profile-busy")
    context.progress(10, _("Waiting until the files are put away elsewhere") if profile.machine_id else _("Waiting"))
    raise Again(POLL_S)


def _refuse_unfit(machine: Machine) -> None:
    if machine.status != Status.READY:
        raise WorkFailedError(_("The desktop is not there any more."), code="profile-no-machine")
    version = machine.image_version
    if version is not None and not version.image.has_agent:
        raise WorkFailedError(
            _("This desktop's image has no guest agent, so files cannot be opened in it."), code="profile-no-agent"
        )


def _take_from_dead(profile: Profile) -> None:
    """From a machine that does not run. One that does keeps them."""
    holder = profile.machine
    if holder is None:
        services.record_free(profile)
    elif _runs(driver_of(holder.host), holder):
        raise WorkFailedError(
            _("Your files are open on the desktop %(name)s. Sign out there, and they can be opened here.")
            % {"name": holder.name},
            code="profile-in-use",
        )
    else:
        services.release(holder)


def _still_away(profile: Profile) -> str:
    if profile.machine is None:
        return _("The desktop was off, or busy with something else, for so long that the files were not opened in it.")
    return _("Your files have not been put away on the desktop %(name)s yet. Try again in a while.") % {
        "name": profile.machine.name
    }


def make_volume(context: Context[Machine]) -> None:
    """At first use. One that is there already stays as it is."""
    volume = _coming(context)
    if volume is not None and volume.status == VolumeStatus.CREATING:
        common.driver(context).create_volume(volume.pk, size_bytes=volume.size_gib * GIB)
        volumes.record_made(volume)


def attach(context: Context[Machine]) -> None:
    profile = services.coming_to(context.target)
    attachment = attachment_of(profile) if profile is not None else None
    if attachment is not None:
        common.driver(context).attach_disk(context.target.pk, common.disk_of(attachment))


def take_back(context: Context[Machine]) -> None:
    """They are free again if the machine's host says so. A volume that was never whole goes."""
    volume = _coming(context)
    if volume is None:
        return
    driver = common.driver(context)
    if volume.status == VolumeStatus.CREATING:
        driver.delete_volume(volume.pk)  # The row ends with the job.
    elif _lets_go(driver, context.target, volume):
        services.record_taken_back(context.target)


def prepare(context: Context[Machine]) -> None:
    """A file system, made once: never on a volume that has been in use, nor on one that has anything on it."""
    profile = services.coming_to(context.target)
    if profile is None or profile.volume is None:
        return
    may_make = profile.formatted_at is None
    answer = _ask_guest(context, guest_files.format_disk(profile.volume.serial, may_make=may_make))
    if answer.said != Said.DONE:
        raise _fault(answer)
    services.record_formatted(profile)


def open_files(context: Context[Machine]) -> None:
    profile = services.coming_to(context.target)
    if profile is None or profile.volume is None:
        return
    services.record_opening(profile)
    answer = _ask_guest(context, guest_files.open_files(profile.volume.serial, context.target.login_user))
    if answer.said not in (Said.DONE, Said.READ_ONLY):
        raise _fault(answer)
    is_read_only = answer.said == Said.READ_ONLY
    damaged = _("Their file system is damaged: they can be read, and nothing can be written. Tell an operator.")
    services.record_use(
        profile, used_bytes=answer.used_bytes, is_read_only=is_read_only, message=damaged if is_read_only else ""
    )


def close_again(context: Context[Machine]) -> None:
    """What could not be opened, or is not wanted any more, is closed as far as the guest lets it be. It is not forced:
    where they stay open the guest keeps the disk, and they are put away later.
    """
    profile = services.coming_to(context.target)
    if profile is None or profile.volume is None or profile.opened_at is None:
        return
    driver = common.driver(context)
    if driver.agent_ready(context.target.pk):
        _run(driver, context.target, guest_files.close_files(profile.volume.serial, force=True))


def _coming(context: Context[Machine]) -> Volume | None:
    profile = services.coming_to(context.target)
    return profile.volume if profile is not None else None


def _ask_guest(context: Context[Machine], program: Program) -> Answer:
    """What the guest said. It is waited for while it starts, has not seen the disk yet, or is still at it."""
    driver = common.driver(context)
    waited_s = context.seconds_in_step()
    if not _runs(driver, context.target):
        raise WorkFailedError(_("The desktop was switched off before the files were opened."), code="profile-off")
    try:
        if driver.agent_ready(context.target.pk):
            answer = _run(driver, context.target, program)
            if answer.said not in (Said.NO_DEVICE, Said.BUSY):
                return answer
    except GuestAgentError:
        if waited_s > OPEN_WAIT_S:
            raise
    if waited_s > OPEN_WAIT_S:
        raise WorkFailedError(
            _("The desktop's guest agent did not answer, or it did not see the disk: the files were not opened."),
            code="profile-no-answer",
        )
    context.progress(30, _("Waiting for the guest"))
    raise Again(POLL_S)


def _fault(answer: Answer) -> WorkFailedError:
    words = {
        Said.NO_TOOLS: _("The desktop's system lacks the programs for this: e2fsprogs and util-linux."),
        Said.OTHER_DATA: _("There is something on the disk that is not a person's files. It was left as it is."),
        Said.NO_USER: _("The desktop's system has no user to give the files to."),
        Said.LOST: _("No file system was found on the disk, which had one. It was left as it is: tell an operator."),
    }
    said = words.get(answer.said) if answer.said is not None else None
    text = said or _("The guest could not open the files: %(detail)s") % {"detail": answer.detail or "?"}
    return WorkFailedError(text, code="profile-guest")


# --- putting them away ------------------------------------------------------------------------------------------------


def wait_for_turn(context: Context[Machine]) -> None:
    """Until earlier work has ended and the machine can be busy with this. Deleting it waits for us."""
    profile = services.leaving(context.target)
    if profile is None:
        return
    machine = Machine.objects.get(pk=context.target.pk)
    if not others_at_work(context.job) and services.begin_detach(profile, machine):
        return
    if machine.is_hibernated and machine.is_live:
        raise WorkFailedError(
            _("%(name)s is hibernated, with the files open. They are put away when it has been woken.")
            % {"name": machine.name},
            code="profile-hibernated",
        )
    if context.seconds_in_step() > BUSY_WAIT_S:
        raise WorkFailedError(machines.why_not(machine), code="profile-busy")
    raise Again(POLL_S)


def close(context: Context[Machine]) -> None:
    """Cleanly if the guest does it. If it does not, the machine is switched off: its session is over, and what it has
    written by then is whole when its file system is opened next.
    """
    machine = context.target
    profile = services.leaving(machine)
    if profile is None or profile.volume is None or profile.opened_at is None or attachment_of(profile) is None:
        return
    driver = common.driver(context)
    if not _runs(driver, machine):
        return
    waited_s = context.seconds_in_step()
    force = waited_s > TOLD_FOR_S
    answer = _close_in_guest(driver, machine, guest_files.close_files(profile.volume.serial, force=force))
    if answer is not None and answer.said == Said.DONE:
        services.record_use(profile, used_bytes=answer.used_bytes)
        return
    if waited_s > CLOSE_WAIT_S:
        logger.warning("machine %s does not close the files of %s: it is switched off", machine.pk, profile.pk)
        _cut_power(driver, machine)
        return
    in_use = answer is not None and answer.said == Said.IN_USE
    told = _("Waiting for programs to close them: %(names)s") % {"names": answer.detail if answer else ""}
    context.progress(30, told if in_use else _("Waiting for the guest"))
    raise Again(POLL_S)


def _close_in_guest(driver: HypervisorDriver, machine: Machine, program: Program) -> Answer | None:
    """None if it does not answer."""
    try:
        if driver.agent_ready(machine.pk):
            return _run(driver, machine, program)
    except GuestAgentError as error:
        logger.info("machine %s: %s", machine.pk, error)
    return None


def detach(context: Context[Machine]) -> None:
    """Until the host says that nothing that runs has them. A guest that keeps the disk is switched off."""
    machine = context.target
    profile = services.leaving(machine)
    if profile is None or profile.volume is None or attachment_of(profile) is None:
        return
    driver = common.driver(context)
    if _lets_go(driver, machine, profile.volume):
        return
    if context.seconds_in_step() > LET_GO_WAIT_S:
        logger.warning("machine %s keeps the files of %s: it is switched off", machine.pk, profile.pk)
        _cut_power(driver, machine)
    context.progress(50, _("Waiting for the guest to let it go"))
    raise Again(POLL_S)


# --- what both need ---------------------------------------------------------------------------------------------------


def _run(driver: HypervisorDriver, machine: Machine, program: Program) -> Answer:
    result = driver.run_in_guest(machine.pk, program.argv, stdin=program.stdin, timeout_s=GUEST_WAIT_S)
    return guest_files.answer_of(result)


def _runs(driver: HypervisorDriver, machine: Machine) -> bool:
    """As its host says. What the host does not know does not run there."""
    try:
        return driver.power_state(machine.pk) != HostPowerState.SHUT_OFF
    except DomainNotFoundError:
        return False


def _lets_go(driver: HypervisorDriver, machine: Machine, volume: Volume) -> bool:
    """True if neither what runs nor the definition has it: the host's word, without which nobody else gets it."""
    try:
        return driver.detach_disk(machine.pk, volume.pk)
    except DomainNotFoundError:
        return True


def _cut_power(driver: HypervisorDriver, machine: Machine) -> None:
    try:
        driver.force_off(machine.pk)
    except DomainNotFoundError:
        return
    machines.record_power_state(machine.pk, PowerState.SHUT_OFF, at=timezone.now())


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    Workflow(
        JobName.PROFILE_ATTACH,
        load=common.load,
        steps=(
            Step(StepName.FIND_FILES, find, undo=take_back),
            Step(StepName.VOLUME, make_volume),
            Step(StepName.ATTACH, attach),
            Step(StepName.PREPARE_FILES, prepare),
            Step(StepName.OPEN_FILES, open_files, undo=close_again),
        ),
        on_done=services.record_attached,
        on_failed=lambda machine, message: services.record_not_attached(machine, message=message),
        on_cancelled=lambda machine: services.record_not_attached(machine, message=""),
    ),
    Workflow(
        JobName.PROFILE_DETACH,
        load=common.load,
        steps=(
            Step(StepName.WAIT_WORK, wait_for_turn),
            Step(StepName.CLOSE_FILES, close),
            Step(StepName.DETACH, detach),
        ),
        on_done=services.record_detached,
        on_failed=lambda machine, message: services.record_not_detached(machine, message=message),
        cancellable=False,
        max_retries=20,
    ),
)
