"""Keeping parents ahead of those who will want them: by the clock, from what operators wish and pools say.

What is wanted and not there is asked for; what nobody wants any more, or was captured by another QEMU, goes.
"""

from __future__ import annotations

import datetime as dt
import logging

from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.errors import NoCapacityError
from portal.hosts import placement
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, VersionStatus
from portal.lib import live
from portal.parents import services
from portal.parents.models import Parent, ParentWish
from portal.parents.selectors import Size, maker_of, newest_forkable
from portal.parents.states import CURRENT, State

logger = logging.getLogger(__name__)

# Asked for in one go; more come with the next: a new image must not have a thousand hosts boot in one moment.
AT_ONCE = 20
_FORGOTTEN_AFTER = dt.timedelta(days=7)


def tend() -> None:
    for wish in ParentWish.objects.select_related("image"):
        _see_to(wish)
    _retire_what_is_not_wanted()
    for parent in Parent.objects.filter(state=State.RETIRING).select_related("host", "image_version"):
        services.delete_unused(parent)
    old = Parent.objects.filter(state=State.DELETED, deleted_at__lt=timezone.now() - _FORGOTTEN_AFTER)
    old.filter(machines=None).delete()


def _see_to(wish: ParentWish) -> None:
    version = newest_forkable(wish.image)
    if version is None:
        _note(wish, _("No version of this image that could be kept running is ready."))
        return
    hosts = _hosts_for(wish.image)
    size = Size(wish.vcpus, wish.memory_mib, wish.disk_gib)
    there = Parent.objects.filter(image_version=version, host__in=hosts, state__in=CURRENT, **size.columns)
    now = timezone.now()
    there.update(wanted_at=now)
    known = {parent.host_id: parent for parent in there}
    missing = [host for host in hosts if host.pk not in known or services.is_due_again(known[host.pk], now)]
    note = "" if hosts else _("No host takes new machines just now.")
    for host in missing[:AT_ONCE]:
        note = _ensure(version, host, size) or note
    _note(wish, note)


def _ensure(version: ImageVersion, host: Host, size: Size) -> str:
    """What stands in the way; empty if nothing does."""
    try:
        services.ensure(version, host, size)
    except NoCapacityError as error:
        return _("%(host)s: %(why)s") % {"host": host.name, "why": error.message}
    return ""


def _hosts_for(image: Image) -> list[Host]:
    """Those that take new machines and have some of this image; before there are any, the emptiest one.

    This app knows no machines, so they are found by way of the hosts.
    """
    takers = placement.takers()
    alive = ~Q(machines__status__in=["deleted", "binned", "error"])
    having = takers.filter(alive, machines__image_version__image=image).order_by().values("pk")
    hosts = list(Host.objects.filter(pk__in=having).order_by("name"))
    if hosts:
        return hosts
    # Where one is kept already it stays.
    kept = takers.filter(parents__image_version__image=image, parents__state__in=CURRENT).distinct()
    return list(kept[:1]) or list(takers.annotate(free=placement.FREE_MEMORY_MIB).order_by("-free", "name")[:1])


def _note(wish: ParentWish, note: str) -> None:
    if ParentWish.objects.filter(pk=wish.pk).exclude(note=note).update(note=note):
        live.publish_on_commit([live.OPERATORS], ["parents"])


def _retire_what_is_not_wanted() -> None:
    unwanted = Q(wanted_at__lt=timezone.now() - services.UNWANTED_AFTER)
    not_offered = ~Q(image_version__status=VersionStatus.READY)
    parents = Parent.objects.filter(state__in=CURRENT).select_related("host", "image_version")
    for parent in parents.filter(unwanted | not_offered):
        services.retire(parent, reason=_("Nobody wants it any more."))
    for parent in parents.filter(state=State.READY).exclude(host__accelerator="").exclude(host__hypervisor_version=""):
        if parent.made_for != maker_of(parent.host):
            logger.info("parent %s was captured by %s: it is made anew", parent.pk, parent.made_for)
            reason = _("It was captured by %(then)s, and the host has %(now)s now.")
            services.retire(parent, reason=reason % {"then": parent.made_for, "now": maker_of(parent.host)})
