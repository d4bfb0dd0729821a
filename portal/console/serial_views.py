"""Doors: the serial console in a tab of its own, and the log of what was printed there."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from portal.accounts.http import is_live
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.console.serial_log import excerpt, look_at
from portal.console.tickets import Mode
from portal.lib.paging import text_of
from portal.machines.models import Machine
from portal.machines.selectors import machine_for


@require_safe
def serial(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The terminal. As with the screen, a machine that is off gets the page too; `?watch=1` is for who only looks."""
    machine = machine_for(request.user, pk, Permission.MACHINE_CONSOLE_VIEW)
    may_start = Permission.MACHINE_OPERATE in permissions_in(request.user, machine.project_id)
    context = {
        "machine": machine,
        "start_url": reverse("machines:start", args=[pk]) if may_start else "",
        "mode": (Mode.VIEW if request.GET.get("watch") else Mode.CONTROL).value,
        # Columns and rows. A serial line tells nobody its size; every guest begins with the first.
        "sizes": [(80, 24), (100, 30), (132, 43)],
    }
    return render(request, "console/serial.html", context)


@require_safe
@never_cache
def log(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The end of the log, or of its lines with `?q=` in them. Who has the newest copy (`?have=`) gets nothing."""
    machine = _machine(request, pk)
    look, words = look_at(machine), text_of(request, "q")
    if is_live(request) and look.etag and not look.problem and request.GET.get("have") == look.etag:
        return HttpResponse(status=204)
    context = {
        "machine": machine,
        "look": look,
        "found": excerpt(look.text or "", words),
        "search": words,
    }
    return render(request, "console/_log.html" if is_live(request) else "console/log.html", context)


@require_safe
@never_cache
def log_download(request: HttpRequest, pk: UUID) -> HttpResponse:
    """All of it, as the same harmless text; a browser must save it and not think about what it is."""
    machine = _machine(request, pk)
    look = look_at(machine)
    if look.text is None:
        messages.info(request, _("The log is still on its way from the host. Try again in a moment."))
        return redirect("console:serial-log", pk=machine.pk)
    return HttpResponse(
        look.text,
        content_type="text/plain; charset=utf-8",
        headers={
            "Content-Disposition": content_disposition_header(True, f"{machine.name}-console.txt") or "attachment",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _machine(request: HttpRequest, pk: UUID) -> Machine:
    return machine_for(request.user, pk, Permission.MACHINE_CONSOLE_VIEW)
