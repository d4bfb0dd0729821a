"""What views ask of a request: whose it is, where it comes from, and whether an operator sent it."""

import ipaddress
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from django.http import HttpRequest, HttpResponse

from portal.accounts.models import User
from portal.errors import NotFoundError

P = ParamSpec("P")


def person(request: HttpRequest) -> User:
    """Who is signed in. LoginRequiredMiddleware lets nobody else through; should it ever, there is nothing to see."""
    if not isinstance(request.user, User):
        raise NotFoundError
    return request.user


def client_ip(request: HttpRequest) -> str | None:
    """The address the request came from; None where there is none, as on a UNIX socket.

    A proxy's word for it is taken by the server alone (uvicorn's --forwarded-allow-ips), never from a header here.
    """
    try:
        return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")))
    except ValueError:
        return None


def is_live(request: HttpRequest) -> bool:
    """True if a page's own script asks for the part of it that changed."""
    return request.headers.get("HX-Request") == "true" and "HX-Boosted" not in request.headers


def operators_only(
    view: Callable[Concatenate[HttpRequest, P], HttpResponse],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """For everyone else there is no such page."""

    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not (request.user.is_active and request.user.is_staff):
            raise NotFoundError
        return view(request, *args, **kwargs)

    return guarded
