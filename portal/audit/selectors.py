"""Reading the audit trail."""

import ipaddress
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import Q, QuerySet

from portal.audit.models import Event
from portal.audit.words import ACTIONS


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
        events = events.filter(_matches(search))
    return events


def _matches(search: str) -> Q:
    """Each comparison is made with every event there is, so people, projects and actions are looked up beforehand."""
    people = get_user_model().objects.filter(username__icontains=search)
    projects = Event._meta.get_field("project").related_model._default_manager.filter(name__icontains=search)
    match = (
        Q(actor__in=people.values("pk"))
        | Q(actor=None, actor_name__icontains=search)  # Of accounts that are gone.
        | Q(target_name__icontains=search)
        | Q(target_id=search.lower())
        | Q(action__in=[action for action in ACTIONS if search.lower() in action])
        | Q(project__in=projects.values("pk"))
    )
    if is_address(search):
        match |= Q(request_ip=search)
    return match


def is_address(text: str) -> bool:
    """PostgreSQL refuses to compare an address with anything else."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
