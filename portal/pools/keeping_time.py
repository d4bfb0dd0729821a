"""A session's times: who is at the screen, idle, warned, disconnected, signed out; each by its pool's own numbers.

Which screens are open and when something was typed is the console's to know. It is asked for many sessions at once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Greatest
from django.utils import timezone

from portal.console.models import ConsoleSession
from portal.pools import broker, events
from portal.pools.models import Pool, Session
from portal.pools.states import EndReason, SessionState

# A page that is loaded anew closes its screen and opens it again.
GRACE: Final = dt.timedelta(seconds=10)
# A desktop that was handed out is opened by its page at once; who has not done so by then is not there.
NEVER_SHOWN: Final = dt.timedelta(seconds=60)
AT_ONCE: Final = 200


def keep() -> None:
    """Once for all pools, then for each one that has sessions and times."""
    _find_shown()
    _find_back()
    _find_away()
    for pool in Pool.objects.filter(pk__in=Session.objects.live().values("pool")):
        _keep_pool(pool)


# --- who is at the screen -----------------------------------------------------------------------------------------


def _screens() -> QuerySet[ConsoleSession]:
    """Of a session's person, on its machine, since it began."""
    return ConsoleSession.objects.filter(
        machine=OuterRef("machine"), user=OuterRef("person"), started_at__gte=OuterRef("started_at")
    ).order_by()


def _open_screens() -> QuerySet[ConsoleSession]:
    return _screens().filter(ended_at=None, end_ordered_by="")


def _find_shown() -> None:
    first = _screens().order_by("started_at").values("started_at")[:1]
    unseen = Session.objects.live().filter(Exists(_screens()), on_screen_at=None)
    unseen.update(on_screen_at=Subquery(first))


def _find_back() -> None:
    back = Session.objects.filter(Exists(_open_screens()), state=SessionState.DISCONNECTED)
    _change(back, state=SessionState.ACTIVE, disconnected_at=None, warned_at=None, last_active_at=timezone.now())


def _find_away() -> None:
    now = timezone.now()
    lately = _screens().filter(Q(ended_at=None, end_ordered_by="") | Q(ended_at__gt=now - GRACE))
    away = Session.objects.filter(~Exists(lately), state=SessionState.ACTIVE)
    came = Q(on_screen_at__isnull=False, last_active_at__lt=now - GRACE) | Q(last_active_at__lt=now - NEVER_SHOWN)
    _change(away.filter(came), state=SessionState.DISCONNECTED, disconnected_at=now)


def _change(sessions: QuerySet[Session], **values: object) -> None:
    for session in _whole(sessions):
        if Session.objects.live().filter(pk=session.pk, state=session.state).update(**values):
            events.session_changed(session)


def _whole(sessions: QuerySet[Session]) -> Iterable[Session]:
    return list(sessions.select_related("pool", "desktop__pool", "person").order_by("pk")[:AT_ONCE])


# --- one pool's times ---------------------------------------------------------------------------------------------


def _keep_pool(pool: Pool) -> None:
    now = timezone.now()
    if pool.limit_s:
        over = Session.objects.live().filter(pool=pool, started_at__lt=now - _s(pool.limit_s))
        _sign_out(over, EndReason.TIME_LIMIT)
    if pool.idle_sign_out_s:
        gone = Session.objects.filter(pool=pool, state=SessionState.DISCONNECTED)
        _sign_out(gone.filter(disconnected_at__lt=now - _s(pool.idle_sign_out_s)), EndReason.IDLE)
    if pool.idle_warn_s or pool.idle_disconnect_s:
        _keep_idle(pool, now)


def _sign_out(sessions: QuerySet[Session], reason: EndReason) -> None:
    for session in _whole(sessions):
        broker.sign_out(session, reason)


def _keep_idle(pool: Pool, now: dt.datetime) -> None:
    active = Session.objects.filter(pool=pool, state=SessionState.ACTIVE)
    _hear_of_input(active)
    if pool.idle_warn_s:
        idle = active.filter(warned_at=None, last_active_at__lt=now - _s(pool.idle_warn_s))
        _change(idle, warned_at=now)
        due = active.filter(warned_at__lt=now - _s(pool.idle_disconnect_s))
    else:
        due = active.filter(last_active_at__lt=now - _s(pool.idle_disconnect_s))
    if pool.idle_disconnect_s:
        for session in _whole(due):
            broker.disconnect(session)


def _hear_of_input(active: QuerySet[Session]) -> None:
    """What was typed since is a sign of life, and takes a warning back."""
    typed = _open_screens().filter(last_input_at__isnull=False).order_by("-last_input_at").values("last_input_at")[:1]
    heard = active.annotate(typed=Subquery(typed)).filter(typed__gt=F("last_active_at"))
    warned = list(heard.filter(warned_at__isnull=False).select_related("pool", "person"))
    keys = list(heard.values_list("pk", flat=True))
    if keys:
        newest = Greatest(F("last_active_at"), Subquery(typed))
        Session.objects.filter(pk__in=keys, state=SessionState.ACTIVE).update(last_active_at=newest, warned_at=None)
    for session in warned:
        events.session_changed(session)


def _s(seconds: int) -> dt.timedelta:
    return dt.timedelta(seconds=seconds)
