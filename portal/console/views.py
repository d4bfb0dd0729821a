"""Doors: a ticket for the screen's WebSocket, the screen in a tab of its own, and the test of the way to it."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from portal.accounts.guests import open_to_guests
from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.console.doors import door, door_ahead
from portal.console.errors import step_of
from portal.console.selftest import run_steps
from portal.console.tickets import Kind, Mode
from portal.errors import PortalError
from portal.machines.models import Machine
from portal.machines.selectors import machine_for


@open_to_guests
@require_POST
@never_cache
def ticket(request: HttpRequest, pk: UUID) -> JsonResponse:
    """`{"ticket", "path", "mode", "session"}`; with `mode=view` a watching one, with `kind=serial` of the serial line.

    A refusal says the step, for the page's remedy, and to an operator where it is to be looked for.
    """
    try:
        wanted = Mode.VIEW if request.POST.get("mode") == Mode.VIEW else Mode.CONTROL
        kind = Kind.SERIAL if request.POST.get("kind") == Kind.SERIAL else Kind.SCREEN
        return JsonResponse(door(request, pk, wanted, kind))
    except PortalError as error:
        body = {"code": error.code, "message": str(error.message), "step": step_of(error)}
        return JsonResponse(body | _for_operators(request, pk), status=error.status)


def _for_operators(request: HttpRequest, pk: UUID) -> dict[str, str]:
    """Which host has the machine and what it said last. No address and no secret; nothing to anybody else."""
    user = request.user
    if not (isinstance(user, User) and user.is_staff):
        return {}
    machine = Machine.objects.visible_to(user).select_related("host").filter(pk=pk).first()
    return {"detail": f"{machine.host.name}: {machine.power_state or '?'}"} if machine else {}


@open_to_guests
@require_GET
@never_cache
def screen(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Nothing but the guest. A machine that is off still gets the page, which says so and comes alive by itself.

    `?watch=1` is for those who may do more and only want to look, `?take=1` for those who come to take control. It
    brings its ticket, if it can have one, and so nobody keeps it.
    """
    machine = machine_for(request.user, pk, Permission.MACHINE_CONSOLE_VIEW)
    may_start = Permission.MACHINE_OPERATE in permissions_in(request.user, machine.project_id)
    start_url = reverse("machines:start", args=[pk]) if may_start else ""
    mode = Mode.VIEW if request.GET.get("watch") else Mode.CONTROL
    context = {"machine": machine, "start_url": start_url, "mode": mode.value, "take": bool(request.GET.get("take"))}
    context["door"] = door_ahead(request, pk, mode)
    return render(request, "console/screen.html", context)


@open_to_guests
@require_GET
def selftest(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The steps of the way to a screen; the page's script tries them. It is there for a machine that is off, too."""
    machine = machine_for(request.user, pk, Permission.MACHINE_CONSOLE_VIEW)
    return render(request, "console/selftest.html", {"machine": machine})


@open_to_guests
@require_POST
@never_cache
def selftest_steps(request: HttpRequest, pk: UUID) -> JsonResponse:
    """`{"steps": [{"name", "ok", "ms", "step", "reason", "detail"}]}`: the portal's own part, tried now.

    Who may not know of the machine gets 404. A lost right to its screen is a step that fails.
    """
    user = request.user
    assert isinstance(user, User)  # noqa: S101 - LoginRequiredMiddleware lets nobody else through
    machine_for(user, pk, Permission.MACHINE_VIEW)
    results = run_steps(user, request.session.session_key, pk)
    return JsonResponse({"steps": [result.as_json(operator=user.is_staff) for result in results]})
