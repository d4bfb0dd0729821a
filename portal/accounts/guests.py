"""Guests: people without an account, whom a link lets in to one thing until a certain time.

Each is an account of its own that has no password and no role, so everything that asks who somebody is and what they
may (tickets, sessions, grants) goes for guests as for everybody. Which pages are for them is said by the views
themselves: of all others there is nothing there for a guest.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable
from typing import TypeVar

from django.http import Http404, HttpRequest, HttpResponse
from django.utils.text import slugify

from portal.accounts.models import User

View = TypeVar("View", bound=Callable[..., object])
GetResponse = Callable[[HttpRequest], HttpResponse]


def open_to_guests(view: View) -> View:
    """Outermost of a view's decorators: guests may open it, too. What of it they see is the view's to ask."""
    view.open_to_guests = True  # type: ignore[attr-defined]  # read by the middleware below
    return view


class GuestMiddleware:
    """Deny by default: a guest sees only what says that it is for guests."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., object], args: tuple[object], kwargs: dict[str, object]
    ) -> None:
        if not getattr(view, "login_required", True) or getattr(view, "open_to_guests", False):
            return
        if isinstance(request.user, User) and request.user.is_guest:
            raise Http404


def make_guest(name: str, *, until: dt.datetime) -> User:
    """An account that nobody can sign in to. Its name says whose it is, and is nobody else's."""
    words = slugify(name.split("@", maxsplit=1)[0])[:60] or "guest"
    guest = User(username=f"{words}-guest-{secrets.token_hex(5)}", first_name=name[:150], guest_until=until)
    guest.set_unusable_password()
    guest.save()
    return guest


def renew(guest: User, *, until: dt.datetime) -> None:
    """Let them in until then. Those who are in already are out: the proof in their sessions is right no longer."""
    guest.set_unusable_password()
    guest.guest_until, guest.is_active = until, True
    guest.save(update_fields=["password", "guest_until", "is_active"])


def shut_out(guest: User) -> None:
    """Their sessions and screens end."""
    guest.set_unusable_password()
    guest.is_active = False
    guest.save(update_fields=["password", "is_active"])
