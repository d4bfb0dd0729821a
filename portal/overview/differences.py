"""What differs between a host and the portal, in an operator's words, with what can be done about each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _

from portal.hosts.models import Difference, DifferenceKind
from portal.jobs.models import Job
from portal.jobs.selectors import active_jobs_of
from portal.lib.units import format_mib
from portal.machines.drift import ADOPTABLE, REPAIRABLE, suggest_name
from portal.machines.models import Machine


@dataclass(frozen=True, slots=True)
class Line:
    """A difference with the buttons that fit it. `url` is the page of the machine that it is about, if it has one."""

    difference: Difference
    title: str
    text: str
    url: str
    job: Job | None
    can_adopt: bool
    can_repair: bool
    can_remove: bool
    suggested_name: str


def lines_of(differences: Iterable[Difference]) -> list[Line]:
    listed = list(differences)
    ids = [difference.object_id for difference in listed]
    machines = {machine.pk: machine for machine in Machine.objects.live().filter(pk__in=ids)}
    removals = active_jobs_of("difference", [difference.pk for difference in listed])
    repairs = active_jobs_of("machine", ids)
    return [
        _line(row, machines.get(row.object_id), removals.get(row.pk) or repairs.get(row.object_id)) for row in listed
    ]


def _line(difference: Difference, machine: Machine | None, job: Job | None) -> Line:
    kind = DifferenceKind(difference.kind)
    title, text = _WORDS[kind](difference.name or str(difference.object_id), difference.detail)
    return Line(
        difference,
        title,
        text,
        url=reverse("machines:detail", args=[machine.pk]) if machine else "",
        job=job,
        can_adopt=kind in ADOPTABLE and machine is None,
        can_repair=_can_repair(difference, machine),
        can_remove=kind == DifferenceKind.ELSEWHERE,
        suggested_name=suggest_name(difference) if kind in ADOPTABLE else "",
    )


def _can_repair(difference: Difference, machine: Machine | None) -> bool:
    if machine is None or machine.keeps_definition or difference.kind not in REPAIRABLE:
        return False
    return bool(difference.detail.get("has_disk", True))


Detail = dict[str, Any]


def _missing(name: str, detail: Detail) -> tuple[str, str]:
    title = _("%(name)s is not defined on this host any more") % {"name": name}
    if detail.get("has_disk"):
        return title, _("Somebody removed it past the portal. Its disk is here: it can be defined again and started.")
    return title, _("Somebody removed it past the portal, and its disk as well. What is left to do is to delete it.")


def _no_disk(name: str, _detail: Detail) -> tuple[str, str]:
    return (
        _("%(name)s has lost its disk") % {"name": name},
        _("It is defined, but its disk is not in the host's folder. Put it back from a copy, or delete the machine."),
    )


def _size(name: str, detail: Detail) -> tuple[str, str]:
    return (
        _("%(name)s has another size on the host") % {"name": name},
        _("The host gives it %(size)s. Defining it again gives it the portal's size at its next start.")
        % {"size": _size_words(detail)},
    )


def _elsewhere(name: str, detail: Detail) -> tuple[str, str]:
    return (
        _("A copy of %(name)s is here") % {"name": name},
        _("The machine belongs on %(host)s. What is here was left by an earlier attempt, or put here by hand.")
        % {"host": detail.get("host", "?")},
    )


def _foreign(name: str, detail: Detail) -> tuple[str, str]:
    if detail.get("owned"):
        text = _("A Casement made it (%(size)s), but no project here knows it: another portal's, or its row was lost.")
    else:
        text = _("Casement did not make it (%(size)s). It is left alone; taken over, it belongs to a project.")
    return _("%(name)s is nobody's here") % {"name": name}, text % {"size": _size_words(detail)}


def _stray(_name: str, detail: Detail) -> tuple[str, str]:
    return (
        _("A disk of %(size)s GiB belongs to no machine") % {"size": detail.get("disk_gib", "?")},
        _("It is left alone. Taken over, a machine is made around it, with a new name, user and password inside."),
    )


def _image(name: str, detail: Detail) -> tuple[str, str]:
    return (
        _("A base image of %(size)s GiB is not one of the portal's") % {"size": detail.get("disk_gib", "?")},
        _("It is left alone: disks of another portal may be based on it. Its file is images/%(name)s.qcow2.")
        % {"name": name},
    )


def _parent(name: str, detail: Detail) -> tuple[str, str]:
    return (
        _("A running copy of %(size)s GiB is not one of the portal's") % {"size": detail.get("disk_gib", "?")},
        _("It is left alone: machines of another portal may be forked from it. Its files are in parents/%(name)s.")
        % {"name": name},
    )


def _no_volume(name: str, _detail: Detail) -> tuple[str, str]:
    return (
        _("The file of the volume %(name)s is not on this host") % {"name": name},
        _("Somebody removed it past the portal. Put it back from a copy, or detach the volume and delete it."),
    )


def _volume(name: str, detail: Detail) -> tuple[str, str]:
    return (
        _("A volume of %(size)s GiB is not one of the portal's") % {"size": detail.get("disk_gib", "?")},
        _("It is left alone: it may be another portal's. Its file is volumes/%(name)s.qcow2.") % {"name": name},
    )


def _size_words(detail: Detail) -> str:
    return _("%(vcpus)s vCPUs, %(memory)s") % {
        "vcpus": detail.get("vcpus", "?"),
        "memory": format_mib(int(detail.get("memory_mib", 0))),
    }


_WORDS: dict[DifferenceKind, Callable[[str, Detail], tuple[str, str]]] = {
    DifferenceKind.MISSING: _missing,
    DifferenceKind.NO_DISK: _no_disk,
    DifferenceKind.SIZE: _size,
    DifferenceKind.ELSEWHERE: _elsewhere,
    DifferenceKind.FOREIGN: _foreign,
    DifferenceKind.STRAY: _stray,
    DifferenceKind.IMAGE: _image,
    DifferenceKind.PARENT: _parent,
    DifferenceKind.NO_VOLUME: _no_volume,
    DifferenceKind.VOLUME: _volume,
}
