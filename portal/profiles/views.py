"""People's files as pages: one's own, and for operators everybody's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, operators_only, person
from portal.accounts.models import User
from portal.lib.paging import page_of, text_of
from portal.machines.models import Machine
from portal.profiles import services
from portal.profiles.models import Profile
from portal.profiles.selectors import find_profiles, profile_for, profiles_of
from portal.profiles.states import State

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Line:
    """`machine_is_seen`: the reader may go to its page. `percent` is None where nobody has looked yet."""

    profile: Profile
    machine_is_seen: bool
    percent: int | None


@require_safe
def mine(request: HttpRequest) -> HttpResponse:
    user = person(request)
    context = {"lines": _lines(user, profiles_of(user))}
    return render(request, "profiles/_mine.html" if is_live(request) else "profiles/mine.html", context)


@require_safe
@operators_only
def profile_list(request: HttpRequest) -> HttpResponse:
    search, state = text_of(request, "q"), text_of(request, "state")
    page = page_of(request, find_profiles(search=search, state=state))
    context = {
        "page": page,
        "lines": _lines(person(request), page),
        "search": search,
        "state": state,
        "states": State.choices,
        "filtered": bool(search or state),
    }
    return render(request, "profiles/_list.html" if is_live(request) else "profiles/list.html", context)


@require_POST
@operators_only
def profile_release(request: HttpRequest, pk: UUID) -> HttpResponse:
    profile = profile_for(request.user, pk)
    services.request_release(profile, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(files)s are being put away.") % {"files": profile})
    return redirect("profiles:list")


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def profile_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    profile = profile_for(request.user, pk)
    if request.method != "POST":
        template = "profiles/_delete.html" if is_live(request) else "profiles/delete.html"
        [line] = _lines(person(request), [profile])
        return render(request, template, {"profile": profile, "line": line})
    if services.request_delete(profile, actor=person(request), request_ip=client_ip(request)) is not None:
        messages.success(request, _("%(files)s are being deleted.") % {"files": profile})
    else:
        messages.info(request, services.nothing_to_delete(profile))
    return redirect("profiles:list")


def _lines(reader: User, profiles: Iterable[Profile]) -> list[Line]:
    rows = list(profiles)
    machines = [row.machine_id for row in rows if row.machine_id is not None]
    seen = set(Machine.objects.visible_to(reader).live().filter(pk__in=machines).values_list("pk", flat=True))
    return [Line(row, row.machine_id in seen, _percent(row)) for row in rows]


def _percent(profile: Profile) -> int | None:
    if profile.used_bytes is None or not profile.has_files:
        return None
    return min(100, round(100 * profile.used_bytes / (profile.size_gib * GIB)))
