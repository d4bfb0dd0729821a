"""Reads about hosts."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from portal.accounts.models import User
from portal.errors import NotFoundError
from portal.hosts.models import Difference, Host

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
    """True if the host was seen lately and without an error. Seen in the future is before the clock was set back."""
    if host.last_seen_at is None or host.last_error:
        return False
    return -SILENT_AFTER < timezone.now() - host.last_seen_at < SILENT_AFTER


def hosts_with_counts() -> QuerySet[Host]:
    """Every host with the number of its machines (`machine_count`, and `running_count` of them) and of its differences.

    `difference_count` is None where there are none. The numbers are counted for the hosts that are read only: a page of
    them costs the same however many machines there are elsewhere.
    """
    # This app knows no machines, so they are counted by way of the host itself.
    itself = Host.objects.filter(pk=OuterRef("pk")).order_by().values("pk")
    here = ~Q(machines__status="deleted")
    return hosts_with_differences().annotate(
        machine_count=_number(itself, here), running_count=_number(itself, here & Q(machines__power_state="running"))
    )


def hosts_with_differences() -> QuerySet[Host]:
    """Every host with the number of its differences, `difference_count`; None where there are none."""
    of_host = Difference.objects.filter(host=OuterRef("pk")).order_by().values("host")
    differences = of_host.annotate(number=Count("pk")).values("number")
    return Host.objects.annotate(difference_count=Subquery(differences, output_field=IntegerField())).order_by("name")


def _number(itself: QuerySet[Host, Any], condition: Q) -> Subquery:
    return Subquery(
        itself.annotate(number=Count("machines", filter=condition)).values("number"), output_field=IntegerField()
    )
