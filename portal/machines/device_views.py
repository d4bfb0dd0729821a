"""The buttons of a machine's disks and network cards. Each asks for one thing; the page then shows how it goes."""

from __future__ import annotations

import json
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import Permission
from portal.errors import InvalidError, NotFoundError
from portal.machines import cards, disks
from portal.machines.models import Machine
from portal.machines.selectors import machine_for
from portal.volumes.selectors import volume_for


def _machine(request: HttpRequest, pk: UUID) -> Machine:
    return machine_for(request.user, pk, Permission.MACHINE_OPERATE)


def answer(request: HttpRequest, machine: Machine) -> HttpResponse:
    """htmx refreshes what shows the machine, a plain browser goes to its page."""
    if is_live(request):
        changed = {"casement:changed": {"topics": [f"machine:{machine.pk}"]}}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(changed)})
    return redirect("machines:detail", pk=machine.pk)


@require_POST
def disk_new(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    disks.request_new_disk(
        machine,
        actor=person(request),
        name=_text(request, "name"),
        size_gib=_number(request, "size_gib"),
        delete_with_machine=_ticked(request, "delete_with_machine"),
        request_ip=client_ip(request),
    )
    return answer(request, machine)


@require_POST
def disk_attach(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    disks.request_attach(
        machine,
        actor=person(request),
        volume=volume_for(request.user, uuid_in(request, "volume"), Permission.MACHINE_OPERATE),
        delete_with_machine=_ticked(request, "delete_with_machine"),
        request_ip=client_ip(request),
    )
    return answer(request, machine)


@require_POST
def disk_detach(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    disks.request_detach(machine, actor=person(request), disk=_text(request, "disk"), request_ip=client_ip(request))
    return answer(request, machine)


@require_POST
def disk_grow(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    disks.request_grow(
        machine,
        actor=person(request),
        disk=_text(request, "disk"),
        size_gib=_number(request, "size_gib"),
        request_ip=client_ip(request),
    )
    return answer(request, machine)


@require_POST
def disk_limits(request: HttpRequest, pk: UUID) -> HttpResponse:
    """An empty field is no limit."""
    machine = _machine(request, pk)
    disks.request_limits(
        machine,
        actor=person(request),
        disk=_text(request, "disk"),
        iops=_number(request, "iops", empty=0),
        mib_per_s=_number(request, "mib_per_s", empty=0),
        request_ip=client_ip(request),
    )
    return answer(request, machine)


@require_POST
def disk_first(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    disks.set_first_at_start(machine, actor=person(request), disk=_text(request, "disk"), request_ip=client_ip(request))
    return answer(request, machine)


@require_POST
def disk_keep(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    disks.set_kept(
        machine,
        actor=person(request),
        disk=_text(request, "disk"),
        keep=_text(request, "keep") == "yes",
        request_ip=client_ip(request),
    )
    return answer(request, machine)


@require_POST
def card_add(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    cards.request_card(machine, actor=person(request), request_ip=client_ip(request))
    return answer(request, machine)


@require_POST
def card_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    cards.request_removal(machine, actor=person(request), card=uuid_in(request, "card"), request_ip=client_ip(request))
    return answer(request, machine)


# --- what was sent --------------------------------------------------------------------------------------------------


def _text(request: HttpRequest, name: str) -> str:
    return request.POST.get(name, "").strip()


def _ticked(request: HttpRequest, name: str) -> bool:
    return request.POST.get(name) == "yes"


def uuid_in(request: HttpRequest, name: str) -> UUID:
    try:
        return UUID(_text(request, name))
    except ValueError as error:
        raise NotFoundError from error


def _number(request: HttpRequest, name: str, *, empty: int | None = None) -> int:
    """InvalidError for what is no whole number, or one that no disk has."""
    text = _text(request, name)
    if not text and empty is not None:
        return empty
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise InvalidError(_("Type a whole number."), field=name)
    return int(text)
