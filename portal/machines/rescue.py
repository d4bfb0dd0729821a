"""Starting a machine from another system, to mend its own; and back.

From the request on, the machine's row names the rescue system, so whatever defines the machine defines it to start from
that. Only what `services.ALSO_IN_RESCUE` names can be asked of it meanwhile.
"""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.errors import ConflictError, NotFoundError
from portal.events.kinds import Kind
from portal.images.models import ImageVersion, VersionStatus
from portal.isos import services as isos
from portal.isos.models import Iso
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.lib.secrets import new_password, seal
from portal.machines import events, services
from portal.machines.models import Machine
from portal.machines.states import IS_KNOWN, Task

# --- what people ask for ------------------------------------------------------------------------------------------


def request_rescue(
    machine: Machine,
    *,
    actor: User,
    image_version: ImageVersion | None = None,
    iso: Iso | None = None,
    request_ip: str | None = None,
) -> Job:
    """Have its power cut and the machine started from an image, with its own disk beside, or from an ISO."""
    system = image_version or iso
    assert system is not None  # noqa: S101 - whoever asks has chosen one
    _check(machine, image_version, iso)
    return services.claim(
        machine,
        JobName.MACHINE_RESCUE,
        Task.RESCUING,
        IS_KNOWN,
        actor=actor,
        request_ip=request_ip,
        permission=Permission.MACHINE_CREATE,
        where=Q(saved_at=None, keeps_definition=False, missing_since=None),
        then=lambda claimed: _begin(claimed, image_version, iso),
        detail={"system": str(system)},
    )


def _check(machine: Machine, version: ImageVersion | None, iso: Iso | None) -> None:
    if machine.keeps_definition:
        raise ConflictError(_("Somebody else defined this machine: only they can start it from another system."))
    owner = version.image.project_id if version else iso.project_id if iso else None
    if owner not in (None, machine.project_id):
        raise NotFoundError
    if version is not None and version.status != VersionStatus.READY:
        raise ConflictError(_("This image is not ready yet."), field="image")
    if version is not None and version.pk == machine.image_version_id:
        raise ConflictError(
            _(
                "The machine is made from this very version: two disks of the same name cannot be told apart when it "
                "starts. Choose another image or version, or an ISO."
            ),
            field="image",
        )


def _begin(machine: Machine, version: ImageVersion | None, iso: Iso | None) -> None:
    """The image is looked at under its row's lock: nobody deletes it meanwhile."""
    if iso is not None:
        isos.hold_ready(iso.pk)
    if version is not None:
        held = ImageVersion.objects.select_for_update().filter(pk=version.pk, status=VersionStatus.READY).first()
        if held is None:
            raise ConflictError(_("This image is not ready yet."), field="image")
    Machine.objects.filter(pk=machine.pk, task=Task.RESCUING).update(
        rescue_version=version,
        rescue_iso=iso,
        rescue_key=uuid4(),
        rescue_password=seal(new_password()) if version else "",
        rescued_at=None,
    )


def request_unrescue(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    """Have its power cut and the machine started from its own disk again."""
    if machine.task == Task.NONE and not machine.is_in_rescue:
        raise ConflictError(_("%(name)s is not in rescue.") % {"name": machine.name})
    return services.claim(
        machine,
        JobName.MACHINE_UNRESCUE,
        Task.UNRESCUING,
        IS_KNOWN,
        actor=actor,
        request_ip=request_ip,
        permission=Permission.MACHINE_CREATE,
        where=Q(rescue_version__isnull=False) | Q(rescue_iso__isnull=False),
    )


# --- what workers found out ---------------------------------------------------------------------------------------


def record_begun(machine: Machine) -> None:
    """Its definition is to be the rescue system's from now on."""
    Machine.objects.filter(pk=machine.pk, task=Task.RESCUING, rescued_at=None).update(rescued_at=timezone.now())


@transaction.atomic
def record_rescued(machine: Machine) -> None:
    """It runs from the rescue system."""
    if Machine.objects.filter(pk=machine.pk, task=Task.RESCUING).exists():
        events.record(Kind.MACHINE_RESCUED, machine, system=machine.rescue_name)
    services.record_task_ended(machine, Task.RESCUING)


@transaction.atomic
def record_not_rescued(machine: Machine, *, message: str = "") -> None:
    """It may be off. Where its host could not be told to define it as it was, it is in rescue still."""
    _over(Machine.objects.filter(pk=machine.pk, rescued_at=None))
    services.record_task_ended(machine, Task.RESCUING, message=message)


def record_own_disk(machine: Machine) -> None:
    """Its definition is its own again."""
    _over(Machine.objects.filter(pk=machine.pk))
    for column, value in services.RESCUE_OVER.items():
        setattr(machine, column, value)


@transaction.atomic
def record_back(machine: Machine, *, message: str = "") -> None:
    """With a message, something failed; whether it is in rescue still, the row says already."""
    if not message and Machine.objects.filter(pk=machine.pk, task=Task.UNRESCUING, **services.NOT_IN_RESCUE).exists():
        events.record(Kind.MACHINE_BACK, machine)
    services.record_task_ended(machine, Task.UNRESCUING, message=message)


def _over(rows: QuerySet[Machine]) -> None:
    rows.update(**services.RESCUE_OVER)


def is_over(machine_id: UUID) -> bool:
    """It is not in rescue, and nothing is under way that could bring it there: what is left of one may go."""
    return Machine.objects.filter(pk=machine_id, task=Task.NONE, **services.NOT_IN_RESCUE).exists()
