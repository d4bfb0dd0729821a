"""Tell open browser tabs that something changed. The message carries names only; the tab asks for what it may see."""

import asyncio
import logging
import threading
from collections.abc import Iterable

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
    group_list, topic_list = list(dict.fromkeys(groups)), list(topics)
    transaction.on_commit(lambda: _publish(group_list, topic_list, now=now))


def _publish(groups: list[str], topics: list[str], *, now: bool = False) -> None:
    layer = get_channel_layer()
    if layer is None:
        return

    async def send() -> None:
        for group in groups:
            await layer.group_send(group, {"type": "live.changed", "topics": topics, "now": now})

    try:
        if _loop is not None:
            asyncio.run_coroutine_threadsafe(send(), _loop).result()
        else:
            async_to_sync(send)()
    except (OSError, redis.exceptions.RedisError) as error:
        # The rows are right and tabs ask again when they reconnect, so a missing Redis must not fail the request.
        logger.warning("live update not sent: %s", error)
