"""Reads about the disks and network cards of machines, as their pages show them."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from portal.machines.devices import Plug
from portal.machines.disks import MIB, ROOT
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.volumes.models import Volume
from portal.volumes.selectors import free_volumes


@dataclass(frozen=True, slots=True)
class DiskLine:
    """A disk of a machine. `pk` is what requests call it; the root disk is there whether it has a row or not."""

    pk: str
    name: str | Promise
    size_gib: int
    attachment: Attachment | None
    is_first: bool

    @property
    def volume(self) -> Volume | None:
        return self.attachment.volume if self.attachment else None

    @property
    def iops(self) -> int:
        return self.attachment.iops if self.attachment else 0

    @property
    def mib_per_s(self) -> int:
        return self.attachment.bytes_per_s // MIB if self.attachment else 0

    @property
    def busy(self) -> str:
        """What is happening to it, in a word; empty if nothing is."""
        task = self.attachment.task if self.attachment else Plug.NONE
        return str(Plug(task).label) if task else ""

    @property
    def is_personal(self) -> bool:
        return self.volume is not None and self.volume.personal

    @property
    def may_be_changed(self) -> bool:
        """The root disk of a machine that somebody else defined is theirs, and a person's files are that person's."""
        if self.is_personal:
            return False
        return self.volume is not None or not (self.attachment and self.attachment.machine.keeps_definition)


def disk_lines(machine: Machine) -> list[DiskLine]:
    """The root disk, then its volumes in the order in which they came. One query."""
    attached = list(
        Attachment.objects.filter(machine=machine).select_related("volume", "machine").order_by("created_at", "pk")
    )
    root = next((row for row in attached if row.volume is None), None)
    first = min((row for row in attached if row.boot), key=lambda row: row.boot, default=root)
    lines = [DiskLine(ROOT, _("Root disk"), machine.disk_gib, root, is_first=first is root)]
    for row in attached:
        if row.volume is not None:
            lines.append(DiskLine(str(row.pk), row.volume.name, row.volume.size_gib, row, is_first=first is row))
    return lines


def volume_lines(machine: Machine) -> list[DiskLine]:
    """Without the root disk: what can outlive the machine. A person's own files always do."""
    return [line for line in disk_lines(machine) if line.volume is not None and not line.is_personal]


def further_cards(machine: Machine) -> list[NetworkCard]:
    return list(NetworkCard.objects.filter(machine=machine).order_by("created_at", "pk"))


def first_card_addresses(machine: Machine, further: list[NetworkCard]) -> list[str]:
    """Those of the machine's that no further card has."""
    elsewhere = {address for card in further for address in card.addresses}
    return [str(address) for address in machine.addresses if address not in elsewhere]


def volumes_for_machine(machine: Machine) -> tuple[list[Volume], int]:
    """What could be attached to it, and how many free volumes lie on other hosts, where it cannot reach them."""
    free = list(free_volumes(machine.project))
    here = [volume for volume in free if volume.host_id == machine.host_id]
    return here, len(free) - len(here)
