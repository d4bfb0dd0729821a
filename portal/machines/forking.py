"""Machines that begin as a copy of one that runs: which may, from what, and how it came out."""

from __future__ import annotations

import datetime as dt

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.hosts.models import Host
from portal.machines import services
from portal.machines.models import Firmware, Machine, MadeBy
from portal.machines.states import PowerState, Status, Task
from portal.parents import selectors as parents
from portal.parents import services as parent_services
from portal.parents.models import Parent
from portal.parents.states import State

FORKED = (MadeBy.FORK, MadeBy.RESTORE)


def may_be_forked(machine: Machine) -> bool:
    """Nothing is asked of it that only a system at its first start can do, or that its parent lacks."""
    return (
        machine.image_version is not None
        and parents.can_be_forked(machine.image_version)
        and machine.firmware in ("", Firmware.BIOS)
        and not (machine.user_data or machine.tpm or machine.iso_name)
    )


def is_forked(machine: Machine) -> bool:
    """It runs, or ran, as a copy; what a first start would do is not to be done."""
    return machine.made_by in FORKED


def is_to_be_forked(machine: Machine) -> bool:
    """There is a parent for it, taken or to be taken. Of one that was tried already there is none any more."""
    if machine.parent_id is not None:
        return True
    return machine.made_by == MadeBy.NOTHING and may_be_forked(machine) and _usable(machine) is not None


def _usable(machine: Machine) -> Parent | None:
    version = machine.image_version
    if version is None:
        return None
    return parents.usable(version, machine.host, machine.vcpus, machine.memory_mib, machine.disk_gib)


def why_not_forked(machine: Machine) -> str:
    """Of one that boots: what became of the running copy that it would have been forked from. Empty without any."""
    version = machine.image_version
    if version is None or not may_be_forked(machine):
        return ""
    parent = parents.why_none(version, machine.host, machine.vcpus, machine.memory_mib, machine.disk_gib)
    if parent is None:
        return ""
    if parent.state == State.FAILED:
        return _("the running copy on this host could not be made: %(why)s") % {"why": parent.reason}
    if parent.state == State.READY:
        return _("the running copy on this host was captured by another hypervisor")
    return _("the running copy on this host is being made")


@transaction.atomic
def take_parent(machine: Machine) -> Parent | None:
    """Hold on to a parent until the machine is gone or has a disk of its own. Done once, whoever goes on."""
    if machine.parent is not None:
        return machine.parent
    parent = _usable(machine)
    if parent is None or not parent_services.record_used(parent):
        return None
    now = timezone.now()
    rows = Machine.objects.filter(pk=machine.pk, task=Task.BUILDING, parent=None)
    if rows.update(parent=parent, forked_at=now) != 1:
        transaction.set_rollback(True)
        return None
    machine.parent, machine.forked_at = parent, now
    parent_services.tell(parent)
    return parent


def record_forked(machine: Machine, made_by: MadeBy, *, reason: str = "") -> None:
    services.record_made(machine, made_by=made_by, made_by_reason=reason)


def record_booted(machine: Machine, *, reason: str) -> None:
    """It is not a copy: nothing of a try to make it one is left."""
    nothing = {"parent": None, "forked_at": None, "power_state": PowerState.SHUT_OFF, "console_socket": ""}
    services.record_made(machine, made_by=MadeBy.BOOT, made_by_reason=reason, **nothing)


def being_forked(host: Host) -> QuerySet[Machine]:
    """Copies on the host that have not their own identity yet, or are not ready: they want its processors now."""
    return Machine.objects.filter(host=host, status=Status.BUILDING, task=Task.BUILDING, parent__isnull=False)


def young_forks(host: Host, *, since: dt.datetime) -> list[dt.datetime]:
    """When those forks were made that have not written into most of what they will write into."""
    young = Machine.objects.filter(host=host, parent__isnull=False, forked_at__gt=since)
    return [at for at in young.values_list("forked_at", flat=True) if at is not None]
