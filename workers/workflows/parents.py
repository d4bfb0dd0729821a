"""Parents: a template is started, waited for until it is idle, and captured; and one goes when nothing uses it."""

from __future__ import annotations

import hashlib
import logging
import struct
import zlib
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _

from portal.jobs.names import JobName, StepName
from portal.parents import services
from portal.parents.models import Parent
from portal.parents.selectors import is_used, parent_by_id
from workers.hosts import driver_of
from workers.hypervisor import cloud_init, guest_identity
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import DomainNotFoundError, GuestAgentError, InvalidOperationError
from workers.hypervisor.types import ParentSpec, PowerState
from workers.workflows import create, delete
from workers.workflows.base import Again, Context, Step, WorkFailedError, Workflow

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
# So many looks in a row find it idle: what it does then, every fork of it would do again.
QUIET_LOOKS = 2
# Of its processors' time between two looks. The looking itself takes some.
MOST_BUSY = 0.25
USED_ASKED_EVERY_S = 5.0
IN_USE_ASKED_EVERY_S = 15.0
# A template has no card; the seed's form wants one named. It is no machine's: those begin with 52:54:00.
_NO_CARD = "02:00:00:00:00:00"
_STILL_STARTING = ("initializing", "starting")


def driver(context: Context[Parent]) -> HypervisorDriver:
    return driver_of(context.target.host)


def put_image(context: Context[Parent]) -> None:
    services.record_building(context.target)
    create.put_version(context, context.target.image_version, driver(context))


def spec_of(parent: Parent) -> ParentSpec:
    """It belongs to nobody: no password, no key, and a user whose name each fork takes the place of."""
    image = parent.image_version.image
    desktop = image.kind == "desktop"
    seed = cloud_init.seed(
        instance_id=parent.pk,
        hostname="template",
        user=guest_identity.TEMPLATE_USER,
        password_hash=None,
        ssh_keys=(),
        mac=_NO_CARD,
        desktop=desktop,
    )
    return ParentSpec(
        uuid=parent.pk,
        name=f"casement-parent-{parent.pk}",
        image=parent.image_version_id,
        vcpus=parent.vcpus,
        memory_mib=parent.memory_mib,
        disk_bytes=parent.disk_gib * create.GIB,
        desktop=desktop,
        seed=seed,
    )


def boot(context: Context[Parent]) -> None:
    driver(context).start_parent(spec_of(context.target))


def settle(context: Context[Parent]) -> None:
    """Until the agent answers, the system says that it has started, its screen stays as it is, and it does nothing."""
    parent, host_driver = context.target, driver(context)
    if host_driver.has_parent(parent.pk):
        return
    if not _runs(parent.pk, host_driver):
        raise WorkFailedError(_("The guest switched itself off while starting. Its image may be broken."))
    quiet = int(parent.settling.get("quiet", 0))
    if quiet >= QUIET_LOOKS:
        return
    missing = _look(parent, host_driver)
    if int(parent.settling.get("quiet", 0)) >= QUIET_LOOKS:
        return
    if context.seconds_in_step() > settings.GUEST_BOOT_TIMEOUT_S:
        raise WorkFailedError(
            _("The guest did not come to rest in time: %(why)s A copy of it would never rest either.")
            % {"why": missing},
            code="never-idle",
        )
    context.progress(0, missing)
    raise Again(LOOK_EVERY_S)


def _look(parent: Parent, host_driver: HypervisorDriver) -> str:
    """Look at the guest and remember it; what it still lacks, in words."""
    before = parent.settling
    if not host_driver.agent_ready(parent.pk):
        services.record_settling(parent, {})
        return _("Its agent does not answer.")
    now: dict[str, object] = {"quiet": 0}
    missing = ""
    if parent.image_version.image.kind == "desktop":
        picture = host_driver.screenshot(parent.pk)
        now["picture"] = hashlib.sha256(picture).hexdigest()
        if is_black(picture):
            missing = _("Its screen is black.")
        elif before.get("picture") != now["picture"]:
            missing = _("Its screen still changes.")
    now["times"] = times = _processor_times(parent.pk, host_driver)
    if _is_starting(parent.pk, host_driver):
        missing = missing or _("Its services are still being started.")
    if not missing and not before:
        missing = _("It was seen only once.")
    if not missing and (busy := _busy_share(before.get("times"), times)) > MOST_BUSY:
        missing = _("Its processors are busy: %(percent)s %%.") % {"percent": round(100 * busy)}
    if not missing and not _can_take_identity(parent.pk, host_driver):
        raise WorkFailedError(
            _("The system in this image cannot be given an identity of its own while it runs: it has no Perl."),
            code="no-identity",
        )
    if not missing:
        now["quiet"] = int(before.get("quiet", 0)) + 1
        # A template has no card. Its forks have one, and should not begin with a service that failed for want of it.
        _in_guest(parent.pk, host_driver, "/bin/systemctl", "reset-failed", "systemd-networkd-wait-online.service")
    services.record_settling(parent, now)
    return missing or _("It is idle.")


def _in_guest(parent: UUID, host_driver: HypervisorDriver, *argv: str) -> str:
    """What a program in the guest says; nothing if it is not there."""
    try:
        return host_driver.run_in_guest(parent, argv, timeout_s=20).stdout.decode(errors="replace")
    except GuestAgentError:
        return ""


def _is_starting(parent: UUID, host_driver: HypervisorDriver) -> bool:
    """By systemd's word. A system without one is as far as its agent."""
    return _in_guest(parent, host_driver, "/bin/systemctl", "is-system-running").strip() in _STILL_STARTING


def _can_take_identity(parent: UUID, host_driver: HypervisorDriver) -> bool:
    """Better known now than when each of its forks is given up for it."""
    program = guest_identity.ARGV[0]
    try:
        return host_driver.run_in_guest(parent, ("/bin/sh", "-c", f"test -x {program}"), timeout_s=20).exit_code == 0
    except GuestAgentError:
        return True  # It says no more than that the agent is busy.


def _processor_times(parent: UUID, host_driver: HypervisorDriver) -> list[int] | None:
    """Idle and all ticks since the guest's start."""
    lines = _in_guest(parent, host_driver, "/bin/cat", "/proc/stat").splitlines()
    fields = lines[0].split() if lines else []
    if len(fields) < 6 or fields[0] != "cpu" or not all(field.isdigit() for field in fields[1:]):
        return None
    ticks = [int(field) for field in fields[1:9]]
    return [ticks[3] + ticks[4], sum(ticks)]


def _busy_share(before: object, now: list[int] | None) -> float:
    """Of its processors since the look before; 0 where the guest does not tell."""
    if not isinstance(before, list) or now is None or now[1] <= before[1]:
        return 0.0
    return max(0.0, 1 - float(now[0] - before[0]) / float(now[1] - before[1]))


def is_black(png: bytes) -> bool:
    """Nothing was drawn yet. What no picture can be read from is not black."""
    rows, at = bytearray(), 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"IDAT":
            rows += png[at + 8 : at + 8 + length]
        at += 12 + length
    try:
        raw = zlib.decompress(bytes(rows))
    except zlib.error:
        return False
    return not set(raw) - {0, 1, 2, 3, 4}  # Each row begins with the number of its filter, up to 4.


def _runs(parent: UUID, host_driver: HypervisorDriver) -> bool:
    try:
        return host_driver.get(parent).power_state == PowerState.RUNNING
    except DomainNotFoundError:
        return False


def capture(context: Context[Parent]) -> None:
    """A template that is gone half captured is started anew, and waited for again."""
    parent, host_driver = context.target, driver(context)
    if not parent.settling and not host_driver.has_parent(parent.pk):
        host_driver.start_parent(spec_of(parent))
        services.record_settling(parent, {"quiet": 0})
        raise Again(LOOK_EVERY_S)
    settle(context)
    try:
        info = host_driver.capture_parent(parent.pk, trial_agent=True)
    except InvalidOperationError:
        logger.warning("parent %s: its template is gone; it is started anew", parent.pk)
        services.record_settling(parent, {})
        raise Again(LOOK_EVERY_S) from None
    services.record_captured(parent, memory_bytes=info.memory_bytes)


def remove_half_made(context: Context[Parent]) -> None:
    driver(context).delete_parent(context.target.pk)


def wait_for_other_work(context: Context[Parent]) -> None:
    delete.wait_for_other_work(context)


def remove(context: Context[Parent]) -> None:
    """Never while a machine's disk reads from it or its memory is mapped: the rows say so, and the host once more."""
    parent = context.target
    if is_used(parent):
        context.progress(0, _("Machines that were forked from it are still there."))
        raise Again(USED_ASKED_EVERY_S)
    try:
        driver(context).delete_parent(parent.pk)
    except InvalidOperationError:
        context.progress(0, _("Something on the host still reads from it."))
        raise Again(IN_USE_ASKED_EVERY_S) from None


WORKFLOWS: tuple[Workflow[Parent], ...] = (
    Workflow(
        JobName.PARENT_BUILD,
        load=parent_by_id,
        steps=(
            Step(StepName.PARENT_IMAGE, put_image),
            Step(StepName.PARENT_BOOT, boot, undo=remove_half_made),
            Step(StepName.PARENT_SETTLE, settle),
            Step(StepName.PARENT_CAPTURE, capture, undo=remove_half_made),
        ),
        on_done=services.record_ready,
        on_failed=lambda parent, message: services.record_failed(parent, message=message),
        on_cancelled=lambda parent: services.record_failed(parent, message=_("Stopped on request.")),
    ),
    Workflow(
        JobName.PARENT_DELETE,
        load=parent_by_id,
        steps=(Step(StepName.WAIT_WORK, wait_for_other_work), Step(StepName.DELETE_PARENT, remove)),
        on_done=services.record_deleted,
        on_failed=lambda parent, message: services.record_not_deleted(parent, message=message),
        cancellable=False,
        max_retries=20,
    ),
)
