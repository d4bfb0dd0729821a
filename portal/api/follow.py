"""Following a job by server-sent events: the whole job each time that something about it changed.

The answer is made by the event loop and holds no thread. When a message says that this job changed, the row is read
again, under the rights of that moment. Messages may be lost (Redis restarts), so it is read once in a while as well.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from channels.db import database_sync_to_async
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.http.response import StreamingHttpResponse
from redis.exceptions import RedisError

from portal.accounts.models import ApiToken
from portal.accounts.tokens import living_tokens, person_of
from portal.api.schemas import JobOut
from portal.errors import NotFoundError
from portal.jobs.models import Job
from portal.jobs.selectors import job_for
from portal.lib import live

# Between two looks without any message; also how long a revoked token may go on listening.
LOOK_EVERY_S: Final = 5.0
# Whoever follows for longer asks again: balancers and processes come and go.
LONGEST_S: Final = 3600.0
_RETRY_MS: Final = 2000


def stream(job: Job, token: ApiToken) -> StreamingHttpResponse:
    response = StreamingHttpResponse(_events(job.pk, token.pk, _groups(job)), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx would keep events back until there are many.
    return response


def _groups(job: Job) -> list[str]:
    """Where news of this job are sent; portal.jobs.services says them there."""
    return [live.project_group(job.project_id)] if job.project_id else [live.OPERATORS, live.EVERYONE]


async def _events(job_id: UUID, token_id: UUID, groups: list[str]) -> AsyncIterator[bytes]:
    """It ends with the job, with the right to see it, or after an hour."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + LONGEST_S
    news = _News(f"job:{job_id}", groups)
    yield f"retry: {_RETRY_MS}\n\n".encode()
    try:
        await news.listen()
        last = ""
        while loop.time() < ends_at:
            # A read needs no message before it: what changed between the request and now would be lost otherwise.
            text, is_final = await _look(job_id, token_id)
            if text is None:
                yield b"event: gone\ndata: {}\n\n"
                return
            yield _event(text) if text != last else b": still\n\n"
            last = text
            if is_final:
                return
            await news.wait(LOOK_EVERY_S)
    finally:
        await news.leave()


def _event(text: str) -> bytes:
    return f"event: job\ndata: {text}\n\n".encode()


@database_sync_to_async
def _look(job_id: UUID, token_id: UUID) -> tuple[str | None, bool]:
    """The job as JSON, and whether it has ended; None when it, or the right to see it, is gone."""
    token = living_tokens().filter(pk=token_id).first()
    if token is None:
        return None, True
    try:
        job = job_for(person_of(token), job_id)
    except NotFoundError:
        return None, True
    return json.dumps(JobOut.of(job).model_dump(mode="json"), ensure_ascii=False), job.is_final


class _News:
    """Messages about one topic, from the groups of the channel layer. Without Redis it only waits."""

    def __init__(self, topic: str, groups: list[str]) -> None:
        self._topic = topic
        self._groups = groups
        self._layer: Any = get_channel_layer()
        self._channel = ""

    async def listen(self) -> None:
        try:
            self._channel = await self._layer.new_channel()
            for group in self._groups:
                await self._layer.group_add(group, self._channel)
        except (RedisError, OSError):
            self._channel = ""

    async def wait(self, seconds: float) -> None:
        """Until there is news, or for so long."""
        if not self._channel:
            await asyncio.sleep(1)
            return
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await self._layer.receive(self._channel)
                    if self._topic in message.get("topics", ()):
                        return
        except TimeoutError:
            return
        except (RedisError, OSError, ChannelFull):
            await asyncio.sleep(1)

    async def leave(self) -> None:
        try:
            for group in self._groups if self._channel else ():
                await self._layer.group_discard(group, self._channel)
        except (RedisError, OSError):
            return  # Groups forget by themselves.
