"""What is wrong with hosts, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from portal.hosts.models import Difference, Host
from portal.hosts.selectors import SILENT_AFTER, is_answering
from portal.lib.units import format_bytes

# Below this a host takes no new machines (portal.hosts.services), and guests that write may stop.
STORAGE_FULL_BYTES = 2 * 1024**3
STORAGE_LOW_SHARE = 0.10

# What to do, by a word in libvirt's or the system's message. The first that fits is said.
_REMEDIES: tuple[tuple[tuple[str, ...], Callable[[], str]], ...] = (
    (
        ("permission denied", "not authorized", "authentication", "access denied"),
        lambda: _("The workers are not let in. Add their user to the group libvirt on the host, or check the key."),
    ),
    (
        ("certificate", "tls", "x509"),
        lambda: _("The host's certificate is not accepted. Check that it is valid, and made for this host name."),
    ),
    (
        ("could not resolve", "name or service not known", "unknown host"),
        lambda: _("The host's name cannot be found. Check its address in the administration, and the DNS."),
    ),
    (
        ("no such file", "connection refused", "failed to connect socket"),
        lambda: _("Nothing listens there. Start libvirt on the host: systemctl start libvirtd."),
    ),
    (
        ("timed out", "timeout", "no route", "unreachable", "keepalive"),
        lambda: _("Nothing comes back. Check that the host is switched on and can be reached from the workers."),
    ),
    (
        ("storage pool", "no space", "pool_dir"),
        lambda: _("Its folder for disks cannot be used. Check that it exists, and that there is room."),
    ),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with a host or, without one, with all of them. `is_grave` is red, the others yellow."""

    host: Host | None
    title: str
    reason: str
    remedy: str
    is_grave: bool = True


def problems_of(host: Host, *, quiet: Collection[Host] = ()) -> list[Problem]:
    """What is wrong with the host, the gravest first; empty when all is well. Of `quiet` hosts the silence is known."""
    found = [None if host in quiet else _silence(host), _storage(host), _differences(host)]
    return [problem for problem in found if problem is not None]


def in_trouble() -> Q:
    """The hosts of which `problems_of` has something to say, as a condition: the others need not be read."""
    now = timezone.now()
    heard = Q(last_error="", last_seen_at__gt=now - SILENT_AFTER, last_seen_at__lt=now + SILENT_AFTER)
    low = Q(storage_total_bytes__gt=0) & (
        Q(storage_free_bytes__lte=STORAGE_FULL_BYTES)
        | Q(storage_free_bytes__lt=F("storage_total_bytes") * STORAGE_LOW_SHARE)
    )
    return ~heard | low | Q(Exists(Difference.objects.filter(host=OuterRef("pk"))))


def problems_among(hosts: list[Host], *, others_well: int = 0) -> list[Problem]:
    """What is wrong, the gravest first. When nothing reports, that is one problem and not one of each host.

    `others_well` is how many more hosts there are, of which nothing is wrong.
    """
    mute = [host for host in hosts if host.last_seen_at and not host.last_error and not is_answering(host)]
    if len(mute) > 1 and len(mute) == len([host for host in hosts if not host.last_error]) + others_well:
        quiet = frozenset(mute)
        found = [_nothing_reports(), *(problem for host in hosts for problem in problems_of(host, quiet=quiet))]
    else:
        found = [problem for host in hosts for problem in problems_of(host)]
    return sorted(found, key=lambda problem: not problem.is_grave)


def remedy_for(message: str) -> str:
    """What to do about a host's last error."""
    text = message.lower()
    for words, remedy in _REMEDIES:
        if any(word in text for word in words):
            return remedy()
    return _("Check that the host is switched on and that libvirt runs on it. The workers try again by themselves.")


def accelerator_words(host: Host) -> str:
    """Which way the host's CPU runs its guests, and what that means for people."""
    if host.accelerator == "kvm":
        return _("The processor runs the guests itself (KVM). They are about as fast as the host.")
    if host.accelerator == "tcg":
        return _("The guests are emulated in software (TCG). They work, many times slower than with KVM.")
    return _("Not known yet: the host has not reported.")


def network_words(host: Host) -> str:
    if host.network_mode == "nat":
        return _("Machines share the host's address (NAT) and reach out; from outside they are reached by the portal.")
    if host.network_mode == "user":
        return _("Machines reach out through the host, one by one (user mode). They cannot reach each other.")
    return host.network_mode or _("Not known yet: the host has not reported.")


def _nothing_reports() -> Problem:
    return Problem(
        None,
        _("No host reports any more"),
        _("The portal has heard nothing from any of them for more than a minute."),
        _(
            "Most likely the watcher does not run: it is what asks the hosts. Machines keep running meanwhile; what "
            "the pages show of them is out of date."
        ),
    )


def _silence(host: Host) -> Problem | None:
    if is_answering(host):
        return None
    if host.last_seen_at is None and not host.last_error:
        title = _("%(host)s has not reported yet") % {"host": host.name}
        remedy = _("A host reports within a minute of being registered. If it does not, check that the watcher runs.")
        return Problem(host, title, "", remedy, is_grave=False)
    title = _("%(host)s does not answer") % {"host": host.name}
    keep = _("Its machines keep running meanwhile; nothing is deleted.")
    if host.last_error:
        return Problem(host, title, host.last_error, f"{remedy_for(host.last_error)} {keep}", is_grave=host.enabled)
    remedy = _("The watcher has heard nothing from it. Check that the watcher runs, then the host.")
    return Problem(host, title, "", f"{remedy} {keep}", is_grave=host.enabled)


def _differences(host: Host) -> Problem | None:
    """Where the host comes with their number; its own page lists them instead."""
    number = getattr(host, "difference_count", None)
    if not number:
        return None
    title = ngettext(
        "%(count)s thing on %(host)s does not agree with the portal",
        "%(count)s things on %(host)s do not agree with the portal",
        number,
    ) % {"count": number, "host": host.name}
    return Problem(host, title, "", _("The host's page lists them, with what can be done about each."), is_grave=False)


def _storage(host: Host) -> Problem | None:
    if not host.storage_total_bytes:
        return None
    free = format_bytes(host.storage_free_bytes)
    if host.storage_free_bytes <= STORAGE_FULL_BYTES:
        title = _("%(host)s has no room for disks: %(free)s left") % {"host": host.name, "free": free}
        remedy = _(
            "It takes no new machines, and running ones may stop when they write. Delete machines or old image "
            "versions, or enlarge the storage."
        )
        return Problem(host, title, "", remedy)
    if host.storage_free_bytes < host.storage_total_bytes * STORAGE_LOW_SHARE:
        title = _("%(host)s is running out of room for disks: %(free)s left") % {"host": host.name, "free": free}
        return Problem(
            host, title, "", _("Delete what is not needed, or enlarge the storage before it is full."), is_grave=False
        )
    return None
