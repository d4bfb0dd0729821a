"""The live channel of a browser tab: says which things changed, never what they are now."""

from typing import Any, cast

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from portal.accounts.models import User
from portal.accounts.selectors import projects_for
from portal.lib import live, log


class LiveConsumer(AsyncJsonWebsocketConsumer):
    """Sends `{"topics": ["machine:<id>", …]}`. A tab is in the groups of its person's projects only."""

    async def connect(self) -> None:
        self.live_groups: list[str] = []
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
        await self._leave()

    async def live_changed(self, event: dict[str, Any]) -> None:
        await self.send_json({"topics": event["topics"]})

    async def live_rejoin(self, event: dict[str, Any]) -> None:
        """Memberships of this person changed."""
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
