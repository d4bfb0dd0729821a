"""Pools for operators: the list, a new one, one live with its buttons, and its settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, operators_only, person
from portal.accounts.models import Project, User
from portal.accounts.services import person_named
from portal.errors import InvalidError, PortalError
from portal.lib.paging import text_of
from portal.machines.models import Flavour
from portal.pools import broker, services
from portal.pools.board import board_of, entitled_lines, has_desktops, hours_lines, hours_of
from portal.pools.forms import (
    EntitlementForm,
    EntitlementRemoveForm,
    HoursForm,
    HoursRemoveForm,
    MessageForm,
    PoolForm,
    RecomposeForm,
    versions_to_choose,
)
from portal.pools.models import Pool
from portal.pools.selectors import (
    PoolRow,
    desktop_for,
    entitlements_of,
    managed_pool,
    pool_rows,
    session_for,
    sessions_in,
)
from portal.pools.states import DesktopState, EndReason, PoolKind, Recompose
from portal.pools.words import KINDS

# --- the list -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A pool in the list."""

    row: PoolRow

    @property
    def pool(self) -> Pool:
        return self.row.pool

    @property
    def kind(self) -> str:
        return str(KINDS[self.pool.kind])

    @property
    def ready(self) -> int:
        return self.row.desktops[DesktopState.SPARE]

    @property
    def used(self) -> int:
        return self.row.desktops[DesktopState.TAKEN]

    @property
    def waiting(self) -> int:
        return self.row.waiting

    @property
    def failed(self) -> int:
        return self.row.desktops[DesktopState.FAILED]


@require_safe
@operators_only
def pool_list(request: HttpRequest) -> HttpResponse:
    search, kind = text_of(request, "q"), text_of(request, "kind")
    everything = pool_rows(request.user)
    lines = [Line(row) for row in everything if _matches(row.pool, search.casefold(), kind)]
    context = {
        "rows": lines,
        "search": search,
        "kind": kind,
        "kinds": [(value, KINDS[value]) for value in PoolKind.values],
        "filtered": bool(search or kind),
        "has_pools": bool(everything),
    }
    return render(request, "pools/_list.html" if is_live(request) else "pools/list.html", context)


def _matches(pool: Pool, search: str, kind: str) -> bool:
    if kind and pool.kind != kind:
        return False
    return any(search in text.casefold() for text in (pool.title, pool.name, pool.project.name))


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def pool_new(request: HttpRequest) -> HttpResponse:
    context: dict[str, Any] = {"form": PoolForm(), "lacks": _what_lacks()}
    if request.method != "POST":
        return render(request, "pools/new.html", context)
    form = PoolForm(request.POST)
    pool = _create(request, form) if form.is_valid() else None
    if pool is not None:
        messages.success(request, _("%(name)s is there. Say now who may use it.") % {"name": pool.title})
        return redirect("pools:detail", pk=pool.pk)
    return render(request, "pools/new.html", context | {"form": form}, status=422)


def _what_lacks() -> str:
    """What has to be there before there can be a pool."""
    if not Project.objects.exists():
        return _("There is no project in which its machines could live. Make one first.")
    if not versions_to_choose().exists():
        return _("There is no image yet that is ready. Build or upload one first.")
    if not Flavour.objects.filter(enabled=True).exists():
        return _("There is no size yet. Add one in the administration.")
    return ""


def _create(request: HttpRequest, form: PoolForm) -> Pool | None:
    """The pool, or None with the reason in the form."""
    data = form.cleaned_data
    try:
        return services.create_pool(
            data["name"],
            actor=person(request),
            project=data["project"],
            image_version=data["image_version"],
            flavour=data["flavour"],
            kind=PoolKind(data["kind"]),
            request_key=data["request_key"],
            request_ip=client_ip(request),
            **form.settings(),
        )
    except PortalError as error:
        form.add_error(form.field_of(error), str(error.message))
        return None


# --- one, live ------------------------------------------------------------------------------------------------------


@require_safe
@operators_only
def pool_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _detail(request, managed_pool(request.user, pk))


def _detail(
    request: HttpRequest,
    pool: Pool,
    *,
    message_form: MessageForm | None = None,
    recompose_form: RecomposeForm | None = None,
    status: int = 200,
) -> HttpResponse:
    context = board_of(pool) | {
        "message_form": message_form or MessageForm(initial={"text": pool.message}),
        "recompose_form": recompose_form or RecomposeForm(pool=pool, initial={"version": pool.image_version_id}),
    }
    template = "pools/_detail.html" if is_live(request) and request.method == "GET" else "pools/detail.html"
    return render(request, template, context, status=status)


@require_POST
@operators_only
def maintenance(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    on = request.POST.get("on") == "yes"
    services.set_maintenance(pool, actor=person(request), on=on, request_ip=client_ip(request))
    return redirect("pools:detail", pk=pk)


@require_POST
@operators_only
def message(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    form = MessageForm({"text": request.POST.get("text", "")})
    away = bool(request.POST.get("away"))
    if not away and not form.is_valid():
        return _detail(request, pool, message_form=form, status=422)
    text = "" if away else form.cleaned_data["text"]
    services.send_message(pool, actor=person(request), text=text, request_ip=client_ip(request))
    return redirect("pools:detail", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def sign_off(request: HttpRequest, pk: UUID) -> HttpResponse:
    """First what it means, in words; then, by POST, it is done."""
    pool = managed_pool(request.user, pk)
    if request.method != "POST":
        loses = pool.kind == PoolKind.FLOATING
        context = {"pool": pool, "session_count": sessions_in(pool).count(), "loses": loses}
        return render(request, "pools/_sign_off.html" if is_live(request) else "pools/sign_off.html", context)
    count = services.sign_off_all(pool, actor=person(request), request_ip=client_ip(request))
    told = ngettext("%(number)s person is signed off.", "%(number)s people are signed off.", count) % {"number": count}
    messages.success(request, told)
    return redirect("pools:detail", pk=pk)


@require_POST
@operators_only
def session_sign_off(request: HttpRequest, pk: UUID) -> HttpResponse:
    session = session_for(request.user, pk)
    broker.sign_out(session, EndReason.OPERATOR, actor=person(request), request_ip=client_ip(request))
    if is_live(request):
        changed = {"casement:changed": {"topics": [f"pool:{session.pool_id}"]}}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(changed)})
    return redirect("pools:detail", pk=session.pool_id)


@require_POST
@operators_only
def desktop_recycle(request: HttpRequest, pk: UUID) -> HttpResponse:
    desktop = desktop_for(request.user, pk)
    broker.recycle(desktop, actor=person(request), request_ip=client_ip(request))
    if is_live(request):
        changed = {"casement:changed": {"topics": [f"pool:{desktop.pool_id}"]}}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(changed)})
    return redirect("pools:detail", pk=desktop.pool_id)


# --- versions -------------------------------------------------------------------------------------------------------


@require_POST
@operators_only
def recompose(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    form = RecomposeForm(request.POST, pool=pool)
    if form.is_valid():
        data = form.cleaned_data
        try:
            services.recompose(
                pool,
                actor=person(request),
                image_version=data["version"],
                how=Recompose(data["how"]),
                at=data["at"],
                request_ip=client_ip(request),
            )
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error.message))
        else:
            messages.success(request, _("The desktops come to %(version)s.") % {"version": data["version"]})
            return redirect("pools:detail", pk=pk)
    return _detail(request, pool, recompose_form=form, status=422)


@require_POST
@operators_only
def back(request: HttpRequest, pk: UUID) -> HttpResponse:
    """To the version before, in one step. The button names the version, so that a second click does nothing."""
    pool = managed_pool(request.user, pk)
    if str(pool.previous_version_id) == request.POST.get("version"):
        services.back_to_previous(pool, actor=person(request), request_ip=client_ip(request))
        messages.success(request, _("The desktops go back to the version before."))
    return redirect("pools:detail", pk=pk)


@require_POST
@operators_only
def recompose_cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    services.cancel_recompose(pool, actor=person(request), request_ip=client_ip(request))
    return redirect("pools:detail", pk=pk)


# --- settings -------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def pool_edit(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    if request.method != "POST":
        return _edit(request, pool)
    form = PoolForm(request.POST, pool=pool)
    if form.is_valid():
        try:
            services.change_pool(
                pool,
                actor=person(request),
                flavour=form.cleaned_data["flavour"],
                request_ip=client_ip(request),
                **form.settings(),
            )
        except PortalError as error:
            form.add_error(form.field_of(error), str(error.message))
        else:
            messages.success(request, _("The changes are kept."))
            return redirect("pools:detail", pk=pk)
    return _edit(request, managed_pool(request.user, pk), form=form, status=422)


def _edit(
    request: HttpRequest,
    pool: Pool,
    *,
    form: PoolForm | None = None,
    entitlement_form: EntitlementForm | None = None,
    hours_form: HoursForm | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {
        "pool": pool,
        "form": form or PoolForm.of(pool),
        "entitlements": entitled_lines(pool),
        "entitlement_form": entitlement_form or EntitlementForm(),
        "hours": hours_lines(pool),
        "hours_form": hours_form or HoursForm(),
        "filled": has_desktops(pool),
    }
    return render(request, "pools/edit.html", context, status=status)


@require_POST
@operators_only
def people_add(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    form = EntitlementForm(request.POST)
    if form.is_valid():
        try:
            who = _who(form.cleaned_data["what"], form.cleaned_data["who"])
            services.entitle(pool, actor=person(request), request_ip=client_ip(request), **who)
        except PortalError as error:
            form.add_error("who", str(error.message))
        else:
            return redirect(_part("people", pk))
    return _edit(request, pool, entitlement_form=form, status=422)


def _who(what: str, name: str) -> dict[str, Any]:
    """The person, project or group of this name; InvalidError if there is none."""
    name = name.strip()
    found: User | Project | Group | None
    if what == "user":
        found = person_named(name)
    elif what == "project":
        found = Project.objects.filter(name__iexact=name).first()
    else:
        found = Group.objects.filter(name__iexact=name).first()
    if found is None:
        raise InvalidError(_("There is nobody and nothing of this name."), field="who")
    return {what: found}


@require_POST
@operators_only
def people_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    form = EntitlementRemoveForm(request.POST)
    found = entitlements_of(pool).filter(pk=form.cleaned_data["entitlement"]).first() if form.is_valid() else None
    if found is not None:
        services.disentitle(found, actor=person(request), request_ip=client_ip(request))
    return redirect(_part("people", pk))


@require_POST
@operators_only
@transaction.atomic
def hours_add(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    form = HoursForm(request.POST)
    if form.is_valid():
        there = hours_of(pool)
        wanted = [*there, *(one for one in form.hours() if one not in there)]
        try:
            services.set_hours(pool, actor=person(request), hours=wanted, request_ip=client_ip(request))
        except PortalError as error:
            form.add_error(None, str(error.message))
        else:
            return redirect(_part("hours", pk))
    return _edit(request, pool, hours_form=form, status=422)


@require_POST
@operators_only
@transaction.atomic
def hours_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    form = HoursRemoveForm(request.POST)
    found = pool.hours.filter(pk=form.cleaned_data["hours"]).first() if form.is_valid() else None
    if found is not None:
        gone = (found.weekday, found.from_minute)
        left = [one for one in hours_of(pool) if (one.weekday, one.from_minute) != gone]
        services.set_hours(pool, actor=person(request), hours=left, request_ip=client_ip(request))
    return redirect(_part("hours", pk))


def _part(name: str, pk: UUID) -> str:
    return f"{reverse('pools:edit', args=[pk])}#{name}"


@require_POST
@operators_only
def pool_empty(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    services.empty_pool(pool, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("Its desktops are being deleted. Then the pool itself can be."))
    return redirect("pools:detail", pk=pk)


@require_POST
@operators_only
def pool_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    pool = managed_pool(request.user, pk)
    services.delete_pool(pool, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(name)s is deleted.") % {"name": pool.title})
    return redirect("pools:list")
