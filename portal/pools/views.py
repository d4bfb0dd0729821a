"""Desktops for the people who use them: tiles, the way to a screen, the waiting room, what stands over the screen."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.models import User
from portal.console import browsers
from portal.console.doors import door_ahead
from portal.console.tickets import Mode, session_hash
from portal.errors import NotFoundError
from portal.pools import broker
from portal.pools.desk import Desk, desk_of
from portal.pools.estimates import ON_THE_WAY
from portal.pools.forms import PlaceForm
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.selectors import places_of, pool_for, session_for
from portal.pools.states import EndReason, PlaceState, PoolKind, SessionState
from portal.pools.tiles import front_door, only_pool, tiles_for
from portal.pools.words import estimate_words, how_it_ended, leaving_words


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """The portal's own address, where people come to who have signed in: whose one desktop is behind it is on that."""
    user = person(request)
    pool = only_pool(user)
    if pool is not None and request.method == "GET":
        return enter(request, pool.name)
    return redirect(front_door(user))


@require_safe
def desktop_list(request: HttpRequest) -> HttpResponse:
    return render(request, "pools/desktops.html", {"tiles": tiles_for(person(request))})


@require_safe
def tiles(request: HttpRequest) -> HttpResponse:
    context = {"tiles": tiles_for(person(request)), "above": bool(request.GET.get("above"))}
    return render(request, "pools/_tiles.html", context)


# --- the way to a screen --------------------------------------------------------------------------------------------


@require_GET
@never_cache
def enter(request: HttpRequest, pool: str) -> HttpResponse:
    """The person's running desktop, a free one, or the waiting room.

    It takes a desktop though it is only asked for, so that nobody has to click again who has signed in; to ask twice
    gives the same one. A browser that fetches what might be looked at later takes none. The desktop's page comes as the
    answer, without another round; it tells the browser its own address, so that reloading it takes no new one. One
    desktop more is led to instead: who reloads before the browser has heard that must not get a third.
    """
    found = pool_for(person(request), pool)
    if "prefetch" in request.headers.get("Sec-Purpose", request.headers.get("Purpose", "")):
        return HttpResponse(status=503, headers={"Retry-After": "1"})
    another = bool(request.GET.get("another"))
    answer = _ask(request, found, another=another)
    if answer.session is not None:
        return redirect("desktops:session", pk=answer.session.pk) if another else _desktop(request, answer.session)
    if answer.place is None:
        raise NotFoundError
    return render(request, "pools/waiting.html", _waiting(found, answer.place, another=another))


def _ask(request: HttpRequest, pool: Pool, *, another: bool = False) -> broker.Answer:
    return broker.ask(pool, person(request), another=another, browser=_browser(request), request_ip=client_ip(request))


def _browser(request: HttpRequest) -> str:
    """Which of the person's devices it is, as the console knows it."""
    return session_hash(request.session.session_key)


@dataclass(frozen=True, slots=True)
class Wait:
    """Where somebody is in line. `closed`: nobody gets a desktop now, whatever their place."""

    number: int
    estimate: str
    why: str
    closed: bool

    @property
    def ahead(self) -> int:
        return self.number - 1


def wait_of(pool: Pool, place: Place) -> Wait:
    number, seconds = broker.position(place)
    if pool.maintenance:
        return Wait(number, "", _("You keep your place. It goes on when the maintenance is over."), closed=True)
    return Wait(number, estimate_words(seconds), _why(pool, place), closed=False)


def _why(pool: Pool, place: Place) -> str:
    """Why there is none at this moment."""
    coming = Desktop.objects.filter(pool=pool, state__in=ON_THE_WAY)
    if pool.kind != PoolKind.FLOATING and coming.filter(person=place.person_id).exists():
        return _("Your own desktop is being made.")
    number = coming.filter(person=None).count()
    if number:
        told = ngettext("%(number)s desktop is being made.", "%(number)s desktops are being made.", number)
        return told % {"number": number}
    return _("All desktops are in use just now.")


def _waiting(pool: Pool, place: Place, *, another: bool) -> dict[str, object]:
    return {"pool": pool, "place": place, "wait": wait_of(pool, place), "another": another}


@require_GET
@never_cache
def place(request: HttpRequest, pool: str) -> HttpResponse:
    """The waiting room's own part, asked for every few seconds; that keeps the place. Leads to the desktop when there
    is one.

    `of` is the place that it shows. Who waits for one more than they have is led to it once that was served: to ask
    then for one more would be one too many.
    """
    found = pool_for(person(request), pool)
    another = bool(request.GET.get("another")) and not _was_served(request, found)
    answer = _ask(request, found, another=another)
    if answer.session is not None:
        address = reverse("desktops:session", args=[answer.session.pk])
        if is_live(request):
            return HttpResponse(status=204, headers={"HX-Redirect": address})
        return redirect(address)
    if answer.place is None:
        raise NotFoundError
    template = "pools/_waiting.html" if is_live(request) else "pools/waiting.html"
    return render(request, template, _waiting(found, answer.place, another=another))


def _was_served(request: HttpRequest, pool: Pool) -> bool:
    form = PlaceForm(request.GET)
    places = Place.objects.filter(pool=pool, person=person(request), state=PlaceState.SERVED)
    return form.is_valid() and places.filter(pk=form.cleaned_data["of"]).exists()


@require_POST
def leave(request: HttpRequest, pool: str) -> HttpResponse:
    """A tab of the waiting room was closed; or, `for_good`, its person will not wait any longer."""
    found = places_of(person(request)).filter(pool=pool_for(person(request), pool)).first()
    if not request.POST.get("for_good"):
        if found is not None:
            broker.let_go(found)
        return HttpResponse(status=204)
    if found is not None:
        broker.leave(found)
    return redirect("desktops:list")


# --- a session ------------------------------------------------------------------------------------------------------


@require_GET
@never_cache
def session(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Nothing but the desktop, and over it what its person must know.

    Who has it open on another device is asked first: take it over, or share it (`?share=1`).
    """
    return _desktop(request, _mine(request, pk))


def _desktop(request: HttpRequest, found: Session) -> HttpResponse:
    user = person(request)
    if not found.is_live:
        context = {"session": found, "pool": found.pool, "ended": how_it_ended(found)}
        return render(request, "pools/ended.html", context | {"may_return": _desk(request, found).may_return})
    machine = found.machine
    if machine is None:
        raise NotFoundError
    browser = _browser(request)
    if not request.GET.get("share") and not browsers.is_let_in(machine, user, browser, found.started_at):
        elsewhere = list(browsers.open_elsewhere(machine, user, browser)[:5])
        if elsewhere:
            context = {"session": found, "pool": found.pool, "elsewhere": elsewhere}
            return render(request, "pools/elsewhere.html", context)
    if found.state == SessionState.DISCONNECTED:
        found = broker.come_back(found)
    context = {
        "session": found,
        "pool": found.pool,
        "machine": machine,
        "mode": "control",
        "desk": _desk(request, found),
        "leaving": leaving_words(found.pool),
        "door": door_ahead(request, machine.pk, Mode.CONTROL),
    }
    return render(request, "pools/screen.html", context)


@require_POST
def session_open(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What a second device is asked: `choice` is take or share."""
    user, found = person(request), _mine(request, pk)
    address = reverse("desktops:session", args=[pk])
    if not found.is_live or found.machine is None:
        return redirect(address)
    if request.POST.get("choice") == "take":
        browsers.take_over(found.machine, actor=user, browser=_browser(request), request_ip=client_ip(request))
        return redirect(address)
    browsers.let_back_in(found.machine, user, _browser(request))
    return redirect(f"{address}?share=1")


def _mine(request: HttpRequest, pk: UUID) -> Session:
    """Operators see anybody's, on the pool's page; here everybody has their own only."""
    found = session_for(person(request), pk)
    if found.person_id != request.user.pk:
        raise NotFoundError
    return found


def _desk(request: HttpRequest, found: Session) -> Desk:
    return desk_of(found, person(request), _browser(request))


@require_GET
@never_cache
def session_desk(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = _mine(request, pk)
    return _desk_part(request, found, person(request))


def _desk_part(request: HttpRequest, found: Session, user: User) -> HttpResponse:
    context = {"session": found, "pool": found.pool, "desk": desk_of(found, user, _browser(request))}
    return render(request, "pools/_desk.html", context)


@require_POST
def session_here(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Somebody types or moves there, or has clicked "I am here"."""
    found = _mine(request, pk)
    if found.is_live:
        broker.touch(found)
        found.refresh_from_db()
    if is_live(request):
        return _desk_part(request, found, person(request))
    if request.headers.get("Accept", "").startswith("application/json"):
        return HttpResponse(status=204)
    return redirect("desktops:session", pk=pk)


@require_POST
def session_shown(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The first picture is on the person's screen."""
    found = _mine(request, pk)
    if found.is_live:
        broker.shown(found)
    return HttpResponse(status=204)


@require_POST
def session_sign_out(request: HttpRequest, pk: UUID) -> HttpResponse:
    user, found = person(request), _mine(request, pk)
    broker.sign_out(found, EndReason.SIGNED_OUT, actor=user, request_ip=client_ip(request))
    return redirect("desktops:session", pk=pk)
