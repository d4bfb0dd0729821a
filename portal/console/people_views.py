"""The people's panel of a screen: who is here, who controls, whom to remove, and share links."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST, require_safe

from portal.accounts.guests import open_to_guests
from portal.accounts.http import client_ip, is_live, person
from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.console import control, services
from portal.console.forms import LIFETIMES, LinkForm, PersonForm, ShareForm
from portal.console.models import ConsoleLink
from portal.console.notices import notice_on
from portal.console.selectors import links_on, may_control, people_on
from portal.console.tickets import Mode
from portal.errors import InvalidError
from portal.machines.models import Machine
from portal.machines.selectors import machine_for


@open_to_guests
@require_safe
@never_cache
def people(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _panel(request, _machine(request, pk))


@open_to_guests
@require_POST
def control_take(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    control.take(machine, actor=person(request), request_ip=client_ip(request))
    return _done(request, machine)


@open_to_guests
@require_POST
def control_ask(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    control.ask(machine, actor=person(request))
    return _done(request, machine)


@open_to_guests
@require_POST
def control_give(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    control.give(machine, actor=person(request), person=_person_of(request), request_ip=client_ip(request))
    return _done(request, machine)


@open_to_guests
@require_POST
def control_release(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    control.release(machine, actor=person(request))
    return _done(request, machine)


@require_POST
def person_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    services.remove_person(machine, actor=person(request), person=_person_of(request), request_ip=client_ip(request))
    return _done(request, machine)


@require_POST
def person_let_in(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    services.let_in(machine, actor=person(request), person=_person_of(request), request_ip=client_ip(request))
    return _done(request, machine)


# --- share links ---------------------------------------------------------------------------------------------------


@require_POST
@never_cache
def link_new(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The answer is the only place where the link's address ever stands."""
    machine = _machine(request, pk)
    form = ShareForm(request.POST)
    if not form.is_valid():
        raise InvalidError(_("Choose for how long, and whether to watch or to control."))
    _link, token = services.share(
        machine,
        actor=person(request),
        mode=form.mode_wanted(),
        lifetime=form.lifetime_wanted(),
        request_ip=client_ip(request),
    )
    url = request.build_absolute_uri(reverse("console:shared", args=[token]))
    return _panel(request, machine, new_link=url)


@require_POST
def link_revoke(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = _machine(request, pk)
    form = LinkForm(request.POST)
    if not form.is_valid():
        raise InvalidError(_("Which link?"))
    services.revoke_link(machine, form.cleaned_data["link"], actor=person(request), request_ip=client_ip(request))
    return _done(request, machine)


@require_GET
@never_cache
def shared(request: HttpRequest, token: str) -> HttpResponse:
    """Let a member of the project in by a link. The address is a secret: no page may learn it from a referrer."""
    link = services.open_link(token, actor=person(request), request_ip=client_ip(request))
    watch = "" if link.mode == Mode.CONTROL else "?watch=1"
    response = redirect(reverse("console:screen", args=[link.machine_id]) + watch)
    response["Referrer-Policy"] = "no-referrer"
    return response


# --- parts ---------------------------------------------------------------------------------------------------------


def _machine(request: HttpRequest, pk: UUID) -> Machine:
    return machine_for(request.user, pk, Permission.MACHINE_CONSOLE_VIEW)


def _person_of(request: HttpRequest) -> User:
    form = PersonForm(request.POST)
    if not form.is_valid():
        raise InvalidError(_("This person is not here any more."))
    found: User = form.cleaned_data["person"]
    return found


def _done(request: HttpRequest, machine: Machine) -> HttpResponse:
    """The panel as it is now, or, without a script, the screen's page."""
    if is_live(request):
        return _panel(request, machine)
    messages.success(request, _("Done."))
    return redirect("console:screen", pk=machine.pk)


def _panel(request: HttpRequest, machine: Machine, *, new_link: str = "") -> HttpResponse:
    user = person(request)
    can_share = Permission.MACHINE_CONSOLE in permissions_in(user, machine.project_id)
    here = people_on(machine, user)
    context: dict[str, Any] = {
        "machine": machine,
        "people": here,
        "can_control": can_share or may_control(user, machine),
        "can_share": can_share,
        "links": [(link, here.moderates or link.created_by_id == user.pk) for link in links_on(machine)]
        if can_share
        else [],
        "modes": ConsoleLink.Mode.choices,
        "lifetimes": [(key, words) for key, (words, _time) in LIFETIMES.items()],
        "new_link": new_link,
        "notice": notice_on(machine),
        "live": True,
    }
    return render(request, "console/_people.html" if is_live(request) else "console/people.html", context)
