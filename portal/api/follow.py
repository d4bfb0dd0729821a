"""Following by server-sent events: a job, whole each time that something about it changed, or a project's events.

When a message says that there is news, rows are read again, under the rights of that moment. Messages may be lost
(Redis restarts), so they are read once in a while as well.

Django keeps a thread for each request until its answer has ended. So it answers the beginning only, with all that comes
before any answer (who asks, how often, what may be seen), and is through; `Streams`, around it, sends the rest from the
event loop. Followers cost a little memory each, and no thread.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final
from uuid import UUID

from channels.db import database_sync_to_async
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from redis.exceptions import RedisError

from portal.accounts.models import ApiToken, Project
from portal.accounts.selectors import project_for
from portal.accounts.tokens import living_tokens, person_of
from portal.api.schemas import HappenedOut, JobOut
from portal.errors import NotFoundError
from portal.events.models import Event
from portal.events.selectors import find_events
from portal.jobs.models import Job
from portal.jobs.selectors import job_for
from portal.lib import live

# Between two looks without any message; also how long a revoked token may go on listening.
LOOK_EVERY_S: Final = 5.0
# Whoever follows for longer asks again: balancers and processes come and go.
LONGEST_S: Final = 3600.0
MOST_AT_ONCE: Final = 200
# A transaction that takes longer than this writes no event.
LATEST: Final = dt.timedelta(seconds=60)
_RETRY: Final = b"retry: 2000\n\n"
_GONE: Final = b"event: gone\ndata: {}\n\n"
_STILL: Final = b": still\n\n"

_IN_SCOPE: Final = "casement.stream"

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Streams:
    """An ASGI application around Django's: an answer that a view gave a stream to goes on with it."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def begin(message: Message) -> None:
            if _IN_SCOPE in scope:
                message = _beginning(message)
            await send(message)

        await self._application(scope, receive, begin)
        if _IN_SCOPE in scope:
            await _rest(scope.pop(_IN_SCOPE), receive, send)


def _beginning(message: Message) -> Message:
    """Django thinks that its answer is whole."""
    if message["type"] == "http.response.start":
        headers = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
        return {**message, "headers": headers}
    return {**message, "more_body": True}


async def _rest(stream: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Until it ends, or whoever reads it goes away."""
    sending = asyncio.create_task(_send_all(stream, send))
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
    if sending.done() and not sending.cancelled():
        sending.result()


async def _send_all(stream: AsyncIterator[bytes], send: Send) -> None:
    async with aclosing(stream) as pieces:  # type: ignore[type-var]  # async generators, which all of them are, close
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def stream(request: HttpRequest, job: Job, token: ApiToken) -> HttpResponse:
    return _begin(request, _states(job.pk, token.pk, _groups(job)))


def stream_events(request: HttpRequest, project: Project, token: ApiToken, since: dt.datetime | None) -> HttpResponse:
    """From now on, or since then. Now is what is there already, by whatever clock it was written."""
    told: dict[int, dt.datetime] = {}
    if since is None:
        since = timezone.now() - LATEST
        told = dict(find_events(project).filter(at__gte=since).values_list("pk", "at"))
    return _begin(request, _happenings(project.pk, token.pk, since, told))


def _begin(request: HttpRequest, events: AsyncIterator[bytes]) -> HttpResponse:
    """The beginning of the answer. Where nothing is around Django (under WSGI) it is all of it, and empty."""
    response = HttpResponse(content_type="text/event-stream")
    scope: Scope | None = getattr(request, "scope", None)
    if scope is not None:
        scope[_IN_SCOPE] = events
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx would keep events back until there are many.
    return response


def do_not(request: HttpRequest) -> None:
    """Only the beginning was asked for."""
    getattr(request, "scope", {}).pop(_IN_SCOPE, None)


def _groups(job: Job) -> list[str]:
    """Where news of this job are sent; portal.jobs.services says them there."""
    return [live.project_group(job.project_id)] if job.project_id else [live.OPERATORS, live.EVERYONE]


async def _states(job_id: UUID, token_id: UUID, groups: list[str]) -> AsyncIterator[bytes]:
    """It ends with the job, with the right to see it, or after an hour."""
    last = ""
    async with aclosing(_rounds(f"job:{job_id}", groups)) as rounds:
        yield _RETRY
        async for _round in rounds:
            # A read needs no message before it: what changed between the request and now would be lost otherwise.
            text, is_final = await _look(job_id, token_id)
            if text is None:
                yield _GONE
                return
            yield _event(text) if text != last else _STILL
            last = text
            if is_final:
                return


async def _happenings(
    project_id: UUID, token_id: UUID, since: dt.datetime, told: dict[int, dt.datetime]
) -> AsyncIterator[bytes]:
    """It ends with the right to see the project, or after an hour. What was `told` is not told again."""
    async with aclosing(_rounds(f"events:{project_id}", [live.project_group(project_id)])) as rounds:
        yield _RETRY
        async for _round in rounds:
            is_more = True
            while is_more:
                found = await _happened(project_id, token_id, since, list(told))
                if found is None:
                    yield _GONE
                    return
                for key, at, text in found:
                    told[key] = at
                    yield text
                is_more = len(found) == MOST_AT_ONCE
                # Whoever wrote a row before another one may commit it after that.
                since = max([since, *(at - LATEST for at in told.values())])
                told = {key: at for key, at in told.items() if at >= since}
            yield _STILL


async def _rounds(topic: str, groups: list[str]) -> AsyncGenerator[None, None]:
    """At once, and then each time that there may be news, for an hour."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + LONGEST_S
    news = _News(topic, groups)
    try:
        await news.listen()
        while loop.time() < ends_at:
            yield
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


@database_sync_to_async
def _happened(
    project_id: UUID, token_id: UUID, since: dt.datetime, told: list[int]
) -> list[tuple[int, dt.datetime, bytes]] | None:
    """Events as they came: key, moment and message of each. None when the project, or the right to see it, is gone."""
    token = living_tokens().filter(pk=token_id).first()
    if token is None:
        return None
    try:
        project = project_for(person_of(token), project_id)
    except NotFoundError:
        return None
    events = find_events(project).filter(at__gte=since).exclude(pk__in=told).order_by("pk")
    return [(event.pk, event.at, _message(event)) for event in events[:MOST_AT_ONCE]]


def _message(event: Event) -> bytes:
    text = HappenedOut.of(event).model_dump_json()
    return f"id: {event.uid}\nevent: event\ndata: {text}\n\n".encode()


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
