"""Tell the browsers, after commit, what changed in a pool; and write down, in the same transaction, what happened."""

from __future__ import annotations

from collections.abc import Iterable

from portal.accounts.models import User
from portal.events import services
from portal.events.kinds import Kind
from portal.lib import live
from portal.pools.models import Desktop, Pool, Session


def pool_changed(pool: Pool) -> None:
    """Operators look at the pool again."""
    live.publish_on_commit([live.OPERATORS], [f"pool:{pool.pk}", "pools"])


def session_changed(session: Session) -> None:
    """So does its person at their desktops."""
    topics = [f"pool:{session.pool_id}", "pools", "desktops", f"session:{session.pk}"]
    live.publish_on_commit([live.OPERATORS, live.user_group(session.person_id)], topics)


def served(session: Session) -> None:
    """Who waits for it in front of the page is led to it at once."""
    live.publish_on_commit([live.user_group(session.person_id)], [f"served:{session.pool_id}"], now=True)


def line_changed(pool: Pool, people: Iterable[int]) -> None:
    """Those who wait look at their place again."""
    groups = [live.user_group(person) for person in people]
    if groups:
        live.publish_on_commit(groups, ["desktops", f"line:{pool.pk}"])


def everyone_in(pool: Pool, people: Iterable[int]) -> None:
    """A message or maintenance: those who have a desktop of it, and the operators."""
    groups = [live.OPERATORS, *(live.user_group(person) for person in people)]
    live.publish_on_commit(groups, [f"pool:{pool.pk}", "pools", "desktops"])


def record_taken(session: Session, *, machine_name: str) -> None:
    data = {"pool": session.pool.name, "person": session.person.get_username(), "desktop": machine_name}
    services.record(Kind.DESKTOP_TAKEN, session, project=session.pool.project_id, actor=session.person, data=data)


def record_left(session: Session, *, actor: User | None) -> None:
    data = {
        "pool": session.pool.name,
        "person": session.person.get_username(),
        "desktop": str(session.desktop),
        "reason": session.end_reason,
    }
    services.record(Kind.DESKTOP_LEFT, session, project=session.pool.project_id, actor=actor, data=data)


def record_failed(desktop: Desktop, *, error: str) -> None:
    data = {"pool": desktop.pool.name, "desktop": str(desktop), "error": error}
    services.record(Kind.DESKTOP_FAILED, desktop, project=desktop.pool.project_id, data=data)
