"""A person's own desktop: by their account, or by the link that was made for them."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth import login
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.guests import open_to_guests
from portal.accounts.http import client_ip, is_live, person
from portal.deployments import access, acting
from portal.deployments.models import Seat
from portal.deployments.selectors import own_seat
from portal.errors import NotFoundError
from portal.machines.states import CAN_START, LIVE, Status, Task

_BACKEND = "django.contrib.auth.backends.ModelBackend"


@login_not_required
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def shared(request: HttpRequest, token: str) -> HttpResponse:
    """Let somebody in by their link. Looking at it changes nothing: mail programs look at links, too.

    The address is a secret: no page may learn it from a referrer. Whoever is signed in is told that they are somebody
    else from here on.
    """
    try:
        seat = access.seat_of_link(token)
    except NotFoundError as error:
        return _kept_secret(render(request, "deployments/no_link.html", {"error": error}, status=404))
    if request.method != "POST":
        others = request.user if request.user.is_authenticated and request.user.pk != seat.guest_id else None
        return _kept_secret(render(request, "deployments/shared.html", {"seat": seat, "signed_in": others}))
    assert seat.guest is not None and seat.link_expires_at is not None  # noqa: S101 - of a link that is open
    login(request, seat.guest, backend=_BACKEND)
    request.session.set_expiry(seat.link_expires_at)
    access.note_opened(seat, request_ip=client_ip(request))
    return _kept_secret(redirect("deployments:own", pk=seat.pk))


def _kept_secret(response: HttpResponse) -> HttpResponse:
    """Referrers have this site's name and no path. Without any, browsers would send the form as from nowhere, which the
    check against other sites' forms refuses."""
    response["Referrer-Policy"] = "strict-origin"
    return response


@open_to_guests
@require_safe
@never_cache
def own(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Straight to the screen where there is one; else what is being waited for, until there is."""
    seat = own_seat(request.user, pk)
    if seat.machine is not None and seat.machine.status == Status.READY and seat.machine.has_screen:
        url = reverse("console:screen", args=[seat.machine.pk])
        return HttpResponse(status=204, headers={"HX-Redirect": url}) if is_live(request) else redirect(url)
    template = "deployments/_own.html" if is_live(request) else "deployments/own.html"
    return render(request, template, _own_context(seat))


def _own_context(seat: Seat) -> dict[str, object]:
    machine = seat.machine if seat.machine and seat.machine.status in LIVE else None
    ready = machine is not None and machine.status == Status.READY
    return {
        "seat": seat,
        "machine": machine,
        "is_building": machine is not None and not ready and machine.status != Status.ERROR,
        "is_busy": machine is not None and ready and machine.task != Task.NONE,
        "may_start": machine is not None
        and ready
        and machine.task == Task.NONE
        and machine.power_state in CAN_START
        and not machine.has_screen,
    }


@open_to_guests
@require_POST
def own_start(request: HttpRequest, pk: UUID) -> HttpResponse:
    seat = own_seat(request.user, pk)
    acting.start_own(seat, actor=person(request), request_ip=client_ip(request))
    return redirect("deployments:own", pk=seat.pk)
