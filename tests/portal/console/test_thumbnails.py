"""Small pictures: who gets one, that they are taken seldom and one at a time, and that nobody is disturbed."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse
from PIL import Image
from pytest_django.fixtures import Settings

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.console import limits, thumbnails, views_thumbnail
from portal.console.limits import Place
from portal.console.rfb import DisplayError
from portal.console.thumbnails import AT_ONCE, MOST, Captures, Wish, look_at
from portal.lib.secrets import seal
from portal.lib.store import store
from portal.machines.models import Machine
from portal.machines.states import PowerState
from tests.portal.console.screens import GREEN, SECRET, Screen, shown, until
from tests.support.together import at_once

pytestmark = pytest.mark.usefixtures("redis_db")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Captures]:
    """What the views use, with a thread that ends with the test. When the next picture is due is the tests' to say."""
    settings.CONSOLE_THUMBNAIL_EVERY_S = 600
    own = Captures()
    monkeypatch.setattr(thumbnails, "_CAPTURES", own)
    for deadline in ("OPEN_S", "WAIT_S", "PICTURE_S"):  # A busy machine is no display that stands still.
        monkeypatch.setattr(thumbnails, deadline, 60.0)
    monkeypatch.setattr(thumbnails, "LOCK_S", 180)
    yield own
    own.close()


@pytest.fixture
def screen(machine: Machine, captures: Captures, socket_path: str) -> Iterator[Screen]:
    """The machine's, and it is red."""
    assert captures is not None
    Machine.objects.filter(pk=machine.pk).update(console_socket=socket_path, console_secret=seal(SECRET))
    machine.refresh_from_db()
    own = Screen(socket_path)
    with shown(own):
        yield own


def url_of(pk: UUID) -> str:
    return reverse("console:thumbnail", args=[pk])


def first_picture(machine: Machine) -> None:
    """Somebody looks, and the picture is there."""
    until("a picture", lambda: look_at(machine).thumbnail)


def colour_of(data: bytes) -> tuple[int, ...]:
    found = Image.open(io.BytesIO(data)).convert("RGB").getpixel((80, 50))
    assert isinstance(found, tuple)
    return tuple(round(value / 50) for value in found)


def is_green(data: bytes) -> bool:
    return colour_of(data) == tuple(round(value / 50) for value in GREEN)


def kept_at(machine: Machine) -> object:
    """When the picture that is kept was taken."""
    return store().hget(f"casement:thumbnail:{machine.pk}", "at")


def next_may_be_taken(machine: Machine) -> None:
    store().delete(f"casement:thumbnail:{machine.pk}:next")


# --- who gets it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_whoever_may_watch_gets_the_picture(
    client: Client, bob: User, machine: Machine, screen: Screen, role: Role
) -> None:
    Membership.objects.filter(user=bob).update(role=role)
    client.force_login(bob)
    answer = client.get(url_of(machine.pk))
    assert (answer.status_code, answer["Content-Type"]) == (202, "image/gif")
    first_picture(machine)
    answer = client.get(url_of(machine.pk))
    assert (answer.status_code, answer["Content-Type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(answer.content)).size == (160, 100)
    assert screen.opened == 1


def test_a_stranger_gets_the_404_of_nothing_at_all_and_no_picture_is_taken(
    client: Client, charlie: User, machine: Machine, screen: Screen
) -> None:
    client.force_login(charlie)
    foreign, missing = client.get(url_of(machine.pk)), client.get(url_of(uuid4()))
    assert foreign.status_code == missing.status_code == 404
    assert foreign.content.replace(str(machine.pk).encode(), b"") == missing.content
    assert not store().keys("casement:thumbnail:*")
    assert screen.opened == 0


def test_nobody_gets_it_without_signing_in(client: Client, machine: Machine, screen: Screen) -> None:
    assert client.get(url_of(machine.pk)).status_code == 302
    assert screen.opened == 0


def test_with_the_right_the_picture_is_lost_at_once(
    client: Client, bob: User, machine: Machine, screen: Screen
) -> None:
    client.force_login(bob)
    first_picture(machine)
    etag = client.get(url_of(machine.pk))["ETag"]
    assert client.get(url_of(machine.pk), headers={"If-None-Match": etag}).status_code == 304
    Membership.objects.filter(user=bob).delete()
    for headers in ({}, {"If-None-Match": etag}):
        answer = client.get(url_of(machine.pk), headers=headers)
        assert answer.status_code == 404
        assert b"WEBP" not in answer.content


def test_browsers_and_proxies_keep_nothing_of_it(client: Client, alice: User, machine: Machine, screen: Screen) -> None:
    """The next person at the same browser asks anew; tests/integration/console/test_thumbnails.py sees one do so."""
    client.force_login(alice)
    first_picture(machine)
    answer = client.get(url_of(machine.pk))
    blank = views_thumbnail.BLANK
    again = client.get(url_of(machine.pk), headers={"If-None-Match": answer["ETag"]})
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    off = client.get(url_of(machine.pk))
    assert (again.status_code, again.content, off.content) == (304, b"", blank)
    for one in (answer, again, off):
        assert {"private", "no-store"} <= set(re.split(", ?", one["Cache-Control"]))
        assert "Cookie" in one["Vary"]


def test_what_changed_has_another_etag_and_what_did_not_the_same(
    client: Client, alice: User, machine: Machine, screen: Screen
) -> None:
    client.force_login(alice)
    first_picture(machine)
    before = client.get(url_of(machine.pk))
    for colour in (screen.colour, GREEN):
        earlier, screen.colour = kept_at(machine), colour
        next_may_be_taken(machine)
        look_at(machine)
        until("another picture", lambda earlier=earlier: kept_at(machine) != earlier)  # type: ignore[misc]  # A lambda in a loop.
        after = client.get(url_of(machine.pk), headers={"If-None-Match": before["ETag"]})
        assert after.status_code == (304 if colour != GREEN else 200)
    assert after["ETag"] != before["ETag"]
    assert is_green(after.content)


def test_each_machine_has_its_own(client: Client, alice: User, machine: Machine, screen: Screen) -> None:
    client.force_login(alice)
    first_picture(machine)
    other = Machine.objects.get(pk=machine.pk)
    other.pk, other.name, other.mac, other.request_key = uuid4(), "other", "52:54:00:00:00:02", uuid4()
    other.console_socket = "/nowhere/other.sock"
    other.save(force_insert=True)
    assert client.get(url_of(other.pk)).content == views_thumbnail.BLANK


def test_nobody_sees_the_screen_of_the_start_before(machine: Machine, screen: Screen) -> None:
    first_picture(machine)
    machine.console_secret = seal("anothers")
    look = look_at(machine)
    assert look.thumbnail is None


@pytest.mark.parametrize(
    "values", [{"power_state": PowerState.SHUT_OFF}, {"power_state": PowerState.UNKNOWN}, {"console_socket": ""}]
)
def test_a_machine_without_a_screen_is_not_asked(
    client: Client, alice: User, machine: Machine, screen: Screen, values: dict[str, str]
) -> None:
    Machine.objects.update(**values)
    client.force_login(alice)
    answer = client.get(url_of(machine.pk))
    assert (answer.status_code, answer.content) == (200, views_thumbnail.BLANK)
    assert screen.opened == 0
    page = client.get(reverse("machines:list")).content.decode()
    assert url_of(machine.pk) not in page


@pytest.mark.parametrize("view", ["cards", "table"])
def test_lists_show_it_to_whoever_may_watch(client: Client, vera: User, machine: Machine, view: str) -> None:
    client.force_login(vera)
    page = client.get(reverse("machines:list"), {"view": view}).content.decode()
    [image] = re.findall(r"<img[^>]*data-thumbnail[^>]*>", page)
    assert f'src="{url_of(machine.pk)}"' in image
    assert 'alt="Screen of beacon"' in image
    assert 'loading="lazy"' in image


def test_none_are_taken_where_the_operator_wants_none(
    client: Client, alice: User, machine: Machine, screen: Screen, settings: Settings
) -> None:
    settings.CONSOLE_THUMBNAIL_EVERY_S = 0
    client.force_login(alice)
    assert client.get(url_of(machine.pk)).status_code == 200
    assert not store().keys("casement:thumbnail:*")


def test_without_redis_there_is_a_page_and_no_picture(
    client: Client, alice: User, machine: Machine, captures: Captures, settings: Settings
) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    client.force_login(alice)
    answer = client.get(url_of(machine.pk))
    assert (answer.status_code, answer.content) == (200, views_thumbnail.BLANK)


# --- how seldom ----------------------------------------------------------------------------------------------------


def test_however_many_look_one_picture_is_taken(machine: Machine, screen: Screen) -> None:
    """Forty people at the same moment, and then again and again."""
    screen.paint_s = 0.05
    at_once([lambda: look_at(machine)] * 40)
    first_picture(machine)
    for _ in range(40):
        look_at(machine)
    assert (screen.opened, screen.painted) == (1, 1)


def test_nobody_looks_nothing_is_taken(machine: Machine, screen: Screen, settings: Settings) -> None:
    settings.CONSOLE_THUMBNAIL_EVERY_S = 1
    look_at(machine)
    until("a picture", lambda: kept_at(machine))  # Whoever looks again and again may get another one by now.
    until("the next may be taken", lambda: not store().exists(f"casement:thumbnail:{machine.pk}:next"))
    assert screen.painted == 1
    assert look_at(machine).is_coming
    until("it is taken", lambda: screen.painted == 2)


def test_the_picture_is_not_kept_for_long(machine: Machine, screen: Screen) -> None:
    first_picture(machine)
    assert 0 < int(store().ttl(f"casement:thumbnail:{machine.pk}")) <= 60


@pytest.mark.parametrize("is_there", [False, True])
def test_a_display_that_fails_is_left_in_peace(
    machine: Machine, captures: Captures, socket_path: str, is_there: bool
) -> None:
    """One that nobody listens at, and one whose password is another."""
    machine.console_socket, machine.console_secret = socket_path, seal("wrong")
    screen = Screen(socket_path)
    with shown(*[screen] if is_there else []):
        look_at(machine)
        until("it has failed", lambda: int(store().ttl(f"casement:thumbnail:{machine.pk}:next")) <= 60)
        for _ in range(20):
            assert look_at(machine).thumbnail is None
    assert screen.opened == int(is_there)


# --- who waits for whom --------------------------------------------------------------------------------------------


def wish(screen: Screen, *, since: float = 0.0) -> Wish:
    return Wish(uuid4(), "run", screen.path, SECRET, since, in_use=False)


@pytest.fixture
def folder(socket_path: str) -> Path:
    return Path(socket_path).parent


def asked(captures: Captures, *wishes: Wish) -> list[Future[None]]:
    futures = [captures.ask(one) for one in wishes]
    assert None not in futures
    return [future for future in futures if future]


def test_displays_that_stand_still_hold_up_nobody(captures: Captures, folder: Path) -> None:
    silent, lively = Screen(str(folder / "silent"), is_silent=True), Screen(str(folder / "lively"))
    with shown(silent, lively):
        stuck = asked(captures, *(wish(silent) for _ in range(40)))
        [good] = asked(captures, wish(lively))
        good.result(60)
        assert not any(one.done() for one in stuck)
        captures.close()
    assert lively.painted == 1


def test_a_page_of_fifty_machines_is_taken_a_few_at_a_time(captures: Captures, folder: Path) -> None:
    screen = Screen(str(folder / "one"), paint_s=0.01)
    with shown(screen):
        for future in asked(captures, *(wish(screen) for _ in range(50))):
            future.result(60)
    assert screen.painted == 50
    assert screen.most_painting <= AT_ONCE


async def test_the_oldest_picture_is_renewed_first() -> None:
    turns, order = thumbnails._Turns(1), list[float]()

    async def take(since: float) -> None:
        async with turns.turn(since):
            order.append(since)

    async with turns.turn(0):
        tasks = [asyncio.ensure_future(take(since)) for since in (30.0, 10.0, 20.0, 0.0)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [0.0, 10.0, 20.0, 30.0]


async def test_a_turn_that_does_not_come_is_given_up_and_the_next_comes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thumbnails, "WAIT_S", 0.01)
    turns = thumbnails._Turns(1)
    async with turns.turn(0):
        with pytest.raises(DisplayError, match="no-turn"):
            async with turns.turn(1):
                raise AssertionError("two at once")
    async with turns.turn(2):
        pass


def test_more_than_can_wait_are_asked_for_again_later(captures: Captures, folder: Path) -> None:
    silent = Screen(str(folder / "silent"), is_silent=True)
    with shown(silent):
        asked(captures, *(wish(silent) for _ in range(MOST)))
        late = wish(silent)
        store().set(f"casement:thumbnail:{late.machine_id}:next", "run", ex=15)
        assert captures.ask(late) is None
        assert int(store().ttl(f"casement:thumbnail:{late.machine_id}:next")) <= 1
        captures.close()


# --- nobody is disturbed -------------------------------------------------------------------------------------------


def test_while_a_person_is_at_the_screen_no_viewer_leaves_it(
    machine: Machine, screen: Screen, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU lets go of all keys when any viewer leaves: someone who holds Shift would feel each picture."""
    monkeypatch.setattr(thumbnails, "SWEEP_S", 0.02)
    place = Place(str(uuid4()), alice.pk, machine.pk)
    limits.take(place)
    for _round in range(3):
        earlier = kept_at(machine)
        next_may_be_taken(machine)
        look_at(machine)
        until("a picture", lambda earlier=earlier: kept_at(machine) != earlier)  # type: ignore[misc]  # A lambda in a loop.
    assert screen.painted == 3
    assert (screen.opened, screen.open_now) == (1, 1)
    limits.give_back(place)
    until("the connection is let go", lambda: screen.open_now == 0)


def test_a_connection_that_was_kept_and_died_is_made_anew(
    machine: Machine, captures: Captures, socket_path: str, alice: User
) -> None:
    machine.console_socket, machine.console_secret = socket_path, seal(SECRET)
    limits.take(Place(str(uuid4()), alice.pk, machine.pk))
    for colour in ((200, 20, 30), GREEN):
        screen = Screen(socket_path, colour)
        with shown(screen):
            earlier = kept_at(machine)
            next_may_be_taken(machine)
            look_at(machine)
            until("a picture", lambda earlier=earlier: kept_at(machine) != earlier)  # type: ignore[misc]  # A lambda in a loop.
        assert screen.painted == 1
        Path(socket_path).unlink(missing_ok=True)
    found = look_at(machine).thumbnail
    assert found is not None
    assert is_green(found.data)
