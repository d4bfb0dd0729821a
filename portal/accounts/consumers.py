"""The live channel of a browser tab: says which things changed, never what they are now."""

import asyncio
from typing import Any, cast

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from portal.accounts.models import User
from portal.accounts.selectors import projects_for
from portal.lib import live, log

# What changes within this time after a message goes in the next one: an operator's tab hears of everything there is.
REST_S = 0.25


class LiveConsumer(AsyncJsonWebsocketConsumer):
    """Sends `{"topics": ["machine:<id>", …]}`. A tab is in the groups of its person's projects only."""

    async def connect(self) -> None:
        self.live_groups: list[str] = []
        self.waiting: dict[str, None] = {}
        self.sender: asyncio.Task[None] | None = None
        user = self.scope["user"]
        if user is None or not user.is_active:
            await self.close(code=4001)
            return
        log.bind(actor=user.pk)
        await self._join()
        await self.accept()
        # The tab asks for everything once: what changed between the page and this moment would be lost otherwise.
        await self.send_json({"topics": ["*"]})

    async def disconnect(self, code: int) -> None:
        if self.sender is not None:
            self.sender.cancel()
        await self._leave()

    async def live_changed(self, event: dict[str, Any]) -> None:
        if event.get("now"):
            await self.send_json({"topics": event["topics"]})
            return
        self.waiting.update(dict.fromkeys(event["topics"]))
        if self.sender is None or self.sender.done():
            self.sender = asyncio.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        """At once, and then once in a while for as long as more comes."""
        while self.waiting:
            topics, self.waiting = list(self.waiting), {}
            await self.send_json({"topics": topics})
            await asyncio.sleep(REST_S)

    async def live_rejoin(self, event: dict[str, Any]) -> None:
        """Memberships of this person changed."""
        self.waiting.clear()  # It may tell of what is no longer theirs, and the tab asks for everything anyway.
        await self._leave()
        await self._join()
        await self.send_json({"topics": ["*"]})

    async def _join(self) -> None:
        self.live_groups = await database_sync_to_async(self._groups)()
        for group in self.live_groups:
            await self.channel_layer.group_add(group, self.channel_name)

    async def _leave(self) -> None:
        for group in self.live_groups:
            await self.channel_layer.group_discard(group, self.channel_name)

    def _groups(self) -> list[str]:
        user = self.scope["user"]
        if user is None:
            return []
        groups = [live.EVERYONE, live.user_group(user.pk)]
        if user.is_staff:
            return [*groups, live.OPERATORS]
        return [
            *groups,
            *(live.project_group(pk) for pk in projects_for(cast("User", user)).values_list("pk", flat=True)),
        ]
