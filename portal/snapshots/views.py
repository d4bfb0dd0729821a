"""A machine's snapshots: a part of its page that comes by itself, and a page of their own; and the buttons on them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.errors import InvalidError, PortalError
from portal.machines.models import Machine
from portal.machines.selectors import machine_for
from portal.snapshots import restoring, schedules, services
from portal.snapshots.forms import ChangeForm, RestoreForm, ScheduleForm, TakeForm
from portal.snapshots.selectors import loss_of, may_take, schedules_of, snapshot_for, tree_of
from portal.snapshots.states import Every


@require_safe
def machine(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = machine_for(request.user, pk)
    template = "snapshots/_snapshots.html" if is_live(request) else "snapshots/machine.html"
    return render(request, template, _context(request, found))


def _context(request: HttpRequest, found: Machine) -> dict[str, object]:
    granted = permissions_in(request.user, found.project_id)
    branches = tree_of(found, granted)
    return {
        "machine": found,
        "branches": branches,
        "nowhere": bool(branches) and not any(branch.is_here for branch in branches),
        "schedules": schedules_of(found),
        "may_take": may_take(request.user, found),
        "may_change": Permission.MACHINE_OPERATE in granted and not found.keeps_definition,
        "memory_can_be_kept": found.power_state in services.CAN_KEEP_MEMORY,
        "memory_gib": -(-found.memory_mib // 1024),
        "suggested": services.suggest_name(found),
        "schedule_form": ScheduleForm(),
    }


@require_POST
def take(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = machine_for(request.user, pk, Permission.MACHINE_OPERATE)
    data = _cleaned(TakeForm(request.POST))
    services.request_take(
        found,
        actor=person(request),
        name=data["name"],
        description=data["description"],
        with_memory=data["with_memory"],
        request_ip=client_ip(request),
    )
    return _answer(request, found)


@require_POST
def schedule(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = machine_for(request.user, pk, Permission.MACHINE_OPERATE)
    data = _cleaned(ScheduleForm(request.POST))
    schedules.set_schedule(
        found,
        actor=person(request),
        every=Every(data["every"]),
        keep=data["keep"],
        minute=data["at"].minute,
        hour=data["at"].hour,
        weekday=data["weekday"],
        request_ip=client_ip(request),
    )
    return _answer(request, found)


@require_POST
def unschedule(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = machine_for(request.user, pk, Permission.MACHINE_OPERATE)
    every = request.POST.get("every", "")
    schedules.remove_schedule(found, actor=person(request), every=every, request_ip=client_ip(request))
    return _answer(request, found)


@require_POST
def change(request: HttpRequest, pk: UUID) -> HttpResponse:
    snapshot = snapshot_for(request.user, pk, Permission.MACHINE_OPERATE)
    data = _cleaned(ChangeForm(request.POST))
    services.change(
        snapshot,
        actor=person(request),
        name=data["name"],
        description=data["description"],
        request_ip=client_ip(request),
    )
    return _answer(request, snapshot.machine)


@require_POST
def delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    snapshot = snapshot_for(request.user, pk, Permission.MACHINE_DELETE)
    services.request_delete(snapshot, actor=person(request), request_ip=client_ip(request))
    return _answer(request, snapshot.machine)


@require_http_methods(["GET", "HEAD", "POST"])
def restore(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What will be lost stands on the page, and how to keep it."""
    snapshot = snapshot_for(request.user, pk, Permission.MACHINE_OPERATE)
    form = RestoreForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        first = form.cleaned_data["take_first"]
        try:
            restoring.request_restore(snapshot, actor=person(request), take_first=first, request_ip=client_ip(request))
        except PortalError as error:
            form.add_error(None, str(error.message))
        else:
            messages.success(request, _("%(name)s is being restored.") % {"name": snapshot.name})
            return redirect("machines:detail", pk=snapshot.machine_id)
    context = {"snapshot": snapshot, "machine": snapshot.machine, "form": form, "loss": loss_of(snapshot)}
    return render(request, "snapshots/restore.html", context, status=422 if form.errors else 200)


# --- parts ----------------------------------------------------------------------------------------------------------


def _answer(request: HttpRequest, found: Machine) -> HttpResponse:
    """htmx refreshes what shows the machine, a plain browser goes to its snapshots."""
    if is_live(request):
        changed = {"casement:changed": {"topics": [f"machine:{found.pk}"]}}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(changed)})
    return redirect(reverse("snapshots:machine", args=[found.pk]))


def _cleaned(form: forms.Form) -> dict[str, Any]:
    """What was typed, or an InvalidError with the first thing that is wrong with it."""
    if form.is_valid():
        return form.cleaned_data
    field, errors = next(iter(form.errors.items()))
    label = form.fields[field].label if field in form.fields else ""
    raise InvalidError(f"{label}: {errors[0]}" if label else str(errors[0]), field=field)
