"""The screen's WebSocket: `console_app`, an ASGI application that is mounted at `ws/console/`.

It needs the session and user of Channels' AuthMiddlewareStack in its scope, and nothing else of Channels: messages go
straight from `receive` to the relay and from the relay to `send`, because a dispatch for each would halve the speed.

uvicorn's settings that go with it: `--ws websockets-sansio`, `--ws-per-message-deflate false` (the picture is packed
already; packing it again was measured to take 1,400 MB/s down to 30), `--ws-max-size 2097152` (the largest clipboard
and its company), `--ws-ping-interval 20` (a still screen outlives a proxy's 60 s) and `--ws-ping-timeout 120` (who is
busy with a big picture answers late; the default of 20 s would kill the session, as STALL_DEADLINE does after 120 s).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import redis.asyncio
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError
from django.http.request import split_domain_port, validate_host
from redis.exceptions import RedisError

from portal.console import limits, tickets
from portal.console.errors import step_of
from portal.console.relay import Ended, Step, relay
from portal.console.rfb import Display, DisplayError, open_display
from portal.console.selectors import Target, target_for, user_of_session, verdict
from portal.console.services import begin_session, end_session
from portal.console.tickets import Claim, Mode
from portal.console.websocket import AsgiBrowser, Receive, Send
from portal.errors import PortalError
from portal.lib import log

Scope = dict[str, Any]
SUBPROTOCOL: Final = "binary"
WATCH_S: Final = 1.0

logger = logging.getLogger(__name__)


class Refused(Exception):
    """The session cannot begin; `ended` says where and why."""

    def __init__(self, step: Step, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.ended = Ended(step, reason)


async def console_app(scope: Scope, receive: Receive, send: Send) -> None:
    """One WebSocket from its request to its close. Another site's page is turned away before it is let in (403)."""
    await receive()
    if not origin_allowed(scope):
        logger.warning("console refused: the request comes from another site")
        await send({"type": "websocket.close", "code": 4403})
        return
    browser = AsgiBrowser(receive, send)
    await browser.accept(SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None)
    ended = await _serve(scope, browser)
    logger.info("console ended: step=%s reason=%s", ended.step, ended.reason)
    await browser.close(ended)


def origin_allowed(scope: Scope) -> bool:
    """A WebSocket carries the cookies of its target, whoever's page opens it; only the Origin header tells whose.

    It must be there once, and be the very host that is asked for (a host of ours), or one that the settings trust.
    """
    headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    origins = [value for name, value in headers if name == b"origin"]
    hosts = [value for name, value in headers if name == b"host"]
    if len(origins) != 1 or len(hosts) != 1:
        return False
    if origins[0] in settings.CSRF_TRUSTED_ORIGINS:
        return True
    origin = urlsplit(origins[0])
    # A page without TLS must not open a socket with it; the reverse is a proxy that ends TLS in front of us.
    schemes = {"https"} if scope.get("scheme") == "wss" else {"http", "https"}
    domain, _port = split_domain_port(hosts[0])
    return (
        origin.scheme in schemes
        and origin.netloc.lower() == hosts[0].lower()
        and validate_host(domain, settings.ALLOWED_HOSTS)
    )


async def _serve(scope: Scope, browser: AsgiBrowser) -> Ended:
    """Everything between accept and close. Whatever fails becomes an `Ended` that the browser can explain."""
    session_key = scope["session"].session_key
    try:
        async with redis.asyncio.Redis.from_url(settings.REDIS_URL) as client:
            claim = await _redeem(client, scope["subprotocols"], session_key)
            log.bind(actor=claim.user_id, machine=claim.machine_id)
            target = await _authorise(session_key, claim)
            session = _Session(browser, client, session_key, claim, target)
            with limits.process_place() as free:
                return await session.run(_client_ip(scope)) if free else Ended(Step.LIMIT, "process")
    except Refused as refusal:
        return refusal.ended
    except RedisError:
        logger.exception("console: Redis does not answer")
        return Ended(Step.TICKET, "unavailable")
    except DatabaseError:
        logger.exception("console: the database does not answer")
        return Ended(Step.PERMISSION, "unavailable")


async def _redeem(client: redis.asyncio.Redis, subprotocols: Sequence[str], session_key: str | None) -> Claim:
    """Spend the ticket. It must have been given to this very session: a stolen one is worth nothing without cookies."""
    token = tickets.from_subprotocols(subprotocols)
    claim = await tickets.redeem(client, token) if token else None
    if claim is None:
        raise Refused(Step.TICKET, "unknown" if token else "missing")
    own = tickets.session_hash(session_key)
    if not own or own != claim.session:
        raise Refused(Step.TICKET, "foreign")
    return claim


async def _authorise(session_key: str | None, claim: Claim) -> Target:
    """The live permission of the session's user, who must be the ticket's user."""

    def look_up() -> Target:
        user = user_of_session(session_key)
        if user is None or user.pk != claim.user_id:
            raise Refused(Step.REVOKED, "signed-out")
        return target_for(user, claim.machine_id, claim.mode)

    try:
        return await database_sync_to_async(look_up)()
    except PortalError as error:
        raise Refused(step_of(error), error.code) from error


@dataclass(slots=True)
class _Session:
    """A session that may begin: everything is checked but whether there is room and whether the display answers."""

    browser: AsgiBrowser
    redis: redis.asyncio.Redis
    session_key: str | None
    claim: Claim
    target: Target
    number: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def place(self) -> limits.Place:
        return limits.Place(str(self.number), self.claim.user_id, self.claim.machine_id)

    async def run(self, request_ip: str | None) -> Ended:
        full = await limits.take(self.redis, self.place)
        if full:
            raise Refused(Step.LIMIT, full)
        try:
            return await self._recorded(request_ip)
        finally:
            await limits.give_back(self.redis, self.place)

    async def _recorded(self, request_ip: str | None) -> Ended:
        """The session's row gets its end whatever happens, also when this task is cancelled."""
        await database_sync_to_async(begin_session)(
            self.target, number=self.number, mode=self.claim.mode, request_ip=request_ip
        )
        ended = Ended(Step.ENDED, "portal-stopped")
        try:
            ended = await self._relayed()
        except Refused as refusal:
            ended = refusal.ended
        finally:
            await database_sync_to_async(end_session)(self.number, ended)
        return ended

    async def _relayed(self) -> Ended:
        display = await self._connect()
        return await relay(
            self.browser,
            display,
            name=self.target.machine.name,
            view_only=self.claim.mode is Mode.VIEW,
            stop=self._watch(),
        )

    async def _connect(self) -> Display:
        try:
            return await open_display(self.target.socket_path, self.target.secret)
        except DisplayError as error:
            logger.warning("console of machine %s: %s", self.claim.machine_id, error)
            raise Refused(Step.DISPLAY, error.reason) from error
        except OSError as error:
            logger.warning("console of machine %s: %s", self.claim.machine_id, error)
            raise Refused(Step.HOST, "unreachable") from error

    async def _watch(self) -> Ended:
        """Returns when the session must end: asks the database each second, so that no event can be lost on the way."""
        renew_at = time.monotonic() + limits.RENEW_S
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                ended = await database_sync_to_async(verdict)(self.session_key, self.claim, self.target.socket_path)
                if ended is not None:
                    return ended
                if time.monotonic() >= renew_at:
                    renew_at += limits.RENEW_S
                    await limits.take(self.redis, self.place)
            except (DatabaseError, RedisError):
                # Nobody can say that the person may still see this, so they may not; the page comes back by itself.
                logger.exception("console: cannot check the session any more")
                return Ended(Step.ENDED, "unchecked")


def _client_ip(scope: Scope) -> str | None:
    """As the web server saw it; it heeds forwarding headers only of proxies that it was told to trust."""
    client = scope.get("client")
    return client[0] if client else None
