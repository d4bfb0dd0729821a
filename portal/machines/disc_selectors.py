"""Reads about the disc drives of machines, and about what a machine can be rescued by."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet

from portal.accounts.models import User
from portal.images.models import Image, ImageVersion
from portal.images.selectors import catalogue_for
from portal.isos.models import Iso, Role
from portal.isos.selectors import isos_in
from portal.machines.devices import Plug
from portal.machines.discs import DRIVES
from portal.machines.models import Disc, Machine


@dataclass(frozen=True, slots=True)
class DriveLine:
    """A disc drive with what lies in it, if anything does."""

    slot: int
    disc: Disc | None

    @property
    def number(self) -> int:
        return self.slot + 1

    @property
    def busy(self) -> str:
        """What is happening to it, in a word; empty if nothing is."""
        if self.disc is None or not self.disc.task:
            return ""
        return str(Plug(self.disc.task).label)


def drive_lines(machine: Machine) -> list[DriveLine]:
    """One query."""
    there = {disc.slot: disc for disc in Disc.objects.filter(machine=machine).select_related("iso")}
    return [DriveLine(slot, there.get(slot)) for slot in range(DRIVES)]


def insertable(user: User | AnonymousUser, machine: Machine) -> QuerySet[Iso]:
    """What could be put into its drives."""
    return isos_in(user, machine.project)


def rescue_images(user: User | AnonymousUser, machine: Machine) -> list[tuple[Image, ImageVersion]]:
    """Each image's newest version. Not the very one that the machine is made from: its disk would be taken for it."""
    pairs = catalogue_for(user, machine.project)
    return [(image, version) for image, version in pairs if version and version.pk != machine.image_version_id]


def rescue_isos(user: User | AnonymousUser, machine: Machine) -> list[Iso]:
    return list(isos_in(user, machine.project, Role.INSTALLER))
