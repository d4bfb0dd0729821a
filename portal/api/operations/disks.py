"""A machine's disks and network cards: what it has, and what is plugged in and out."""

from typing import Final, Self
from uuid import UUID

from django.http import HttpRequest
from django.utils.translation import gettext as _
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.api.core import Guard, operation
from portal.api.operations.machines import TAG
from portal.api.operations.volumes import SizeIn
from portal.api.paging import Listed
from portal.api.schemas import Input, JobOut, Text
from portal.errors import InvalidError
from portal.jobs.models import Job
from portal.machines import cards, disks
from portal.machines.device_selectors import DiskLine, disk_lines, first_card_addresses, further_cards
from portal.machines.models import Machine, NetworkCard
from portal.machines.selectors import machine_for
from portal.volumes.models import Volume
from portal.volumes.selectors import suggest_name, volume_for
from portal.volumes.validators import MOST_GIB

JOB: Final = {"show_job": {"pk": "id"}}


def _machine(request: HttpRequest, pk: UUID) -> Machine:
    return machine_for(person(request), pk, Permission.MACHINE_OPERATE)


# --- disks --------------------------------------------------------------------------------------------------------


class DiskOut(BaseModel):
    """`id` is what requests about it call it: "root" is the one made from the image, which has no volume and goes with
    the machine. Limits are for reading and writing together; 0 is none."""

    id: str
    name: str
    volume: UUID | None
    size_gib: int
    wanted_gib: int | None = Field(description="The size that it grows to just now.")
    is_first: bool = Field(description="The machine starts from it.")
    iops: int
    mib_per_s: int
    delete_with_machine: bool
    serial: str | None = Field(description="A guest finds it at /dev/disk/by-id/virtio-<serial>.")
    task: str | None

    @classmethod
    def of(cls, line: DiskLine) -> Self:
        attachment, volume = line.attachment, line.volume
        return cls(
            id=line.pk,
            name=str(line.name),
            volume=volume.pk if volume else None,
            size_gib=line.size_gib,
            wanted_gib=attachment.wanted_gib if attachment else None,
            is_first=line.is_first,
            iops=line.iops,
            mib_per_s=line.mib_per_s,
            delete_with_machine=volume is None or (attachment is not None and attachment.delete_with_machine),
            serial=volume.serial if volume else None,
            task=(attachment.task or None) if attachment else None,
        )


@operation(
    "GET",
    "machines/{uuid:pk}/disks",
    tag=TAG,
    answers=Listed[DiskOut],
    pages=("machines:detail",),
    links={name: {"pk": "$request.path.pk", "disk": "items/0/id"} for name in ("limit_disk", "grow_disk")},
)
def list_machine_disks(request: HttpRequest, pk: UUID) -> Listed[DiskOut]:
    """A machine's disks, the root disk first. The ETag of this list is what changes of a disk take as If-Match."""
    lines = disk_lines(machine_for(person(request), pk))
    return Listed[DiskOut](items=[DiskOut.of(line) for line in lines], next=None)


DISKS: Final = Guard(Machine, list_machine_disks)


class DiskIn(Input):
    """Either `volume`, one that is free and lies on the machine's host, or `size_gib` of a new one."""

    volume: UUID | None = None
    size_gib: int | None = Field(default=None, ge=1, le=MOST_GIB)
    name: Text | None = Field(default=None, max_length=63, description="Of a new one; left out, a free one is chosen.")
    delete_with_machine: bool = False


@operation(
    "POST",
    "machines/{uuid:pk}/disks",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:disk-new", "machines:disk-attach"),
    guards=DISKS,
    links=JOB,
)
def attach_disk(request: HttpRequest, pk: UUID, body: DiskIn) -> Job:
    """Attach a volume to a machine, at once if it runs; one that is there, or a new one made for it."""
    machine, user, request_ip = _machine(request, pk), person(request), client_ip(request)
    if body.volume is None:
        if body.size_gib is None:
            raise InvalidError(_("Say which volume, or the size of a new one."), field="volume")
        return disks.request_new_disk(
            machine,
            actor=user,
            name=suggest_name(machine.project) if body.name is None else body.name,
            size_gib=body.size_gib,
            delete_with_machine=body.delete_with_machine,
            request_ip=request_ip,
        )
    if body.size_gib is not None or body.name is not None:
        raise InvalidError(_("A volume that is there has its own name and size."), field="volume")
    return disks.request_attach(
        machine,
        actor=user,
        volume=_volume(request, body.volume),
        delete_with_machine=body.delete_with_machine,
        request_ip=request_ip,
    )


def _volume(request: HttpRequest, pk: UUID) -> Volume:
    return volume_for(person(request), pk, Permission.MACHINE_OPERATE)


@operation(
    "DELETE",
    "machines/{uuid:pk}/disks/{disk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:disk-detach",),
    guards=DISKS,
    links=JOB,
)
def detach_disk(request: HttpRequest, pk: UUID, disk: Text) -> Job:
    """Detach a volume; it is kept. The job is done when the machine's host says that it is gone."""
    return disks.request_detach(_machine(request, pk), actor=person(request), disk=disk, request_ip=client_ip(request))


@operation(
    "POST",
    "machines/{uuid:pk}/disks/{disk}/grow",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:disk-grow",),
    guards=DISKS,
    links=JOB,
)
def grow_disk(request: HttpRequest, pk: UUID, disk: Text, body: SizeIn) -> Job:
    """Make a disk larger, whether the machine runs or not. Partitions and file systems are the guest's to grow."""
    machine, request_ip = _machine(request, pk), client_ip(request)
    return disks.request_grow(machine, actor=person(request), disk=disk, size_gib=body.size_gib, request_ip=request_ip)


class LimitsIn(Input):
    """For reading and writing together; 0, or left out, is no limit."""

    iops: int = Field(default=0, ge=0, le=disks.MOST_IOPS)
    mib_per_s: int = Field(default=0, ge=0, le=disks.MOST_MIB_PER_S)


@operation(
    "PUT",
    "machines/{uuid:pk}/disks/{disk}/limits",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:disk-limits",),
    guards=DISKS,
    links=JOB,
)
def limit_disk(request: HttpRequest, pk: UUID, disk: Text, body: LimitsIn) -> Job:
    """Limit what a disk does in a second, at once if the machine runs."""
    return disks.request_limits(
        _machine(request, pk),
        actor=person(request),
        disk=disk,
        iops=body.iops,
        mib_per_s=body.mib_per_s,
        request_ip=client_ip(request),
    )


@operation(
    "POST",
    "machines/{uuid:pk}/disks/{disk}/first",
    tag=TAG,
    answers=Listed[DiskOut],
    pages=("machines:disk-first",),
    guards=DISKS,
)
def start_from_disk(request: HttpRequest, pk: UUID, disk: Text) -> Listed[DiskOut]:
    """Have a machine start from this disk, from its next start on. The answer is all of its disks."""
    disks.set_first_at_start(_machine(request, pk), actor=person(request), disk=disk, request_ip=client_ip(request))
    return list_machine_disks(request, pk)


class KeptIn(Input):
    delete_with_machine: bool


@operation(
    "PATCH",
    "machines/{uuid:pk}/disks/{disk}",
    tag=TAG,
    answers=Listed[DiskOut],
    pages=("machines:disk-keep",),
    guards=DISKS,
)
def change_disk(request: HttpRequest, pk: UUID, disk: Text, body: KeptIn) -> Listed[DiskOut]:
    """Say whether a volume goes when its machine is deleted. The answer is all of its disks."""
    disks.set_kept(
        _machine(request, pk),
        actor=person(request),
        disk=disk,
        keep=not body.delete_with_machine,
        request_ip=client_ip(request),
    )
    return list_machine_disks(request, pk)


# --- network cards ------------------------------------------------------------------------------------------------


class CardOut(BaseModel):
    """`id` is null for the first card, which every machine keeps."""

    id: UUID | None
    mac: str
    addresses: list[str]
    task: str | None

    @classmethod
    def first(cls, machine: Machine, further: list[NetworkCard]) -> Self:
        return cls(id=None, mac=machine.mac, addresses=first_card_addresses(machine, further), task=None)

    @classmethod
    def of(cls, card: NetworkCard) -> Self:
        return cls(id=card.pk, mac=card.mac, addresses=[str(one) for one in card.addresses], task=card.task or None)


@operation("GET", "machines/{uuid:pk}/cards", tag=TAG, answers=Listed[CardOut], pages=("machines:detail",))
def list_machine_cards(request: HttpRequest, pk: UUID) -> Listed[CardOut]:
    """A machine's network cards, the first one first, with the addresses that are known of each."""
    machine = machine_for(person(request), pk)
    further = further_cards(machine)
    items = [CardOut.first(machine, further), *(CardOut.of(card) for card in further)]
    return Listed[CardOut](items=items, next=None)


CARDS: Final = Guard(Machine, list_machine_cards)


@operation(
    "POST",
    "machines/{uuid:pk}/cards",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:card-add",),
    guards=CARDS,
    links=JOB,
)
def add_card(request: HttpRequest, pk: UUID) -> Job:
    """Plug in another network card, at once if the machine runs."""
    return cards.request_card(_machine(request, pk), actor=person(request), request_ip=client_ip(request))


@operation(
    "DELETE",
    "machines/{uuid:pk}/cards/{uuid:card}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:card-remove",),
    guards=CARDS,
    links=JOB,
)
def remove_card(request: HttpRequest, pk: UUID, card: UUID) -> Job:
    """Unplug a network card. The job is done when the machine's host says that it is gone."""
    return cards.request_removal(_machine(request, pk), actor=person(request), card=card, request_ip=client_ip(request))
