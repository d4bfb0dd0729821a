"""What stands over a session's screen: a warning, a message, how long it lasts, what ended it."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import Final

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.console.browsers import was_taken_over
from portal.pools.entitlement import is_entitled
from portal.pools.models import Session
from portal.pools.states import SessionState
from portal.pools.words import Ended, how_it_ended
from portal.profiles.selectors import Files, files_on

LAST_MINUTES: Final = dt.timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Desk:
    """`state`: active, taken (another device of the person's has it), away (it was disconnected and goes on), or ended.
    Moments are None where there is none."""

    state: str
    ended: Ended | None
    may_return: bool
    warned_until: dt.datetime | None
    warning_means: str
    ends_at: dt.datetime | None
    message: str
    files: Files | None
    files_problem: str
    signs_out: bool
    now: dt.datetime

    @property
    def taken(self) -> bool:
        return self.state == "taken"

    @property
    def away(self) -> bool:
        return self.state == "away"

    @property
    def away_means(self) -> str:
        return _("It is signed out if nobody comes back in time.") if self.away and self.signs_out else ""

    @property
    def warned_left(self) -> float:
        return max((self.warned_until - self.now).total_seconds(), 0) if self.warned_until else 0

    @property
    def ends_left(self) -> float:
        return max((self.ends_at - self.now).total_seconds(), 0) if self.ends_at else 0

    @property
    def message_key(self) -> str:
        """Another message is shown again, also to who has put the last one away."""
        return hashlib.sha256(self.message.encode()).hexdigest()[:16]


def desk_of(session: Session, person: User, browser: str) -> Desk:
    now, pool = timezone.now(), session.pool
    if not session.is_live:
        ended = how_it_ended(session)
        may_return = pool.enabled and is_entitled(person, pool)
        return Desk("ended", ended, may_return, None, "", None, "", None, "", signs_out=False, now=now)
    warned_until, means = _warning(session)
    ends_at = session.started_at + dt.timedelta(seconds=pool.limit_s) if pool.limit_s else None
    return Desk(
        _state(session, person, browser),
        None,
        may_return=True,
        warned_until=warned_until,
        warning_means=means,
        ends_at=ends_at if ends_at and ends_at - now <= LAST_MINUTES else None,
        message=pool.message,
        files=files_on(session.machine) if session.machine is not None and session.files_asked_at else None,
        files_problem=session.files_problem,
        signs_out=bool(pool.idle_sign_out_s),
        now=now,
    )


def _state(session: Session, person: User, browser: str) -> str:
    machine = session.machine
    if session.state == SessionState.DISCONNECTED:
        return "away"
    taken = machine is not None and was_taken_over(machine, person, browser, session.started_at)
    return "taken" if taken else "active"


def _warning(session: Session) -> tuple[dt.datetime | None, str]:
    """Until when somebody must move, and what happens then."""
    pool = session.pool
    if session.warned_at is None or not pool.idle_disconnect_s:
        return None, ""
    means = _("Else this screen is closed. The desktop goes on, and you can come back to it.")
    return session.warned_at + dt.timedelta(seconds=pool.idle_disconnect_s), means
