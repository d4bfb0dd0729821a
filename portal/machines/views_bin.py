"""The bin: what lies in it, taking something back, and deleting it for good."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import ROLE_PERMISSIONS, Permission
from portal.accounts.selectors import roles_of
from portal.lib.paging import page_of
from portal.machines import binning, services
from portal.machines.device_selectors import volume_lines

PER_PAGE = 50


@require_safe
def bin_list(request: HttpRequest) -> HttpResponse:
    user = person(request)
    page = page_of(request, binning.binned_for(user), per_page=PER_PAGE)
    granted = {project: ROLE_PERMISSIONS[role] for project, role in roles_of(user).items()}
    everything = frozenset(Permission)
    rows = [
        {"machine": machine, "granted": everything if user.is_staff else granted.get(machine.project_id, frozenset())}
        for machine in page.object_list
    ]
    template = "machines/_bin.html" if is_live(request) else "machines/bin.html"
    return render(request, template, {"page": page, "rows": rows})


@require_POST
def bin_restore(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = binning.binned_machine_for(person(request), pk, Permission.MACHINE_DELETE)
    binning.request_restore(machine, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(name)s is back, switched off.") % {"name": machine.name})
    return redirect("machines:detail", pk=machine.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def bin_purge(request: HttpRequest, pk: UUID) -> HttpResponse:
    """First what will be lost, in words; then, by POST, it is deleted for good."""
    machine = binning.binned_machine_for(person(request), pk, Permission.MACHINE_PURGE)
    if request.method != "POST":
        template = "machines/_confirm_purge.html" if is_live(request) else "machines/confirm_purge.html"
        return render(request, template, {"machine": machine, "volumes": volume_lines(machine)})
    services.request_delete(machine, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(name)s is being deleted.") % {"name": machine.name})
    return redirect("machines:bin")
