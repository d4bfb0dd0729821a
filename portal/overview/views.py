"""For operators: is everything all right, and each host by itself.

The rows of hosts are those of `portal.hosts`; the pages stand above the other apps because they show machines, jobs and
open screens beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from portal.accounts.http import client_ip, is_live, operators_only, person
from portal.accounts.models import Project
from portal.accounts.permissions import Permission
from portal.console.selectors import open_sessions
from portal.errors import InvalidError
from portal.figures.selectors import busiest_machines
from portal.hosts import services
from portal.hosts.capacity import CapacityLine, capacity_of, capacity_of_enabled
from portal.hosts.differences import difference_for, differences_on
from portal.hosts.forms import AdoptForm, TakesMachinesForm
from portal.hosts.models import Host
from portal.hosts.problems import Problem, accelerator_words, in_trouble, network_words, problems_among, problems_of
from portal.hosts.selectors import host_for, hosts_with_counts, hosts_with_differences, is_answering
from portal.jobs.selectors import active_jobs, lines_of, recent_failures, stuck_jobs
from portal.lib.paging import page_of, text_of
from portal.machines import drift
from portal.machines.selectors import counts_by_condition, machine_for, machines_in_error, machines_on
from portal.overview.differences import lines_of as lines_of_differences

# More rows than this are counted and linked to, not listed: an overview is read at a glance.
SHOWN = 10
SHOWN_DIFFERENCES = 100
HOSTS_PER_PAGE = 24


@dataclass(frozen=True, slots=True)
class HostRow:
    host: Host
    is_answering: bool
    problems: list[Problem]
    capacity: list[CapacityLine]


@dataclass(frozen=True, slots=True)
class Count:
    """How many machines are in a state, as a link to them. `status` is the filter of the machines' list."""

    number: int
    word: str
    status: str
    tone: str
    icon: str


@require_safe
@operators_only
def overview(request: HttpRequest) -> HttpResponse:
    troubled = list(hosts_with_differences().filter(in_trouble()))
    host_count = Host.objects.count()
    stuck = stuck_jobs(limit=5 * SHOWN)
    stuck_ids = {job.pk for job in stuck}
    running = [job for job in active_jobs()[: 5 * SHOWN] if job.pk not in stuck_ids]
    failures = list(recent_failures().order_by("-finished_at")[: 5 * SHOWN])
    told = {job.target_id for job in failures}
    in_error = [machine for machine in machines_in_error(limit=SHOWN) if machine.pk not in told]
    problems = problems_among(troubled, others_well=host_count - len(troubled))
    capacity, enabled_count = capacity_of_enabled()
    context = {
        "hosts": [_row(host) for host in _most_telling(troubled)],
        "host_count": host_count,
        "problems": problems[:SHOWN],
        "problem_count": len(problems),
        "stuck": stuck[:SHOWN],
        "stuck_count": len(stuck),
        "failures": failures[:SHOWN],
        "failure_count": len(failures),
        "in_error": in_error,
        "counts": _counts(counts_by_condition()),
        "capacity": capacity,
        "enabled_count": enabled_count,
        "running": lines_of(running[:SHOWN]),
        "running_count": len(running),
        "sessions": open_sessions(limit=SHOWN),
        "busiest": busiest_machines(),
        "trouble_count": len(problems) + len(stuck) + len(failures) + len(in_error),
    }
    return render(request, "hosts/_overview.html" if is_live(request) else "hosts/overview.html", context)


@require_safe
@operators_only
def host_list(request: HttpRequest) -> HttpResponse:
    search, state = text_of(request, "q"), text_of(request, "state")
    hosts = hosts_with_counts()
    if search:
        hosts = hosts.filter(name__icontains=search)
    if state == "trouble":
        hosts = hosts.filter(in_trouble())
    page = page_of(request, hosts, per_page=HOSTS_PER_PAGE)
    context = {
        "page": page,
        "hosts": [_row(host) for host in page],
        "search": search,
        "state": state,
        "filtered": bool(search or state),
    }
    return render(request, "hosts/_list.html" if is_live(request) else "hosts/list.html", context)


@require_safe
def host_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    host = host_for(request.user, pk)
    context = {
        "row": _row(host),
        "host": host,
        "accelerator": accelerator_words(host),
        "network": network_words(host),
        "machines": list(machines_on(host)[:500]),
        "differences": lines_of_differences(differences_on(host)[:SHOWN_DIFFERENCES]),
        "projects": Project.objects.all(),
    }
    return render(request, "hosts/_detail.html" if is_live(request) else "hosts/detail.html", context)


@require_POST
def host_enable(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Take new machines, or not, as the form says: a value, not a switch, so that two clicks at once do no harm."""
    host = host_for(request.user, pk)
    form = TakesMachinesForm(request.POST)
    if form.is_valid():
        enabled = form.cleaned_data["enabled"] == "yes"
        services.set_enabled(host, actor=person(request), enabled=enabled, request_ip=client_ip(request))
        said = _("%(host)s takes new machines.") if enabled else _("%(host)s takes no new machines any more.")
        messages.success(request, said % {"host": host.name})
    return redirect("hosts:detail", pk=host.pk)


@require_POST
def difference_adopt(request: HttpRequest, pk: UUID) -> HttpResponse:
    difference = difference_for(request.user, pk)
    form = AdoptForm(request.POST)
    if not form.is_valid():
        raise InvalidError(_("Choose a project and a name."))
    machine = drift.request_adoption(
        difference,
        actor=person(request),
        project=form.cleaned_data["project"],
        name=form.cleaned_data["name"],
        request_ip=client_ip(request),
    )
    messages.success(request, _("%(name)s is being taken over.") % {"name": machine.name})
    return redirect("machines:detail", pk=machine.pk)


@require_POST
def difference_repair(request: HttpRequest, pk: UUID) -> HttpResponse:
    difference = difference_for(request.user, pk)
    machine = machine_for(request.user, difference.object_id, Permission.MACHINE_OPERATE)
    drift.request_repair(machine, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(name)s is being defined again.") % {"name": machine.name})
    return redirect("hosts:detail", pk=difference.host_id)


@require_POST
def difference_remove_copy(request: HttpRequest, pk: UUID) -> HttpResponse:
    difference = difference_for(request.user, pk)
    drift.request_copy_removal(difference, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("The copy is being removed."))
    return redirect("hosts:detail", pk=difference.host_id)


def _counts(machines: Mapping[str, int]) -> list[Count]:
    return [
        Count(machines["running"], _("Running"), "running", "good", icon="circle-filled"),
        Count(machines["off"], _("Shut off"), "off", "idle", icon="square-rounded"),
        Count(machines["building"], _("Being built"), "building", "busy", icon="loader-2"),
        Count(machines["failed"], _("Failed"), "failed", "bad", icon="alert-triangle-filled"),
        Count(machines["unknown"], _("Host not answering"), "unknown", "warn", icon="help-circle"),
        Count(machines["total"], _("In all"), "", "idle", icon="device-desktop"),
    ]


def _most_telling(troubled: list[Host]) -> list[Host]:
    """Those of which something is wrong, and then by name, as many as an overview shows."""
    first = [host.pk for host in troubled[:SHOWN]]
    others = Host.objects.exclude(pk__in=first).order_by("name").values_list("pk", flat=True)
    shown = (first + list(others[:SHOWN]))[:SHOWN]
    return sorted(hosts_with_counts().filter(pk__in=shown), key=lambda host: shown.index(host.pk))


def _row(host: Host) -> HostRow:
    return HostRow(host, is_answering(host), problems_of(host), capacity_of(host))
