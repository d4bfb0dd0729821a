"""Reading the audit trail."""

import ipaddress
from uuid import UUID

from django.db import models
from django.db.models import Q, QuerySet

from portal.audit.models import Event


def events_of(target: models.Model, *, limit: int = 50) -> QuerySet[Event]:
    """The newest events of one object."""
    return Event.objects.filter(target_type=target._meta.model_name, target_id=str(target.pk)).select_related("actor")[
        :limit
    ]


def events_in(project_id: UUID, *, limit: int = 50) -> QuerySet[Event]:
    """The newest events of a project and of everything in it."""
    return Event.objects.filter(project_id=project_id).select_related("actor")[:limit]


def find_events(*, search: str = "", area: str = "") -> QuerySet[Event]:
    """All events, newest first, for the operators' page. `area` is what an action begins with, such as "machine"."""
    events = Event.objects.select_related("project")
    if area:
        events = events.filter(action__startswith=f"{area}.")
    if search:
        match = (
            Q(actor_name__icontains=search)
            | Q(target_name__icontains=search)
            | Q(target_id__iexact=search)
            | Q(action__icontains=search)
            | Q(project__name__icontains=search)
        )
        if _is_address(search):
            match |= Q(request_ip=search)
        events = events.filter(match)
    return events


def _is_address(text: str) -> bool:
    """PostgreSQL refuses to compare an address with anything else."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
