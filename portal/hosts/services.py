"""Writes about hosts: registering, what they report, and reserving their capacity."""

from collections.abc import Collection
from uuid import UUID

from django.db import transaction
from django.db.models import F, Max, Q
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.quota import Amount
from portal.audit import services as audit
from portal.errors import ForbiddenError, NoCapacityError
from portal.hosts import placement
from portal.hosts.models import Host
from portal.hosts.problems import STORAGE_FULL_BYTES
from portal.hosts.selectors import is_answering
from portal.lib import live

FIGURES = frozenset({"load", "memory_used_mib", "storage_free_bytes"})


@transaction.atomic
def register_host(name: str, *, uri: str, pool_dir: str, network: str = "casement", actor: User | None = None) -> Host:
    """Add a host, or bring the one of this name up to date. It gets its sizes from its first report.

    One that is reached in another way counts as not seen yet: how its network is made differs between root and others.
    """
    values = {"uri": uri, "pool_dir": pool_dir, "network": network}
    Host.objects.filter(name=name).exclude(uri=uri).update(last_seen_at=None, network_mode="")
    host, created = Host.objects.update_or_create(name=name, defaults=values)
    if created:
        audit.record(actor, "host.registered", host, detail={"uri": uri})
    return host


@transaction.atomic
def set_enabled(host: Host, *, actor: User, enabled: bool, request_ip: str | None = None) -> None:
    """Let the host take new machines, or not. Machines on it are left as they are."""
    if not (actor.is_active and actor.is_staff):
        raise ForbiddenError(_("Only operators may do this."))
    if Host.objects.filter(pk=host.pk).exclude(enabled=enabled).update(enabled=enabled) == 1:
        audit.record(actor, "host.enabled" if enabled else "host.disabled", host, request_ip=request_ip)
        tell(host)


def record_host(host: Host, **observed: object) -> None:
    """Store what the host said of itself, and that it was heard.

    Pages of all hosts are told of what is news. Figures that are never still are none: a thousand hosts report, and
    those pages look again by themselves.
    """
    was_answering = is_answering(host)
    Host.objects.filter(pk=host.pk).update(**observed, last_seen_at=timezone.now(), last_error="")
    facts = {name: value for name, value in observed.items() if name not in FIGURES}
    if was_answering and all(getattr(host, name) == value for name, value in facts.items()):
        live.publish_on_commit([live.OPERATORS], [f"host:{host.pk}"])
    else:
        tell(host)


def record_unreachable(host: Host, *, message: str) -> None:
    """The host did not answer. Nothing else is concluded from that."""
    Host.objects.filter(pk=host.pk).update(last_error=message[:300])
    tell(host)


def reserve_capacity(amount: Amount, *, rather: Collection[UUID] = ()) -> Host:
    """Choose a host with room for `amount` and reserve it there. NoCapacityError says what is missing.

    One of `rather` is taken if any of them has room.

    One query finds candidates, and each try is one conditional UPDATE, so two requests at once cannot both take the
    last of a host. When others took all that was found, it is looked again: somebody got it, so that ends.
    """
    for pk in placement.candidates_for(amount, among=rather) if rather else ():
        if _reserve_on(pk, amount):
            return Host.objects.get(pk=pk)
    while candidates := placement.candidates_for(amount):
        for pk in candidates:
            if _reserve_on(pk, amount):
                return Host.objects.get(pk=pk)
    raise NoCapacityError(_why_none(amount))


def reserve_on(host: Host, amount: Amount) -> None:
    """Reserve it on this very host, if it takes new machines: all of it or, with NoCapacityError, nothing."""
    if not _reserve_on(host.pk, amount):
        raise NoCapacityError(
            _("There is no room for this: %(free_memory)s MiB of memory and %(free_disk)s GiB of disk are free.")
            % _free_on(host)
        )
    tell(host)


# Of a batch that many come to one host, so that placing it costs a few statements.
SHARED_BY = 4


def reserve_many(amount: Amount, count: int, *, rather: Collection[UUID] = ()) -> list[Host]:
    """As `reserve_capacity`, for so many alike: a host for each; some share one where it has room for them.

    All of them or, with NoCapacityError, none: to be called in a transaction.
    """
    taken: list[UUID] = []
    for among in (rather, ()) if rather else ((),):
        candidates = placement.candidates_for(amount, among=among)
        share = max(-(-count // max(len(candidates), 1)), SHARED_BY)
        for pk in candidates:
            number = min(share, count - len(taken))
            if number and _reserve_on(pk, amount.times(number)):
                taken += [pk] * number
    hosts = Host.objects.in_bulk(set(taken))
    return [hosts[pk] for pk in taken] + [reserve_capacity(amount, rather=rather) for _ in range(count - len(taken))]


def reserve_more(host: Host, amount: Amount) -> None:
    """Reserve more for a machine that is on the host, all of it or, with NoCapacityError, nothing."""
    if not _reserve(Q(pk=host.pk) & placement.may_be_promised(amount), amount):
        raise NoCapacityError(
            _("The machine's host has no room for this: %(free_memory)s MiB of memory and %(free_disk)s GiB of disk.")
            % _free_on(host)
        )
    tell(host)


def _free_on(host: Host) -> dict[str, int]:
    host.refresh_from_db()
    return {
        "free_memory": max(host.memory_promisable_mib - host.reserved_memory_mib, 0),
        "free_disk": max(host.disk_promisable_gib - host.reserved_disk_gib, 0),
    }


def reserve_disk(host: Host, gib: int) -> None:
    """Promise so much more disk on this very host. NoCapacityError if it has no room."""
    room = Host.objects.filter(
        pk=host.pk,
        storage_free_bytes__gt=STORAGE_FULL_BYTES,
        reserved_disk_gib__lte=placement.number(placement.DISK_GIB - gib),
    )
    if room.update(reserved_disk_gib=F("reserved_disk_gib") + gib) != 1:
        raise NoCapacityError(
            _("The host has no room for another %(size)s GiB of disk. Choose less, or ask an operator.") % {"size": gib}
        )
    tell(host)


def take_capacity(host: Host, amount: Amount) -> None:
    """Count a machine that is on the host already, whether there is room or not."""
    Host.objects.filter(pk=host.pk).update(
        reserved_vcpus=F("reserved_vcpus") + amount.vcpus,
        reserved_memory_mib=F("reserved_memory_mib") + amount.memory_mib,
        reserved_disk_gib=F("reserved_disk_gib") + amount.disk_gib,
    )
    tell(host)


def release_capacity(host: Host, amount: Amount) -> None:
    """Give back what `reserve_capacity` took. Exactly once, by the transition that ends the machine."""
    Host.objects.filter(pk=host.pk).update(
        reserved_vcpus=Greatest(F("reserved_vcpus") - amount.vcpus, 0),
        reserved_memory_mib=Greatest(F("reserved_memory_mib") - amount.memory_mib, 0),
        reserved_disk_gib=Greatest(F("reserved_disk_gib") - amount.disk_gib, 0),
    )
    tell(host)


def _reserve_on(pk: UUID, amount: Amount) -> bool:
    return _reserve(Q(pk=pk) & placement.has_room_for(amount), amount)


def _reserve(where: Q, amount: Amount) -> bool:
    """A try that fails leaves no lock on the host: two requests that each try the other's would wait for ever."""
    with transaction.atomic():
        changed = Host.objects.filter(where).update(
            reserved_vcpus=F("reserved_vcpus") + amount.vcpus,
            reserved_memory_mib=F("reserved_memory_mib") + amount.memory_mib,
            reserved_disk_gib=F("reserved_disk_gib") + amount.disk_gib,
        )
        if changed != 1:
            transaction.set_rollback(True)
    return changed == 1


def _why_none(amount: Amount) -> str:
    takers = placement.takers()
    if not takers.exists():
        return _why_no_host()
    if not takers.filter(storage_free_bytes__gt=STORAGE_FULL_BYTES).exists():
        return _("No host has room for another disk just now: their storage is full. Ask an operator to make room.")
    most = takers.aggregate(
        memory=Max(placement.FREE_MEMORY_MIB),
        disk=Max(placement.FREE_DISK_GIB),
    )
    return _(
        "No host has room for %(vcpus)s vCPUs, %(memory)s MiB of memory and %(disk)s GiB of disk (most free on one "
        "host: %(free_memory)s MiB of memory, %(free_disk)s GiB of disk). Choose a smaller size, or ask an operator."
    ) % {
        "vcpus": amount.vcpus,
        "memory": amount.memory_mib,
        "disk": amount.disk_gib,
        "free_memory": max(int(most["memory"]), 0),
        "free_disk": max(int(most["disk"]), 0),
    }


def _why_no_host() -> str:
    if Host.objects.filter(enabled=True).exclude(last_error="").exists():
        return _(
            "The host does not answer just now, so nothing can be launched. Casement asks it again every few seconds: "
            "try again in a moment, or tell an operator."
        )
    return _("No host takes new machines just now: none is registered, enabled and answering.")


def tell(host: Host) -> None:
    live.publish_on_commit([live.OPERATORS], [f"host:{host.pk}", "hosts"])
