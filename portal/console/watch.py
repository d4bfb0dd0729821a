"""Looks after the running sessions of one event loop: twice a second it asks how all of them stand, in a few queries.

The database is asked rather than told of, so no event can be lost on the way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from django.db import DatabaseError
from redis.exceptions import RedisError

from portal.console import limits
from portal.console.admission import Admitted, Standing, note_input, renew, standings
from portal.console.relay import Ended, InputFilter, Step

# Whoever loses a right is out within two seconds, also where the machine is so busy that the questions take one.
WATCH_S: Final = 0.5
UNCHECKED: Final = Standing(Ended(Step.ENDED, "unchecked"), view_only=True)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    admitted: Admitted
    stream: InputFilter
    ended: asyncio.Future[Ended]
    inputs_told: int = 0

    def has_typed(self) -> bool:
        """Since this was asked last."""
        before, self.inputs_told = self.inputs_told, self.stream.inputs
        return self.inputs_told != before

    def apply(self, standing: Standing) -> None:
        self.stream.set_view_only(standing.view_only)
        if standing.ended is not None and not self.ended.done():
            self.ended.set_result(standing.ended)


class Watch:
    """The sessions of one event loop. Its task lives while there is one."""

    def __init__(self) -> None:
        self._sessions: dict[UUID, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._renew_at = 0.0

    @contextmanager
    def over(self, admitted: Admitted, stream: InputFilter) -> Iterator[asyncio.Future[Ended]]:
        """Watch a session while the block lasts. The future gets the reason when it must end."""
        watched = _Watched(admitted, stream, asyncio.get_running_loop().create_future())
        self._sessions[admitted.number] = watched
        if self._task is None or self._task.done():
            self._renew_at = time.monotonic() + limits.RENEW_S
            self._task = asyncio.create_task(self._run())
        try:
            yield watched.ended
        finally:
            del self._sessions[admitted.number]
            watched.ended.cancel()

    async def _run(self) -> None:
        try:
            while self._sessions:
                await asyncio.sleep(WATCH_S)
                await self._look(list(self._sessions.values()))
        finally:
            # Whatever stops the watch stops what it watched: an unwatched session could never be revoked.
            for left in self._sessions.values():
                left.apply(UNCHECKED)

    async def _look(self, watched: list[_Watched]) -> None:
        admitted = [one.admitted for one in watched]
        try:
            found = await database_sync_to_async(standings)(admitted)
            if time.monotonic() >= self._renew_at:
                self._renew_at = time.monotonic() + limits.RENEW_S
                typed = [one.admitted.number for one in watched if one.has_typed()]
                await database_sync_to_async(_renew)(admitted, typed)
        except (DatabaseError, RedisError):
            # Nobody can say that these people may still see this, so they may not; the pages come back by themselves.
            logger.exception("console: cannot check the sessions any more")
            found = {one.number: UNCHECKED for one in admitted}
        for one in watched:
            one.apply(found[one.admitted.number])


def _renew(admitted: Sequence[Admitted], typed: Sequence[UUID]) -> None:
    renew(admitted)
    note_input(typed)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = WeakKeyDictionary()


def watch() -> Watch:
    """The watch of the running event loop."""
    return _watches.setdefault(asyncio.get_running_loop(), Watch())
