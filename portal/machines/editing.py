"""What people call a machine, what it is for, how they sort it, and whether it may be deleted."""

from __future__ import annotations

import re
from collections.abc import Iterable

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, InvalidError
from portal.machines import events, services
from portal.machines.models import Machine, MachineLabel
from portal.machines.states import Status
from portal.machines.validators import validate_machine_name

MOST_LABELS = 12
MOST_DESCRIPTION = 2000
_LABEL = re.compile(r"[a-z0-9][a-z0-9._:/=-]{0,39}")


def labels_in(text: str) -> list[str]:
    """The labels that somebody typed, with spaces or commas between them; each once, in order."""
    return checked_labels(text.replace(",", " ").split())


def checked_labels(labels: Iterable[str]) -> list[str]:
    found = sorted(set(labels))
    for label in found:
        if not _LABEL.fullmatch(label):
            raise InvalidError(
                _("“%(label)s” is no label: use lower-case letters, digits and . _ : / = - , at most 40.")
                % {"label": label[:60]},
                field="labels",
            )
    if len(found) > MOST_LABELS:
        raise InvalidError(_("At most %(most)s labels are taken.") % {"most": MOST_LABELS}, field="labels")
    return found


def update_machine(
    machine: Machine,
    *,
    actor: User,
    name: str,
    description: str,
    labels: Iterable[str],
    protected: bool,
    request_ip: str | None = None,
) -> Machine:
    """Set all of these. What is so already is left alone and not written down. ConflictError for a name that is taken.

    The guest is not touched: it keeps the host name that it was built with.
    """
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    wanted_labels = checked_labels(labels)
    values: dict[str, object] = {
        "name": _checked_name(name),
        "description": _checked_description(description),
        "protected": protected,
    }
    if protected != machine.protected:
        require(actor, machine.project_id, Permission.MACHINE_DELETE)
    try:
        with transaction.atomic():
            _update(machine, actor, values, wanted_labels, request_ip)
    except IntegrityError as error:
        raise ConflictError(
            _("There is a machine named %(name)s in this project already, or in its bin.") % {"name": name},
            field="name",
        ) from error
    machine.refresh_from_db()
    return machine


def _update(
    machine: Machine, actor: User, values: dict[str, object], labels: list[str], request_ip: str | None
) -> None:
    editable = Machine.objects.select_for_update().filter(pk=machine.pk, status__in=[Status.READY, Status.ERROR])
    current = editable.first()
    if current is None:
        raise ConflictError(services.why_not(machine))
    before: dict[str, object] = {column: getattr(current, column) for column in values}
    before["labels"] = sorted(current.labels.values_list("name", flat=True))
    after: dict[str, object] = {**values, "labels": labels}
    changed = [column for column in after if after[column] != before[column]]
    if not changed:
        return
    Machine.objects.filter(pk=machine.pk).update(**values)
    if "labels" in changed:
        current.labels.all().delete()
        MachineLabel.objects.bulk_create(MachineLabel(machine=current, name=label) for label in labels)
    told = [column for column in changed if column != "description"]
    detail = {
        "before": {column: before[column] for column in told},
        "after": {column: after[column] for column in told},
    }
    audit.record(actor, "machine.changed", current, detail=detail, request_ip=request_ip)
    events.record_changed(Machine.objects.get(pk=machine.pk), changed, actor=actor)
    services.tell(machine.pk)


def _checked_name(name: str) -> str:
    try:
        validate_machine_name(name)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="name") from error
    return name


def _checked_description(text: str) -> str:
    text = text.replace("\r\n", "\n").strip()
    if len(text) > MOST_DESCRIPTION:
        raise InvalidError(_("This is too long."), field="description")
    return text
