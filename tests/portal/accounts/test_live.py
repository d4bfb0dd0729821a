"""The live channel: a tab hears of what its person may see, and of nothing else."""

import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.contrib.auth.models import AnonymousUser
from pytest_django.fixtures import Settings

from portal import settings as portal_settings
from portal.accounts import consumers
from portal.accounts.consumers import LiveConsumer
from portal.accounts.events import memberships_changed
from portal.accounts.models import Membership, User
from portal.lib.live import OPERATORS, publish_on_commit
from portal.machines.events import machine_changed, screen_came
from portal.machines.models import Machine
from tests.support.websocket import WebsocketCommunicator

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_connection_left")]


class Tab:
    """A browser tab's end of the channel."""

    def __init__(self, user: User | AnonymousUser) -> None:
        self._socket = WebsocketCommunicator(LiveConsumer.as_asgi(), "/ws/live/")
        self._socket.scope["user"] = user

    async def connect(self) -> tuple[bool, Any]:
        return await self._socket.connect()

    async def topics(self) -> list[str]:
        topics: list[str] = json.loads((await self._socket.receive_output())["text"])["topics"]
        return topics

    async def hears_nothing(self, *, seconds: float = 0.5) -> bool:
        return await self._socket.receive_nothing(timeout=seconds)

    async def close(self) -> None:
        await self._socket.disconnect()


async def opened(user: User) -> Tab:
    tab = Tab(user)
    assert (await tab.connect())[0]
    assert await tab.topics() == ["*"]
    return tab


async def test_members_and_operators_hear_of_a_machine_and_a_stranger_does_not(
    machine: Machine, vera: User, charlie: User, operator: User
) -> None:
    tabs = [await opened(user) for user in (vera, operator, charlie)]
    await sync_to_async(machine_changed)(machine)
    for tab in tabs[:2]:
        assert f"machine:{machine.pk}" in await tab.topics()
    assert await tabs[2].hears_nothing()
    for tab in tabs:
        await tab.close()


async def test_without_a_session_the_channel_closes_and_says_why() -> None:
    assert await Tab(AnonymousUser()).connect() == (False, 4001)


async def test_who_leaves_a_project_hears_no_more_of_it(machine: Machine, bob: User) -> None:
    tab = await opened(bob)
    await database_sync_to_async(Membership.objects.filter(user=bob).delete)()
    await sync_to_async(memberships_changed)(bob)
    assert await tab.topics() == ["*"]
    await sync_to_async(machine_changed)(machine)
    assert await tab.hears_nothing()
    await tab.close()


async def test_a_tab_that_is_quiet_for_long_stays_open_on_real_redis(
    machine: Machine, vera: User, redis_db: str, settings: Settings
) -> None:
    """The layer waits for a message in one blocking read of 5 s; a client's own time limit must not cut it off."""
    host = {**portal_settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"][0], "address": redis_db}  # type: ignore[index]
    layer = {**portal_settings.CHANNEL_LAYERS["default"], "CONFIG": {"hosts": [host]}}
    settings.CHANNEL_LAYERS = {"default": layer}
    tab = await opened(vera)
    assert await tab.hears_nothing(seconds=7)
    await sync_to_async(machine_changed)(machine)
    assert f"machine:{machine.pk}" in await tab.topics()
    await tab.close()


async def test_many_changes_at_once_are_few_messages_and_none_is_lost(
    machine: Machine, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "REST_S", 1)  # To tell of fifty takes a busy machine a while.
    tab = await opened(operator)
    names = {f"machine:{number}" for number in range(50)}

    def change() -> None:
        for name in sorted(names):
            publish_on_commit([OPERATORS], [name, "machines"])

    await sync_to_async(change)()
    heard: list[str] = []
    messages = 0
    while not names <= set(heard):
        heard += await tab.topics()
        messages += 1
    assert messages < 25
    assert heard.count("machines") == messages
    assert len(heard) - messages == len(names)
    await tab.close()


async def test_what_somebody_waits_for_is_not_gathered_with_what_comes_after(
    machine: Machine, vera: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "REST_S", 600)
    tab = await opened(vera)
    await sync_to_async(machine_changed)(machine)
    assert f"machine:{machine.pk}" in await tab.topics()
    await sync_to_async(machine_changed)(machine)
    await sync_to_async(screen_came)(machine)
    assert await tab.topics() == [f"screen:{machine.pk}"]
    await tab.close()
