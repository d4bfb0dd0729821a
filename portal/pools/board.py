"""A pool's page for operators: what is on it, as its templates want it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.db.models import Case, IntegerField, Value, When
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from portal.lib.templatetags.kit import duration
from portal.lib.units import format_mib
from portal.parents.selectors import is_coming
from portal.pools.filling import size_of
from portal.pools.forms import WEEKDAYS
from portal.pools.models import Desktop, Pool, Session
from portal.pools.selectors import PoolPage, desktops_of, entitlements_of, line_of, pool_page, sessions_in
from portal.pools.services import Hours
from portal.pools.states import LIVE_DESKTOP, DesktopState
from portal.pools.words import DESKTOP_LOOKS, KINDS, Look, look_of_session

SHOWN: Final = 50
# What needs somebody, and what moves, stands first in the table.
_ORDER: Final = [
    DesktopState.FAILED,
    DesktopState.BUILDING,
    DesktopState.RECYCLING,
    DesktopState.TAKEN,
    DesktopState.SPARE,
]


@dataclass(frozen=True, slots=True)
class Count:
    number: int
    word: str
    icon: str
    tone: str


@dataclass(frozen=True, slots=True)
class DesktopLine:
    desktop: Desktop
    look: Look

    @property
    def name(self) -> str:
        return str(self.desktop)

    @property
    def may_recycle(self) -> bool:
        """What somebody has is not made new by a slip: they are signed off first."""
        free = self.desktop.state == DesktopState.SPARE and self.desktop.person_id is None
        return free or self.desktop.state == DesktopState.FAILED


@dataclass(frozen=True, slots=True)
class SessionLine:
    session: Session
    look: Look

    @property
    def desktop(self) -> str:
        return str(self.session.desktop)


@dataclass(frozen=True, slots=True)
class EntitledLine:
    pk: int
    words: str
    icon: str


@dataclass(frozen=True, slots=True)
class HoursLine:
    pk: int
    day: str
    from_time: str
    to_time: str
    spare: int


def board_of(pool: Pool) -> dict[str, object]:
    """The number of queries does not depend on how many desktops there are."""
    page = pool_page(pool)
    rank = Case(
        *(When(state=state, then=Value(place)) for place, state in enumerate(_ORDER)), output_field=IntegerField()
    )
    desktops = desktops_of(pool).order_by(rank, "number")[:SHOWN]
    return {
        "pool": pool,
        "page": page,
        "kind": KINDS[pool.kind],
        "counts": _counts(page),
        "sessions": [SessionLine(session, look_of_session(session)) for session in sessions_in(pool)[:SHOWN]],
        "waiting": list(line_of(pool)[:SHOWN]),
        "desktops": [DesktopLine(desktop, DESKTOP_LOOKS[desktop.state]) for desktop in desktops],
        "entitlements": entitled_lines(pool),
        "plan": _plan(page),
        "is_coming": page.missing > 0 and is_coming(pool.image_version, size_of(pool)),
    }


def _counts(page: PoolPage) -> list[Count]:
    def of(state: DesktopState, tone: str) -> Count:
        look = DESKTOP_LOOKS[state]
        return Count(page.desktops[state], str(look.word), look.icon, tone)

    return [
        of(DesktopState.SPARE, "good"),
        of(DesktopState.TAKEN, "good"),
        of(DesktopState.BUILDING, "busy"),
        of(DesktopState.RECYCLING, "busy"),
        of(DesktopState.FAILED, "bad"),
        Count(page.waiting, _("Waiting"), "hourglass", "warn"),
    ]


def _plan(page: PoolPage) -> list[tuple[str, str]]:
    """What the pool is set to, in words."""
    pool = page.pool
    how_many = _("%(least)s to %(most)s, %(spare)s spare") % {
        "least": pool.minimum,
        "most": pool.maximum,
        "spare": page.spare_planned,
    }
    each = ngettext("%(number)s desktop", "%(number)s desktops", pool.desktops_per_person)
    return [
        (_("Desktops"), how_many),
        (_("For each person"), each % {"number": pool.desktops_per_person}),
        (_("Memory promised"), format_mib(page.memory_mib)),
        (_("Memory taken"), _memory_taken(page)),
        (_("Warned when idle for"), _time(pool.idle_warn_s)),
        (_("Disconnected after the warning"), _time(pool.idle_disconnect_s)),
        (_("Signed out when away for"), _time(pool.idle_sign_out_s)),
        (_("Longest session"), _time(pool.limit_s)),
        (_("Names"), pool.name_pattern),
    ]


def _memory_taken(page: PoolPage) -> str:
    if page.memory_own_mib is None or page.memory_each_mib is None or page.memory_shared_mib is None:
        return _("is shown while desktops run")
    return _("%(own)s of their own, %(each)s each; %(shared)s shared") % {
        "own": format_mib(page.memory_own_mib),
        "each": format_mib(page.memory_each_mib),
        "shared": format_mib(page.memory_shared_mib),
    }


def _time(seconds: int) -> str:
    return duration(seconds) if seconds else _("never")


def entitled_lines(pool: Pool) -> list[EntitledLine]:
    lines = []
    for one in entitlements_of(pool):
        if one.user is not None:
            lines.append(EntitledLine(one.pk, one.user.get_username(), "user"))
        elif one.project is not None:
            words = _("everybody in the project %(name)s") % {"name": one.project.name}
            lines.append(EntitledLine(one.pk, words, "folders"))
        else:
            words = _("everybody in the group %(name)s") % {"name": one.group}
            lines.append(EntitledLine(one.pk, words, "users-group"))
    return lines


def hours_of(pool: Pool) -> list[Hours]:
    return [Hours(one.weekday, one.from_minute, one.to_minute, one.spare) for one in pool.hours.all()]


def has_desktops(pool: Pool) -> bool:
    return pool.desktops.filter(state__in=LIVE_DESKTOP).exists()


def hours_lines(pool: Pool) -> list[HoursLine]:
    days = dict(WEEKDAYS)
    return [
        HoursLine(one.pk, str(days[one.weekday]), _clock(one.from_minute), _clock(one.to_minute), one.spare)
        for one in pool.hours.all()
    ]


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
