"""Charts of a machine and of a host, a page each and a part of theirs; and what the machines in a list use now."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from portal.accounts.http import is_live, person
from portal.figures.charts import SPANS, charts_of, share_text, size_text, table_of
from portal.figures.points import Level
from portal.figures.selectors import Figures, Latest, host_figures, latest_of, machine_figures
from portal.hosts.models import Host
from portal.hosts.selectors import host_for, is_answering
from portal.lib.paging import text_of
from portal.machines.models import Machine
from portal.machines.selectors import machine_for
from portal.machines.states import PowerState, Status

MIB = 1024**2
# More machines than a page of the list shows are not asked for at once.
MOST_LOADS = 100


@require_safe
@never_cache
def machine(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = machine_for(request.user, pk)
    figures = machine_figures(found, _level_of(request))
    context = _context(figures, memory_total=found.memory_mib * MIB) | {
        "machine": found,
        "address": reverse("figures:machine", args=[found.pk]),
        "state": _state_of_machine(found, figures),
    }
    return render(request, "figures/_figures.html" if is_live(request) else "figures/machine.html", context)


@require_safe
@never_cache
def host(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = host_for(request.user, pk)
    figures = host_figures(found, _level_of(request))
    context = _context(figures, memory_total=found.memory_mib * MIB, of_host=True) | {
        "host": found,
        "address": reverse("host-figures:host", args=[found.pk]),
        "state": _state_of_host(found, figures),
    }
    return render(request, "figures/_figures.html" if is_live(request) else "figures/host.html", context)


def _level_of(request: HttpRequest) -> Level:
    wanted = text_of(request, "span")
    return Level(wanted) if wanted in SPANS else Level.HOUR


def _context(figures: Figures, *, memory_total: int, of_host: bool = False) -> dict[str, object]:
    headings, rows = table_of(figures)
    return {
        "figures": figures,
        "charts": charts_of(figures, memory_total=memory_total, of_host=of_host),
        "headings": headings,
        "rows": rows,
        "spans": SPANS,
        "span": figures.level,
        "span_text": SPANS[figures.level],
    }


def _state_of_machine(found: Machine, figures: Figures) -> str:
    """A sentence about why there is nothing new, or nothing at all; empty if all is as it should be."""
    if found.status == Status.READY and found.power_state == PowerState.SHUT_OFF:
        return _("The machine is off; it uses nothing.")
    if found.status == Status.READY and found.power_state == PowerState.UNKNOWN:
        return _("Its host does not answer, so there is nothing newer.")
    if found.power_state == PowerState.RUNNING and figures.is_empty:
        return _("The first ones are there some twenty seconds after it was started.")
    return ""


def _state_of_host(found: Host, figures: Figures) -> str:
    if not is_answering(found):
        return _("The host does not answer, so there is nothing newer.")
    return _("The first ones are there within a minute.") if figures.is_empty else ""


@require_safe
@never_cache
def loads(request: HttpRequest) -> JsonResponse:
    """What machines use now, by id: those of `ids` that the person sees and that told lately, others not at all."""
    wanted = [pk for text in text_of(request, "ids", most=37 * MOST_LOADS).split(",") if (pk := _uuid_of(text))]
    machines = Machine.objects.visible_to(person(request)).live().filter(pk__in=wanted)
    found = latest_of(machines.only("pk", "host_id", "memory_mib"))
    sizes = {one.pk: one.memory_mib * MIB for one in machines}
    return JsonResponse({str(pk): _load(latest, sizes[pk]) for pk, latest in found.items()})


def _uuid_of(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _load(latest: Latest, memory_bytes: int) -> dict[str, object]:
    """Shares are 0 to 1 or null; `words` are read out and shown on hover."""
    now = latest.now
    memory = now.memory_used
    words = [_("CPU %(share)s") % {"share": share_text(now.cpu)}] if now.cpu is not None else []
    if memory is not None:
        words.append(_("memory %(size)s") % {"size": size_text(memory)})
    return {
        "cpu": now.cpu,
        "memory": None if memory is None else min(memory / memory_bytes, 1.0),
        "spark": [None if share is None else round(share, 3) for share in latest.spark],
        "words": ", ".join(words),
    }
