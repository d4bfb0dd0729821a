"""Writes about the network cards of machines, besides the first one, which every machine keeps."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.errors import ConflictError, NotFoundError
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import events, plugging
from portal.machines.devices import Plug
from portal.machines.models import Machine, NetworkCard
from portal.machines.services import new_mac, record_task_ended
from portal.machines.states import Task

MOST_CARDS = 4

# --- what people ask for ------------------------------------------------------------------------------------------


@transaction.atomic
def request_card(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    """Have another network card plugged in, at once if the machine runs."""
    if not plugging.claim(machine, Task.ADDING_CARD, actor=actor):
        return plugging.again(machine, JobName.CARD_ADD, same=True)
    if NetworkCard.objects.filter(machine=machine).count() >= MOST_CARDS:
        raise ConflictError(_("A machine has at most %(most)s further network cards.") % {"most": MOST_CARDS})
    card = NetworkCard.objects.create(machine=machine, mac=new_mac(), network=machine.host.network, task=Plug.ADDING)
    detail = {"mac": card.mac}
    return plugging.enqueue(machine, JobName.CARD_ADD, actor=actor, detail=detail, request_ip=request_ip)


@transaction.atomic
def request_removal(machine: Machine, *, actor: User, card: UUID, request_ip: str | None = None) -> Job:
    """Have a network card unplugged. Until the host says that it is gone, the machine has it."""
    found = NetworkCard.objects.filter(machine=machine, pk=card).first()
    if found is None:
        raise NotFoundError
    if not plugging.claim(machine, Task.DROPPING_CARD, actor=actor):
        return plugging.again(machine, JobName.CARD_REMOVE, same=found.task == Plug.REMOVING)
    NetworkCard.objects.filter(pk=found.pk).update(task=Plug.REMOVING)
    detail = {"mac": found.mac}
    return plugging.enqueue(machine, JobName.CARD_REMOVE, actor=actor, detail=detail, request_ip=request_ip)


# --- what workers found out ---------------------------------------------------------------------------------------


def in_change(machine: Machine, *, task: Plug | None = None) -> NetworkCard | None:
    """The card that is being changed; None if that is over."""
    changing = NetworkCard.objects.filter(machine=machine).exclude(task=Plug.NONE)
    return (changing if task is None else changing.filter(task=task)).first()


@transaction.atomic
def record_added(machine: Machine, *, message: str = "") -> None:
    """With a message, adding it failed and the host has not said that it is without the card: so it counts as there."""
    _settle(machine, Plug.ADDING)
    record_task_ended(machine, Task.ADDING_CARD, message=message)


@transaction.atomic
def record_gone(card: NetworkCard) -> None:
    """The host says that the machine is without it."""
    NetworkCard.objects.filter(pk=card.pk).delete()
    events.machine_changed(card.machine)


@transaction.atomic
def record_removed(machine: Machine) -> None:
    card = in_change(machine, task=Plug.REMOVING)
    if card is not None:
        record_gone(card)
    record_task_ended(machine, Task.DROPPING_CARD)


@transaction.atomic
def record_not_removed(machine: Machine, *, message: str) -> None:
    """Still plugged in. The guest has been asked, and may let go later."""
    NetworkCard.objects.filter(machine=machine, task=Plug.REMOVING).update(leaving_since=timezone.now())
    _settle(machine, Plug.REMOVING)
    record_task_ended(machine, Task.DROPPING_CARD, message=message)


def record_addresses(card: NetworkCard, addresses: Collection[str]) -> None:
    """What the guest has on it, as its agent or the network's DHCP server tells."""
    if NetworkCard.objects.filter(pk=card.pk).exclude(addresses=list(addresses)).update(addresses=list(addresses)):
        events.machine_changed(card.machine)


@transaction.atomic
def forget(machine: Machine) -> None:
    """The machine is gone from its host, and its cards with it."""
    NetworkCard.objects.filter(machine=machine).delete()


def end_orphan(machine: Machine) -> None:
    """The machine's task was ended without its job."""
    NetworkCard.objects.filter(machine=machine).update(task=Plug.NONE)


def _settle(machine: Machine, task: Plug) -> None:
    NetworkCard.objects.filter(machine=machine, task=task).update(task=Plug.NONE)
