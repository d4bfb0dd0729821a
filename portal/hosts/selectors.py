"""Reads about hosts."""

from datetime import timedelta
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from portal.accounts.models import User
from portal.errors import NotFoundError
from portal.hosts.models import Host

# A host reports every 15 s; three missed reports and it counts as away.
SILENT_AFTER = timedelta(seconds=60)


def hosts() -> QuerySet[Host]:
    return Host.objects.all()


def host_for(user: User | AnonymousUser, pk: UUID | str) -> Host:
    """A host, for operators only: for everyone else there is none."""
    host = Host.objects.filter(pk=pk).first() if user.is_staff and user.is_active else None
    if host is None:
        raise NotFoundError
    return host


def is_answering(host: Host) -> bool:
    """True if the host was seen lately and without an error."""
    return bool(host.last_seen_at and not host.last_error and timezone.now() - host.last_seen_at < SILENT_AFTER)


def hosts_with_counts() -> QuerySet[Host]:
    """Every host with the number of its machines: `machine_count`, and `running_count` of them."""
    here = ~Q(machines__status="deleted")
    return Host.objects.annotate(
        machine_count=Count("machines", filter=here),
        running_count=Count("machines", filter=here & Q(machines__power_state="running")),
    ).order_by("name")
