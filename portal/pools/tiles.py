"""The desktops that a person may open, a tile each; and where they land when they have signed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.machines.models import Machine
from portal.pools.models import Pool, Session
from portal.pools.selectors import places_of, pools_for, sessions_of
from portal.pools.words import Look, about_pool


@dataclass(frozen=True, slots=True)
class Tile:
    """A desktop as its person sees it. `key` tells tiles apart: there may be several of one pool."""

    pool: Pool
    key: str
    url: str
    thumbnail_url: str
    look: Look
    note: str

    @property
    def title(self) -> str:
        return self.pool.title

    @property
    def about(self) -> str:
        return about_pool(self.pool)

    @property
    def word(self) -> str:
        return str(self.look.word)

    @property
    def tone(self) -> str:
        return self.look.tone

    @property
    def icon(self) -> str:
        return self.look.icon

    @property
    def hue(self) -> int:
        return self.pool.pk.int % 6


def tiles_for(person: User) -> list[Tile]:
    """A tile for each running session, and one for each pool that the person may have another desktop of.

    The number of queries does not depend on how many there are.
    """
    pools = list(pools_for(person))
    live = list(sessions_of(person).order_by("started_at"))
    sessions: dict[object, list[Session]] = {}
    for session in live:
        sessions.setdefault(session.pool_id, []).append(session)
    waits = set(places_of(person).values_list("pool_id", flat=True))
    # Who has a session keeps it, also of a pool that is no longer offered.
    listed = {pool.pk: pool for pool in pools}
    for session in live:
        listed.setdefault(session.pool_id, session.pool)
    return [
        tile
        for pool in sorted(listed.values(), key=lambda one: (one.title.casefold(), str(one.pk)))
        for tile in _tiles_of(pool, sessions.get(pool.pk, []), waits=pool.pk in waits)
    ]


def _tiles_of(pool: Pool, sessions: list[Session], *, waits: bool) -> Iterable[Tile]:
    for session in sessions:
        yield _of_session(session)
    if not sessions or (pool.desktops_per_person > len(sessions) and pool.enabled):
        yield _of_pool(pool, another=bool(sessions), waits=waits)


def _of_session(session: Session) -> Tile:
    machine = session.machine
    away = session.disconnected_at is not None
    look = (
        Look(_("Goes on without you"), "paused", icon="player-pause-filled")
        if away
        else Look(_("Running"), "running", icon="circle-filled")
    )
    thumbnail = reverse("console:thumbnail", args=[machine.pk]) if machine is not None and machine.has_screen else ""
    url = reverse("desktops:session", args=[session.pk])
    return Tile(session.pool, str(session.pk), url, thumbnail, look, _("Click to go on where you were."))


def _of_pool(pool: Pool, *, another: bool, waits: bool) -> Tile:
    url = reverse("desktops:enter", args=[pool.name]) + ("?another=1" if another else "")
    if waits:
        look, note = Look(_("You are in line"), "busy", icon="hourglass"), _("Click to see how far you are.")
    elif not pool.hands_out:
        look, note = Look(_("Maintenance"), "paused", icon="tool"), pool.message
    else:
        look, note = Look(_("Ready to open"), "good", icon="door-enter"), ""
    return Tile(pool, f"{pool.pk}-new" if another else str(pool.pk), url, "", look, note)


# --- where people land --------------------------------------------------------------------------------------------


def has_own_machines(person: User) -> bool:
    """Others than desktops that were handed out."""
    return Machine.objects.live().filter(owner=person, desktop=None).exists()


def only_pool(person: User) -> Pool | None:
    """Whose desktop is all that somebody has here: they land on its screen."""
    if _runs_machines(person):
        return None
    pools = list(pools_for(person)[:2])
    return pools[0] if len(pools) == 1 and sessions_of(person).count() <= 1 else None


def front_door(person: User) -> str:
    """Where somebody lands who has signed in and has no `only_pool`: at their desktops' tiles, or at their machines,
    with the tiles above those."""
    if _runs_machines(person) or not pools_for(person).exists():
        return reverse("machines:list")
    return reverse("desktops:list")


def _runs_machines(person: User) -> bool:
    return person.is_staff or has_own_machines(person)


def desktops(request: HttpRequest) -> dict[str, object]:
    """For every template, asked for only where it is used: whether the person has desktops, and their tiles."""
    return {
        "has_desktops": SimpleLazyObject(lambda: _has_desktops(request)),
        "desktop_tiles": SimpleLazyObject(lambda: tiles_for(request.user) if isinstance(request.user, User) else []),
    }


def _has_desktops(request: HttpRequest) -> bool:
    return isinstance(request.user, User) and pools_for(request.user).exists()
