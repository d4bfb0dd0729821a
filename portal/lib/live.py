"""Tell open browser tabs that something changed. The message carries names only; the tab asks for what it may see."""

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence

import redis.exceptions
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

logger = logging.getLogger(__name__)

OPERATORS = "operators"
EVERYONE = "everyone"


_loop: asyncio.AbstractEventLoop | None = None


def keep_loop() -> None:
    """For a process that has no loop of its own: from now on one thread sends all messages, on one connection.

    Otherwise each message makes a loop and a connection to Redis for itself, which takes five times as long, and a
    workflow sends dozens.
    """
    global _loop  # noqa: PLW0603 - the process's, as the layer's connections are
    _loop = asyncio.new_event_loop()
    threading.Thread(target=_loop.run_forever, name="live", daemon=True).start()


def project_group(project_id: object) -> str:
    return f"project.{project_id}"


def user_group(user_id: object) -> str:
    return f"user.{user_id}"


def publish_on_commit(groups: Iterable[str], topics: Iterable[str], *, now: bool = False) -> None:
    """Send `topics` (such as "machine:<id>" or "machines") to every tab in `groups`, after the commit.

    `now` is for what somebody waits for in front of a page: it is not gathered with what comes after it.
    """
    batch = _open_batch() or _Batch()
    batch.add(groups, topics, now=now)
    if not batch.is_due:
        batch.is_due = True
        transaction.on_commit(batch)


class _Batch:
    """What one transaction tells, a message for each group: its parts know little of each other, and say it twice."""

    def __init__(self) -> None:
        self._topics: dict[tuple[str, bool], dict[str, None]] = {}
        self.is_due = self.is_sent = False

    def add(self, groups: Iterable[str], topics: Iterable[str], *, now: bool) -> None:
        names = dict.fromkeys(topics)
        for group in groups:
            self._topics.setdefault((group, now), {}).update(names)

    def __call__(self) -> None:
        self.is_sent = True
        _publish([(group, list(topics), now) for (group, now), topics in self._topics.items()])


def _open_batch() -> _Batch | None:
    """The one that is sent if, and only if, what is written now is committed."""
    connection = transaction.get_connection()
    # A savepoint that was released is in the sets still, but nothing can be rolled back to it any more.
    open_savepoints = {name for name in connection.savepoint_ids if name is not None}
    for savepoints, work, _robust in reversed(connection.run_on_commit):
        if isinstance(work, _Batch) and not work.is_sent and open_savepoints <= savepoints:
            return work
    return None


def _publish(messages: Sequence[tuple[str, list[str], bool]]) -> None:
    """Of each: the group, its topics, and whether they are awaited."""
    layer = get_channel_layer()
    if layer is None:
        return

    async def send() -> None:
        for group, topics, now in messages:
            await layer.group_send(group, {"type": "live.changed", "topics": topics, "now": now})

    try:
        if _loop is not None:
            asyncio.run_coroutine_threadsafe(send(), _loop).result()
        else:
            async_to_sync(send)()
    except (OSError, redis.exceptions.RedisError) as error:
        # The rows are right and tabs ask again when they reconnect, so a missing Redis must not fail the request.
        logger.warning("live update not sent: %s", error)
