"""Which host takes a new machine: conditions and order as SQL, so that a thousand hosts cost one query."""

from __future__ import annotations

import random
from collections.abc import Collection
from uuid import UUID

from django.db.models import Case, Exists, ExpressionWrapper, F, FloatField, Q, QuerySet, Value, When
from django.db.models.expressions import Combinable
from django.db.models.functions import Least
from django.utils import timezone

from portal.accounts.quota import Amount
from portal.hosts.models import Host
from portal.hosts.problems import STORAGE_FULL_BYTES
from portal.hosts.selectors import SILENT_AFTER

GIB = 1024**3
# So many are looked at, and chosen from by lot: enough that many requests at once do not all queue for one row.
LOOKED_AT = 16
# Hosts that have nearly as much room as the emptiest one are as good as it.
AS_GOOD_AS = 0.75

_lots = random.SystemRandom()


def number(expression: Combinable) -> ExpressionWrapper[Combinable]:
    return ExpressionWrapper(expression, output_field=FloatField())


# What may be promised, as `Host` has it in Python; a host that has not reported has nothing.
VCPUS = number(F("cpus") * F("vcpu_overcommit"))
MEMORY_MIB = number((F("memory_mib") - F("memory_kept_mib")) * F("memory_overcommit"))
DISK_GIB = number(F("storage_total_bytes") * (F("disk_overcommit") / Value(float(GIB))))
# What is promised may not be used yet, and what is used may not have been promised: the smaller room counts.
FREE_MEMORY_MIB = Least(
    number(MEMORY_MIB - F("reserved_memory_mib")),
    number(F("memory_mib") - F("memory_used_mib")),
    output_field=FloatField(),
)
FREE_DISK_GIB = number(DISK_GIB - F("reserved_disk_gib"))


def has_room_for(amount: Amount) -> Q:
    """The host takes new machines and has room for this one: by what is promised, and by what is really used.

    Really used memory is as old as the host's last report, so it only keeps machines off a host that is full already;
    the promises, which are exact, do the counting.
    """
    return may_be_promised(amount) & Q(
        enabled=True,
        last_error="",
        last_seen_at__isnull=False,
        memory_used_mib__lte=F("memory_mib") - amount.memory_mib,
        storage_free_bytes__gt=STORAGE_FULL_BYTES,  # A host that is nearly full takes nothing, whatever is promised.
    )


def may_be_promised(amount: Amount) -> Q:
    """By what is promised alone: for machines that are on the host already, whether it takes new ones or not."""
    return Q(
        reserved_vcpus__lte=number(VCPUS - amount.vcpus),
        reserved_memory_mib__lte=number(MEMORY_MIB - amount.memory_mib),
        reserved_disk_gib__lte=number(DISK_GIB - amount.disk_gib),
    )


def takers() -> QuerySet[Host]:
    """Hosts that take new machines and answer.

    When none has reported lately it is the watcher that is silent, not they: then all without an error count.
    """
    takers = Host.objects.filter(enabled=True, last_error="", last_seen_at__isnull=False)
    lately = Q(last_seen_at__gt=timezone.now() - SILENT_AFTER)
    return takers.filter(lately | ~Exists(takers.filter(lately)))


def candidates_for(amount: Amount, *, among: Collection[UUID] = ()) -> list[UUID]:
    """Keys of hosts with room, in the order in which to try them; empty if there is none. Only of `among`, if given.

    Emptiest first, those with more work than CPUs last. Among those that are about as empty it is by lot, so that
    requests at the same moment spread.
    """
    found = (
        (takers().filter(pk__in=among) if among else takers())
        .filter(has_room_for(amount))
        .annotate(free=FREE_MEMORY_MIB, is_busy=Case(When(load__gt=F("cpus"), then=1), default=0))
        .order_by("is_busy", "-free")
        .values_list("pk", "is_busy", "free")[:LOOKED_AT]
    )
    rows = list(found)
    if not rows:
        return []
    _, busy, most = rows[0]
    good = [pk for pk, is_busy, free in rows if is_busy == busy and free >= most * AS_GOOD_AS]
    _lots.shuffle(good)
    return good + [pk for pk, *_ in rows if pk not in good]
