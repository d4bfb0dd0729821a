"""The way to a screen, tried step by step, for the page that shows where it fails. The browser tries its own part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

from asgiref.sync import async_to_sync
from redis.exceptions import RedisError

from portal.accounts.models import User
from portal.console import limits, tickets
from portal.console.errors import step_of
from portal.console.limits import Place
from portal.console.relay import Step
from portal.console.rfb import DisplayError, open_display
from portal.console.selectors import Target, mode_for, target_for
from portal.console.tickets import Claim, Mode
from portal.errors import PortalError

DISPLAY_DEADLINE: Final = 3.0
# In the order in which they are tried: each needs the ones before it.
STEPS: Final = (Step.TICKET, Step.PERMISSION, Step.MACHINE_OFF, Step.LIMIT, Step.DISPLAY)


@dataclass(slots=True)
class Result:
    """One step. `ok` is None when it was not tried; `step` may differ from its place, e.g. a silent host's display."""

    name: Step
    ok: bool | None = None
    ms: float = 0.0
    step: str = ""
    reason: str = ""
    detail: str = ""

    def as_json(self, *, operator: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "ok": self.ok, "ms": round(self.ms, 1)}
        if self.ok is False:
            found |= {"step": self.step, "reason": self.reason}
        return found | ({"detail": self.detail} if operator and self.detail else {})


@dataclass(slots=True)
class _Run:
    user: User
    session_key: str
    machine_id: UUID
    mode: Mode = Mode.VIEW
    target: Target | None = None
    place: Place = field(init=False)
    placed: bool = False

    def __post_init__(self) -> None:
        self.place = Place(f"selftest-{uuid4()}", self.user.pk, self.machine_id)


class _Failed(Exception):
    def __init__(self, step: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{step}/{reason}")
        self.step, self.reason, self.detail = step, reason, detail


def run_steps(user: User, session_key: str | None, machine_id: UUID) -> list[Result]:
    """All steps of the portal's side, bounded by DISPLAY_DEADLINE; after one that fails the others are not tried.

    It holds a place while it runs, so that no more displays can be opened by it than by looking at screens.
    """
    run = _Run(user, session_key or "", machine_id)
    results = [Result(step) for step in STEPS]
    try:
        for result in results:
            with _timed(result):
                result.detail = _TRIES[result.name](run)
                result.ok = True
            if not result.ok:
                break
    finally:
        if run.placed:
            limits.give_back(run.place)
    return results


@contextmanager
def _timed(result: Result) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    except _Failed as failed:
        result.ok, result.step, result.reason, result.detail = False, failed.step, failed.reason, failed.detail
    except PortalError as error:
        result.ok, result.step, result.reason = False, step_of(error), error.code
    except RedisError as error:
        result.ok, result.step, result.reason = False, Step.TICKET, "unavailable"
        result.detail = type(error).__name__
    finally:
        result.ms = 1000 * (time.perf_counter() - started)


def _ticket(run: _Run) -> str:
    """A ticket is made and spent, as for a real screen; this one opens nothing, since it is spent at once."""
    claim = Claim(run.user.pk, tickets.session_hash(run.session_key), run.machine_id, Mode.VIEW)
    if tickets.redeem(tickets.issue(claim)) != claim:
        raise _Failed(Step.TICKET, "unavailable")
    return ""


def _permission(run: _Run) -> str:
    run.mode = mode_for(run.user, run.machine_id, Mode.CONTROL)
    return str(run.mode)


def _machine(run: _Run) -> str:
    run.target = target_for(run.user, run.machine_id, run.mode)
    machine = run.target.machine
    return f"{machine.host.name}: {machine.power_state}"


def _limit(run: _Run) -> str:
    full = limits.take(run.place)
    if full:
        raise _Failed(Step.LIMIT, full)
    run.placed = True
    return ""


def _display(run: _Run) -> str:
    assert run.target is not None  # noqa: S101 - the step before found it
    return async_to_sync(_greeted)(run.target)


async def _greeted(target: Target) -> str:
    """The display's whole handshake, then away again. Its name and its words are the guest's and are not shown."""
    host = target.machine.host.name
    started = time.perf_counter()
    try:
        display = await open_display(target.socket_path, target.secret, deadline=DISPLAY_DEADLINE)
    except DisplayError as error:
        raise _Failed(Step.DISPLAY, error.reason, f"{host}: {target.socket_path}: {error}") from error
    except OSError as error:
        raise _Failed(Step.HOST, "unreachable", f"{host}: {target.socket_path}: {error.strerror or error}") from error
    taken = 1000 * (time.perf_counter() - started)
    await display.close()
    return f"{host}: {display.init.width}x{display.init.height}, {taken:.1f} ms"


_TRIES: Final[dict[Step, Callable[[_Run], str]]] = {
    Step.TICKET: _ticket,
    Step.PERMISSION: _permission,
    Step.MACHINE_OFF: _machine,
    Step.LIMIT: _limit,
    Step.DISPLAY: _display,
}
