"""Reads about copies of machines' disks, as their pages show them."""

from __future__ import annotations

import re

from django.db.models import QuerySet

from portal.accounts.models import User
from portal.images.models import Image, Source
from portal.images.selectors import images_for, may_add
from portal.machines.models import Machine
from portal.snapshots.models import Snapshot
from portal.snapshots.states import Status


def suggest_clone_name(machine: Machine) -> str:
    """A name that is free in its project: lamp-2 after lamp, lamp-3 after lamp-2."""
    stem = re.sub(r"-\d{1,4}$", "", machine.name)[:58]
    alike = Machine.objects.filter(project=machine.project_id, name__startswith=stem).exclude(status="deleted")
    taken = set(alike.order_by().values_list("name", flat=True))
    return next(name for number in range(2, len(taken) + 3) if (name := f"{stem}-{number}") not in taken)


def images_for_capture(user: User, machine: Machine) -> list[Image]:
    """Those that may get another version made of this machine: of its project, and for operators those of everyone."""
    images = images_for(user).usable_in(machine.project)  # type: ignore[attr-defined]  # images_for keeps the queryset's class
    return [image for image in images.exclude(source=Source.RECIPE) if may_add(user, image)]


def snapshots_to_copy(machine: Machine) -> QuerySet[Snapshot]:
    """Those that are whole, newest first."""
    return Snapshot.objects.filter(machine=machine, status=Status.READY).order_by("-created_at")
