"""Reads about events and webhooks. Fetching and authorising are one call."""

from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Q, QuerySet

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.errors import NotFoundError
from portal.events.kinds import AREAS, Kind
from portal.events.models import Delivery, DeliveryStatus, Event, Webhook


def find_events(project: Project, *, kind: str = "", search: str = "") -> QuerySet[Event]:
    """The project's events, newest first. `kind` is one, or an area such as "machine"; others are ignored."""
    events = Event.objects.filter(project=project)
    if kind in Kind.values:
        events = events.filter(kind=kind)
    elif kind in AREAS:
        events = events.filter(kind__startswith=f"{kind}.")
    if search:
        events = events.filter(Q(subject_name__icontains=search) | Q(actor_name__icontains=search))
    return events


def webhooks_of(project: Project) -> QuerySet[Webhook]:
    """Each with the number of deliveries that wait: `waiting`."""
    waiting = Count("deliveries", filter=Q(deliveries__status=DeliveryStatus.PENDING))
    return Webhook.objects.filter(project=project).annotate(waiting=waiting).order_by("name", "created_at")


def webhook_for(user: User | AnonymousUser, pk: UUID | str) -> Webhook:
    """For those who manage its project. NotFoundError where that is unseen, ForbiddenError where it is only seen."""
    webhook = Webhook.objects.select_related("project").filter(pk=pk).first()
    if webhook is None:
        raise NotFoundError
    project_for(user, webhook.project_id, Permission.PROJECT_MANAGE)
    return webhook


def deliveries_of(webhook: Webhook) -> QuerySet[Delivery]:
    return Delivery.objects.filter(webhook=webhook).select_related("event").order_by("-event_id")


def delivery_for(user: User | AnonymousUser, pk: UUID | str) -> Delivery:
    delivery = Delivery.objects.select_related("webhook__project", "event").filter(pk=pk).first()
    if delivery is None:
        raise NotFoundError
    webhook_for(user, delivery.webhook_id)
    return delivery
