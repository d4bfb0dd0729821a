"""Small pictures of a real QEMU, from two web processes, and in a real browser."""

from __future__ import annotations

import asyncio
import http.client
import io
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import BrowserContext, Page, Request, Route, sync_playwright

from portal.accounts.models import User
from portal.console import limits, thumbnails
from portal.console.capture import take_picture
from portal.console.limits import Place
from portal.console.relay import relay
from portal.console.rfb import ClientStream, Display, open_display
from portal.console.thumbnails import AFTER_FAILURE_S, Captures, Wish
from portal.lib.secrets import seal
from portal.lib.store import store
from portal.machines.models import Machine
from tests.integration.console.qemu import firmware_asks, running_qemu
from tests.integration.console.test_qemu_display import GREETING, first_picture
from tests.portal.console.displays import MemoryBrowser
from tests.portal.console.screens import GREEN, RED, SECRET, Screen, shown, until
from tests.support.product import CHROMIUM_FLAGS, wait_for
from tests.support.redis import redis_db, redis_url
from tests.support.together import at_once
from tests.support.web import CSRF, Web, cookie_of, web_processes

__all__ = ["redis_db", "redis_url"]

# --- a real QEMU ---------------------------------------------------------------------------------------------------


async def whole_screen(socket_path: str) -> Image.Image:
    """As a browser gets it through the relay: another way to the same pixels."""
    browser = MemoryBrowser()
    display = await open_display(socket_path, SECRET, deadline=60)
    session = asyncio.ensure_future(relay(browser, display, ClientStream(True), name="box"))
    pixels = await first_picture(browser)
    size = struct.unpack_from(">HH", browser.received, GREETING)
    browser.leave()
    await session
    return Image.frombytes("RGB", size, pixels, "raw", "BGRX")


async def standing_screen(socket_path: str) -> Image.Image:
    """What the firmware has written last, QEMU shows a moment later."""
    before: Image.Image | None = None
    screen = await whole_screen(socket_path)
    while before is None or before.size != screen.size or _off(before, screen) > 0.5:
        await asyncio.sleep(1)
        before, screen = screen, await whole_screen(socket_path)
    return screen


@pytest.mark.real
async def test_the_picture_shows_what_the_screen_shows(socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        await firmware_asks(socket_path)
        screen = await standing_screen(socket_path)
        display = await open_display(socket_path, SECRET, deadline=60)
        picture = await take_picture(display, deadline=60)
        await display.close()
    small = Image.open(io.BytesIO(picture.data)).convert("RGB")
    assert small.size == (480, round(480 * screen.height / screen.width))
    wanted = screen.resize(small.size, Image.Resampling.BOX)
    assert max(ImageStat.Stat(wanted).extrema)[1] > 100, "a screen that is all dark shows nothing"
    # Lines of text are thin: what is compared is where there are any.
    off = _off(wanted, small)
    assert off < 6, off
    assert _off(wanted, ImageChops.offset(small, 40, 25)) > 2 * off


def _off(one: Image.Image, other: Image.Image) -> float:
    return max(ImageStat.Stat(ImageChops.difference(_blurred(one), _blurred(other))).mean)


def _blurred(image: Image.Image) -> Image.Image:
    return image.resize((96, 54), Image.Resampling.BOX)


def held_keys(trace: Path) -> list[str]:
    """What QEMU's keyboard saw: "down" and "up"."""
    lines = trace.read_text(errors="replace").splitlines()
    return [
        "down" if line.rstrip().endswith(("down 1", "down true")) else "up" for line in lines if "key_qcode" in line
    ]


async def hold_shift(socket_path: str) -> Display:
    display = await open_display(socket_path, SECRET, deadline=60)
    display.writer.write(struct.pack(">BBxxI", 4, 1, 0xFFE1))
    await display.writer.drain()
    return display


@pytest.mark.real
async def test_a_key_that_a_person_holds_is_not_let_go_by_a_picture(
    socket_path: str, redis_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is by any other viewer who leaves, which is why the connection is kept."""
    # A picture that a busy machine's display is too slow for would be another one.
    monkeypatch.setattr(thumbnails, "OPEN_S", 60.0)
    monkeypatch.setattr(thumbnails, "PICTURE_S", 60.0)
    trace = Path(socket_path).with_name("trace")
    captures, machine_id = Captures(), uuid4()
    place = Place(str(uuid4()), 1, machine_id)
    limits.take(place)
    for key in place.keys:  # As long as the test takes, without renewing it.
        store().zadd(key, {place.number: time.time() + 3600})
        store().persist(key)
    with running_qemu(socket_path, SECRET, "-trace", "input_event_key_qcode", "-D", str(trace)):
        await firmware_asks(socket_path)
        person = await hold_shift(socket_path)
        await asyncio.to_thread(until, "Shift is down", lambda: held_keys(trace) == ["down"])
        for _ in range(2):
            asked = captures.ask(Wish(machine_id, "run", socket_path, SECRET, 0.0, in_use=True))
            assert asked is not None
            await asyncio.wrap_future(asked)
            assert store().exists(f"casement:thumbnail:{machine_id}")
        other = await open_display(socket_path, SECRET, deadline=60)
        # QEMU has served another one from beginning to end: what the pictures did to the keyboard has been done.
        assert held_keys(trace) == ["down"]
        await other.close()
        await asyncio.to_thread(until, "another viewer lets it go", lambda: held_keys(trace) == ["down", "up"])
        await person.close()
        await asyncio.to_thread(captures.close)


# --- web processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def screen(machine: Machine, socket_path: str) -> Iterator[Screen]:
    """The machine's."""
    Machine.objects.filter(pk=machine.pk).update(console_socket=socket_path, console_secret=seal(SECRET))
    machine.refresh_from_db()
    own = Screen(socket_path)
    with shown(own):
        yield own


@contextmanager
def portals(count: int, redis_db: str, folder: Path, **environment: str) -> Iterator[list[Web]]:
    own = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db, **environment}
    with web_processes(count, own, folder) as webs:
        yield webs


def got(port: int, cookie: str, path: str, times: int) -> list[tuple[int, bytes]]:
    connected = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    for _ in range(times):
        connected.request("GET", path, headers={"Cookie": cookie, "Host": "localhost"})
        answer = connected.getresponse()
        found.append((answer.status, answer.read()))
    connected.close()
    return found


@pytest.mark.django_db(transaction=True)
def test_two_web_processes_take_one_picture_for_everybody(
    machine: Machine, screen: Screen, vera: User, redis_db: str, tmp_path: Path
) -> None:
    screen.paint_s = 0.2
    cookie, path = cookie_of(vera), f"/machines/{machine.pk}/thumbnail"
    with portals(2, redis_db, tmp_path, CONSOLE_THUMBNAIL_EVERY_S="600") as webs:
        for web in webs:  # What they load with their first answer is no part of this.
            got(web.port, cookie, "/machines/", 1)
        for _ in range(2):
            asked = at_once([partial(got, web.port, cookie, path, 10) for web in webs for _ in range(6)])
            assert {status for answers in asked for status, _body in answers} <= {200, 202}
            until("the picture is there", lambda: store().exists(f"casement:thumbnail:{machine.pk}"))
        for web in webs:
            [(status, body)] = got(web.port, cookie, path, 1)
            assert (status, body[8:12]) == (200, b"WEBP")
    assert (screen.opened, screen.painted) == (1, 1)


# --- a browser -----------------------------------------------------------------------------------------------------

IN_A_BROWSER = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (django_settings.BASE_DIR / "static" / "dist" / "js" / "base.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
]


@dataclass(frozen=True)
class Browser:
    """In front of a portal that has one machine; pictures may be a second old."""

    context: BrowserContext
    url: str
    sessions: dict[str, str]

    def sign_in(self, name: str) -> None:
        values = {django_settings.SESSION_COOKIE_NAME: self.sessions[name], django_settings.CSRF_COOKIE_NAME: CSRF}
        self.context.clear_cookies()
        self.context.add_cookies([{"name": key, "value": value, "url": self.url} for key, value in values.items()])

    def tab(self) -> Page:
        return self.context.new_page()


@pytest.fixture
def browser(
    machine: Machine, screen: Screen, vera: User, charlie: User, redis_db: str, tmp_path: Path
) -> Iterator[Browser]:
    assert machine.console_socket == screen.path
    # Playwright runs an event loop in this thread, beside which Django asks no database.
    sessions = {user.username: cookie_of(user).partition(";")[0].partition("=")[2] for user in (vera, charlie)}
    with portals(1, redis_db, tmp_path, CONSOLE_THUMBNAIL_EVERY_S="1") as [web], sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        context = chromium.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        # Time passes as always, until a test makes it pass faster.
        context.clock.install()
        yield Browser(context, f"http://localhost:{web.port}", sessions)
        chromium.close()


# What is painted at the middle of the picture, through a canvas; nothing while there is no picture.
MIDDLE = """() => {
  const image = document.querySelector("img[data-thumbnail]");
  if (!image?.complete || image.naturalWidth <= 1) return null;
  const canvas = Object.assign(document.createElement("canvas"), { width: 3, height: 3 });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 3, 3);
  return [...context.getImageData(1, 1, 1, 1).data].slice(0, 3);
}"""


def wait_for_colour(tab: Page, colour: tuple[int, int, int]) -> None:
    like = "(middle, wanted) => middle !== null && middle.every((value, at) => Math.abs(value - wanted[at]) < 15)"
    # A display too slow for its picture on a busy machine is left in peace for a minute.
    patience_ms = 4_000 * AFTER_FAILURE_S
    tab.wait_for_function(f"(wanted) => ({like})(({MIDDLE})(), wanted)", arg=list(colour), timeout=patience_ms)


def looks_again(tab: Page, machine: Machine, screen: Screen, painted: int) -> bool:
    """Whether more than these have been painted then. A display that was too slow is asked again at once."""
    store().delete(f"casement:thumbnail:{machine.pk}:next")
    with tab.expect_response("**/thumbnail"):
        tab.clock.fast_forward(15_000)
    deadline = time.monotonic() + 5
    while screen.painted <= painted and time.monotonic() < deadline:
        time.sleep(0.01)
    return screen.painted > painted


BOX = "() => JSON.stringify(document.querySelector('.machine-thumb, .row-thumb').getBoundingClientRect())"


@pytest.mark.parametrize("view", ["cards", "table"])
class TestInABrowser:
    pytestmark = IN_A_BROWSER

    def test_a_card_shows_the_screen_and_follows_it(
        self, browser: Browser, machine: Machine, screen: Screen, view: str
    ) -> None:
        url = browser.url
        browser.sign_in("vera")
        tab = browser.tab()
        wrong: list[str] = []
        tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        # The page is whole, its scripts have run, and only then do pictures come.
        held: list[Route] = []
        is_let_go = False

        def hold(route: Route) -> None:
            if is_let_go:
                route.continue_()
            else:
                held.append(route)

        tab.route("**/thumbnail*", hold)
        tab.goto(f"{url}/machines/?view={view}", wait_until="domcontentloaded")
        tab.wait_for_selector("img[data-thumbnail]", state="attached")
        before = tab.evaluate(BOX)
        is_let_go = True
        for route in held:
            route.continue_()
        wait_for_colour(tab, RED)
        assert tab.evaluate(BOX) == before
        screen.colour = GREEN
        # The first who looks again gets the old picture and has the next one taken.
        for painted in (screen.painted, screen.painted + 1):
            wait_for("the next picture", partial(looks_again, tab, machine, screen, painted), seconds=120, every=0.01)
        wait_for_colour(tab, GREEN)
        assert tab.evaluate(BOX) == before
        assert not wrong

    def test_the_next_person_at_the_same_browser_sees_nothing_of_it(
        self, browser: Browser, machine: Machine, view: str
    ) -> None:
        url = browser.url
        browser.sign_in("vera")
        tab = browser.tab()
        tab.goto(f"{url}/machines/?view={view}")
        wait_for_colour(tab, RED)
        tab.reload()
        wait_for_colour(tab, RED)
        address = f"{url}/machines/{machine.pk}/thumbnail"
        browser.sign_in("charlie")
        tab.goto(f"{url}/machines/?view={view}")
        size = """async (address) => {
          const image = new Image();
          image.src = address;
          await image.decode().catch(() => {});
          const answers = [];
          for (const cache of ["default", "force-cache", "only-if-cached"]) {
            answers.push(await fetch(address, { cache, mode: "same-origin" }).then((a) => a.status, () => 0));
          }
          return [image.naturalWidth, ...answers];
        }"""
        width, *statuses = tab.evaluate(size, address)
        assert width == 0
        assert set(statuses) <= {404, 504, 0}, statuses

    def test_a_tab_that_nobody_looks_at_asks_for_nothing(self, browser: Browser, view: str) -> None:
        url = browser.url
        browser.sign_in("vera")
        tab = browser.tab()
        tab.goto(f"{url}/machines/?view={view}")
        wait_for_colour(tab, RED)
        see = "(state) => { Object.defineProperty(document, 'hidden', { value: state, configurable: true });"
        see += " document.dispatchEvent(new Event('visibilitychange')); }"
        tab.evaluate(see, True)
        # What was asked for just before is told by now.
        asked: list[Request] = []
        tab.on("request", lambda request: asked.append(request) if request.url.endswith("/thumbnail") else None)
        tab.clock.fast_forward(60_000)
        tab.wait_for_timeout(100)  # Playwright tells of what happened meanwhile only when it is asked something.
        assert not asked
        with tab.expect_request("**/thumbnail"):
            tab.evaluate(see, False)
