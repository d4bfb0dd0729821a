"""The screen in Chromium: the page's own template, scripts and security policy, the relay, and a real QEMU."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import string
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal

import pytest
from django.conf import settings
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from portal.console.relay import Ended, Step
from portal.console.rfb import open_display
from portal.console.rfb.client_stream import KEY_EVENT, QEMU, SET_DESKTOP_SIZE, SET_ENCODINGS, UPDATE_REQUEST
from tests.integration.console.page_server import MACHINE, TICKET, PageServer, served
from tests.integration.console.qemu import running_qemu, times_asked
from tests.portal.console.displays import display_at, greet, server_init
from tests.support.product import free_port

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "console.js").exists(),
        reason="the front end is not built (npm run build)",
    ),
]

expect.set_options(timeout=60_000)
SECRET = "s3cr3tpw"
TEST_PAGE = f"machines/{MACHINE}/screen/test/"
AXE = settings.BASE_DIR / "node_modules" / "axe-core" / "axe.min.js"
SHIFT, CTRL = 0xFFE1, 0xFFE3
# What went wrong is on show until the next attempt, half a second at first: less than a busy machine may look away.
RECORD_REASONS = """() => {
  const root = document.querySelector("[data-console]");
  window.reasons = {};
  new MutationObserver(() => {
    window.reasons[root.dataset.reason] ??= {
      at: performance.now(), said: root.querySelector("[data-console-status]").textContent,
    };
  }).observe(root, {attributes: true, attributeFilter: ["data-reason"]});
}"""
RECORD_STATUSES = """() => {
  const status = document.querySelector("[data-console-status]");
  window.statuses = [];
  new MutationObserver(() => window.statuses.push(status.textContent.trim())).observe(
    status, {childList: true, characterData: true, subtree: true},
  );
}"""
CONTROL = """detail =>
  document.querySelector("[data-console]").dispatchEvent(new CustomEvent("casement:control", {detail}))"""
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
PIXELS = """() => {
  const canvas = document.querySelector("[data-console-stage] canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let lit = 0;
  for (let i = 0; i < data.length; i += 4) {
    lit += data[i] + data[i + 1] + data[i + 2] > 0 ? 1 : 0;
  }
  return {lit, width: canvas.width, height: canvas.height};
}"""

# QEMU's extended key events as they leave the page: type 255, kind 0, down (u16), keysym (u32), key code (u32).
RECORD_KEYS = """() => {
  window.sentKeys = [];
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    const bytes = new DataView(data.buffer, data.byteOffset, data.byteLength);
    if (bytes.byteLength % 12 === 0 && bytes.getUint8(0) === 255) {
      for (let at = 0; at < bytes.byteLength; at += 12) {
        window.sentKeys.push([bytes.getUint32(at + 8), bytes.getUint16(at + 2)]);
      }
    }
    return send.call(this, data);
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def server(socket_path: str) -> Iterator[PageServer]:
    with served(PageServer(socket_path, SECRET)) as page:
        yield page


@pytest.fixture
def tab(browser: Browser, server: PageServer) -> Iterator[Callable[..., Page]]:
    """Opens the screen; fails at the end if the page broke its security policy or threw an error."""
    faults: list[str] = []
    pages: list[Page] = []

    def hear(line: ConsoleMessage) -> None:
        if "Security Policy" in line.text:
            faults.append(line.text)

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", hear)

    def tab(*, url: str = "", path: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        page = context.new_page()
        watch(page)
        page.goto((url or server.url) + path)
        pages.append(page)
        return page

    yield tab
    for page in pages:
        page.context.close()
    assert not faults


def live(page: Page) -> Page:
    page.wait_for_selector("[data-console][data-state=connected][data-first-frame]", timeout=60_000)
    return page


def live_again(page: Page) -> None:
    page.wait_for_selector("[data-console][data-state=connected]", timeout=60_000)


def wait_until(page: Page, met: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def keys(server: PageServer) -> list[tuple[int, bool]]:
    """The keys that came over the line, in order: keysym, and whether it went down."""
    found = []
    for message in server.line.messages():
        if message[0] == KEY_EVENT:
            found.append((int.from_bytes(message[4:8]), bool(message[1])))
        elif message[0] == QEMU and message[1] == 0:
            found.append((int.from_bytes(message[4:8]), bool(int.from_bytes(message[2:4]))))
    return found


def held(events: list[tuple[int, bool]]) -> set[int]:
    down: set[int] = set()
    for key, is_down in events:
        (down.add if is_down else down.discard)(key)
    return down


def typed(events: list[tuple[int, bool]]) -> str:
    """The text of the keys; a capital or a sign without its Shift, or the reverse, becomes a blot."""
    shifted = set(string.ascii_uppercase + '!@#$%^&*()_+{}|:"<>?~')
    shift, text = False, ""
    for key, down in events:
        if key == SHIFT:
            shift = down
        elif down:
            text += chr(key) if (chr(key) in shifted) is shift else "█"
    return text


def levels(server: PageServer) -> list[tuple[int, int]]:
    """(quality, compression) of each SetEncodings that came over the line."""
    found = []
    for message in server.line.messages():
        if message[0] == SET_ENCODINGS:
            offered = struct.unpack_from(f">{int.from_bytes(message[2:4])}i", message, 4)
            found.append(
                (
                    next(one + 32 for one in offered if -32 <= one <= -23),
                    next(one + 256 for one in offered if -256 <= one <= -247),
                )
            )
    return found


def pings(server: PageServer) -> int:
    """Requests for one pixel, whatever it shows."""
    return sum(
        one[0] == UPDATE_REQUEST and one[1:] == bytes([0, 0, 0, 0, 0, 0, 1, 0, 1]) for one in server.line.messages()
    )


@contextmanager
def changing_display(socket_path: str, modes: SimpleQueue[tuple[int, int]]) -> Iterator[None]:
    """A display that takes the size of each of `modes` as it comes, and paints a white block in it."""
    stop = threading.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=SECRET)
        writer.write(server_init(width=720, height=400) + white_block())
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            if not modes.empty():
                resized = struct.pack(">BxHHHHHi", 0, 1, 0, 0, *modes.get(), -223)
                writer.write(resized + white_block())
            await asyncio.sleep(0.02)

    async def run() -> None:
        async with display_at(socket_path, talk):
            while not stop.is_set():  # noqa: ASYNC110 - set by the test's thread
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=20)


def white_block() -> bytes:
    return struct.pack(">BxHHHHHi", 0, 1, 0, 0, 128, 128, 0) + b"\xff\xff\xff\x00" * 128 * 128


def framebuffer(socket_path: str) -> tuple[int, int]:
    """The display's size as it tells a newcomer."""

    async def ask() -> tuple[int, int]:
        display = await open_display(socket_path, SECRET, deadline=60)
        await display.close()
        return display.init.width, display.init.height

    # Playwright's own loop runs in this thread.
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, ask()).result()


@contextmanager
def standing_still(browser: Browser) -> Iterator[None]:
    """Stops the processes of this browser's pages while the block lasts."""
    cdp = browser.new_browser_cdp_session()
    processes = cdp.send("SystemInfo.getProcessInfo")["processInfo"]
    pages = [process["id"] for process in processes if process["type"] == "renderer"]
    assert pages
    for page in pages:
        os.kill(page, signal.SIGSTOP)
    try:
        yield
    finally:
        for page in pages:
            os.kill(page, signal.SIGCONT)
        cdp.detach()


def sizes_asked(server: PageServer) -> list[tuple[int, int]]:
    return [struct.unpack_from(">HH", one, 2) for one in server.line.messages() if one[0] == SET_DESKTOP_SIZE]


def open_clipboard(page: Page, text: str) -> None:
    page.locator("[data-console-handle]").click()
    page.get_by_text("Clipboard", exact=True).click()
    page.locator("[data-console-clipboard]").fill(text)


def grave(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical: the rule and the place."""
    # A script tag would be against the page's own policy; the debugger's way in is not.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found["violations"]
        if rule["impact"] in {"serious", "critical"}
        for node in rule["nodes"]
    ]


def state(page: Page, name: str) -> None:
    page.wait_for_selector(f"[data-console][data-state={name}]", timeout=60_000)


def pixels(page: Page) -> dict[str, int]:
    found: dict[str, int] = page.evaluate(PIXELS)
    return found


def canvas_is(page: Page, size: tuple[int, int]) -> bool:
    found = pixels(page)
    return (found["width"], found["height"]) == size


def changes(page: Page, before: dict[str, int], *, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # A text cursor blinks for ever; a word more or less is another picture.
        if abs(pixels(page)["lit"] - before["lit"]) > 80:
            return True
        page.wait_for_timeout(100)
    return False


def restart(page: Page, socket_path: str) -> None:
    """Until SeaBIOS asks once more. While it looks for something to boot it may hear no key."""
    before = times_asked(socket_path)
    for _ in range(6):
        page.get_by_role("button", name="Ctrl+Alt+Del").click()
        with suppress(AssertionError):
            wait_until(page, lambda: times_asked(socket_path) > before, seconds=15)
            return
    raise AssertionError("it did not restart")


def settled(page: Page, socket_path: str) -> dict[str, int]:
    """The picture of SeaBIOS, which waits for Escape: it has stood still for two seconds."""
    wait_until(page, lambda: times_asked(socket_path) > 0)
    before = pixels(page)
    while changes(page, before, seconds=2):
        before = pixels(page)
    return before


def test_a_real_machines_pixels_reach_the_canvas_and_no_ticket_reaches_an_address(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        # While the firmware goes from one mode to the next, its screen is black.
        wait_until(page, lambda: pixels(page)["lit"] > 100)
        expect(page.locator("[data-console-status]")).to_have_text("The screen is live.")
        assert page.evaluate("performance.getEntriesByName('casement:first-frame').length") == 1
    assert not [target for target in server.targets if TICKET in target]
    assert TICKET not in page.content()


def hold_viewer(page: Page, held: list[Route]) -> None:
    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/rfb-*.js", hold)


def note_sockets(page: Page, event: Literal["close", "framereceived"], told: list[object]) -> None:
    def note(what: object) -> None:
        told.append(what)

    page.on("websocket", lambda socket: socket.on(event, note))


def test_a_page_that_brings_its_ticket_has_its_screen_open_before_the_viewer_is_there(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    server.brings = TICKET
    held: list[Route] = []
    with running_qemu(socket_path, SECRET):
        page = tab(path="static/css/console.css")
        heard: list[object] = []
        note_sockets(page, "framereceived", heard)
        hold_viewer(page, held)
        page.goto(server.url, wait_until="commit")
        wait_until(page, lambda: bool(held and heard))
        held[0].continue_()
        page = live(page)
        wait_until(page, lambda: pixels(page)["lit"] > 100)
        assert TICKET not in page.content()
    assert not [target for target in server.targets if "/console/ticket" in target]
    assert len([target for target in server.targets if target.startswith("/ws/console/")]) == 1


@pytest.mark.parametrize("viewer_is_late", [False, True])
def test_a_ticket_that_the_page_brought_too_late_is_asked_for_anew(
    tab: Callable[..., Page], server: PageServer, socket_path: str, viewer_is_late: bool
) -> None:
    """Refused before the viewer has taken it over, or after."""
    server.brings = "spent"
    held: list[Route] = []
    with running_qemu(socket_path, SECRET):
        page = tab(path="static/css/console.css")
        closed: list[object] = []
        note_sockets(page, "close", closed)
        if viewer_is_late:
            hold_viewer(page, held)
        page.goto(server.url, wait_until="commit")
        if viewer_is_late:
            wait_until(page, lambda: bool(held and closed))
            held[0].continue_()
        live(page)
    assert len([target for target in server.targets if "/console/ticket" in target]) == 1


def test_the_canvas_follows_the_machine_from_mode_to_mode_without_a_reload(
    tab: Callable[..., Page], socket_path: str
) -> None:
    """F04: opened while the firmware starts, in another mode than the one it ends in."""
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        size = settled(page, socket_path)
        assert (size["width"], size["height"]) in {(720, 400), (640, 480), (1024, 768)}
        box = page.locator("[data-console-stage] canvas").bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(size["width"] / size["height"], rel=0.02)


def test_keys_reach_the_machine_and_ctrl_alt_shift_leads_out_of_the_screen(
    tab: Callable[..., Page], socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        before = settled(page, socket_path)
        canvas = page.locator("[data-console-stage] canvas")
        canvas.focus()
        page.keyboard.press("Escape")
        assert changes(page, before), "Escape opens the firmware's boot menu"
        for key in ("Control", "Alt", "Shift"):
            page.keyboard.down(key)
        expect(page.locator("[data-console-handle]")).to_be_focused()
        for key in ("Shift", "Alt", "Control"):
            page.keyboard.up(key)
        page.keyboard.press("Enter")
        expect(page.locator("[data-console-bar]")).to_be_visible()
        page.get_by_role("button", name="Ctrl+Alt+Del").focus()
        page.keyboard.press("Escape")
        expect(page.locator("[data-console-bar]")).to_be_hidden()


def test_no_key_stays_down_in_the_machine_when_the_focus_leaves_the_screen(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.evaluate(RECORD_KEYS)
        page.locator("[data-console-stage] canvas").focus()
        for key in ("Control", "Alt", "a"):
            page.keyboard.down(key)
        page.locator("[data-console-handle]").focus()
        balance: dict[str, int] = {}
        for code, down in page.evaluate("window.sentKeys"):
            balance[code] = balance.get(code, 0) + (1 if down else -1)
    assert len(balance) == 3
    assert not any(balance.values()), "each key that went down must have come up"


def test_ctrl_alt_del_restarts_the_guest_and_the_connection_stays(tab: Callable[..., Page], socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.locator("[data-console-stage] canvas").focus()
        before = settled(page, socket_path)
        page.keyboard.press("Escape")
        assert changes(page, before)
        menu = settled(page, socket_path)
        page.locator("[data-console-handle]").click()
        page.get_by_role("button", name="Ctrl+Alt+Del").click()
        assert changes(page, menu)
        expect(page.locator("[data-console]")).to_have_attribute("data-state", "connected")


def test_a_watcher_has_no_controls_and_her_keys_change_nothing(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    server.mode = "view"
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        before = settled(page, socket_path)
        page.locator("[data-console-stage] canvas").focus()
        page.keyboard.press("Escape")
        assert not changes(page, before, seconds=2)
        page.locator("[data-console-handle]").click()
        expect(page.get_by_text("Watch only", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Ctrl+Alt+Del")).to_be_hidden()
        expect(page.get_by_role("button", name="Full screen")).to_be_visible()


def test_a_machine_that_stops_leaves_a_dimmed_picture_and_comes_back_by_itself(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        settled(page, socket_path)
    state(page, "waiting")
    expect(page.locator("[data-console-status]")).to_contain_text("The screen comes back by itself.")
    assert page.evaluate("document.querySelector('[data-console-still]').width") > 300
    server.refusal = (409, {"step": "machine-off", "code": "machine-off", "message": "It is off."})
    state(page, "failed")
    expect(page.locator("[data-console-status]")).to_have_text("The machine is off. Start it to see its screen.")
    page.evaluate(RECORD_STATUSES)
    with running_qemu(socket_path, SECRET):
        page.get_by_role("button", name="Start the machine").click()
        # Until the next attempt, which may be sooner than a busy machine looks.
        said = partial(page.evaluate, "statuses.includes('The machine is starting. The screen comes by itself.')")
        wait_until(page, lambda: bool(said()))
        live(page)
        wait_until(page, lambda: pixels(page)["lit"] > 100)


def test_a_portal_that_restarts_is_waited_for(tab: Callable[..., Page], server: PageServer, socket_path: str) -> None:
    server.verdict = Ended(Step.ENDED, "portal-stopped")
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        server.refusal = (503, {"step": "ended", "code": "network", "message": ""})
        page.evaluate("window.dispatchEvent(new Event('online'))")
    state(page, "waiting")
    server.refusal = server.verdict = None
    with running_qemu(socket_path, SECRET):
        live(page)


@pytest.mark.parametrize(
    ("refusal", "words", "button"),
    [
        ((404, {"step": "permission", "code": "not-found", "message": "Not yours."}), "Not yours.", "Try again"),
        ((409, {"step": "limit", "code": "user", "message": ""}), "You have too many screens open.", "Try again"),
        ((403, {"step": "revoked", "code": "signed-out", "message": ""}), "You are signed out.", None),
    ],
)
def test_a_refusal_says_what_happened_and_what_to_do(
    tab: Callable[..., Page], server: PageServer, refusal: Any, words: str, button: str | None
) -> None:
    server.refusal = refusal
    page = tab()
    state(page, "failed")
    expect(page.locator("[data-console-status]")).to_contain_text(words)
    if button:
        expect(page.get_by_role("button", name=button)).to_be_visible()
    else:
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_on_a_phone_the_bar_fits_and_every_control_is_large_enough(tab: Callable[..., Page], socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab(viewport={"width": 375, "height": 667}, has_touch=True))
        page.locator("[data-console-handle]").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        boxes = [button.bounding_box() for button in page.locator("[data-console-bar] button:visible").all()]
        assert boxes
        assert all(box and box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= 375 for box in boxes)


def test_a_line_that_falls_silent_is_noticed_and_replaced(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    """Nothing closes it and nothing comes: no event tells, so the page must ask."""
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.evaluate(RECORD_REASONS)
        wait_until(page, lambda: pings(server) > 0)
        server.line.frozen = True
        expect(page.locator("[data-console-slow]")).to_be_visible()
        wait_until(page, lambda: page.evaluate("Boolean(window.reasons.silent)"), seconds=60)
        assert "The line went silent." in page.evaluate("window.reasons.silent.said")
        assert page.evaluate("document.querySelector('[data-console-still]').width") > 300
        server.line.frozen = False
        live_again(page)


def test_a_computer_without_a_network_is_told_so_and_comes_back_with_it(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        server.line.frozen = True
        page.context.set_offline(True)
        page.wait_for_selector("[data-console][data-step=network][data-reason=offline]")
        expect(page.locator("[data-console-status]")).to_contain_text("This computer has no network.")
        server.line.frozen = False
        page.context.set_offline(False)
        live_again(page)


def test_a_line_that_lived_through_a_change_of_network_is_kept(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        # The page gives it three seconds to answer, for which a busy machine may look away; it does not each time.
        kept: list[bool] = []
        while not any(kept) and len(kept) < 4:
            live_again(page)
            ended, before = len(server.ended), len(server.line.messages())
            page.evaluate("window.dispatchEvent(new Event('online'))")
            page.evaluate("document.dispatchEvent(new Event('resume'))")
            wait_until(page, lambda before=before: len(server.line.messages()) > before)  # type: ignore[misc]  # the default binds the loop's value
            page.wait_for_timeout(4000)
            kept.append(page.locator("[data-console]").get_attribute("data-state") == "connected")
            kept[-1] = kept[-1] and len(server.ended) == ended
        assert any(kept)


@pytest.mark.parametrize("how", ["asleep", "clock", "resume"])
def test_after_a_sleep_a_dead_line_gets_less_time_than_a_silent_one(
    browser: Browser, tab: Callable[..., Page], server: PageServer, socket_path: str, how: str
) -> None:
    """The page's process stands still as in a sleeping computer, or its clock or an event tells; the line has died."""
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.evaluate(RECORD_REASONS)
        wait_until(page, lambda: pings(server) > 0)
        server.line.frozen = True
        if how == "asleep":
            with standing_still(browser):
                # The sleep itself: longer than what the page takes for a late timer.
                time.sleep(7)
        elif how == "clock":
            page.evaluate("const now = Date.now.bind(Date); Date.now = () => now() + 3600000")
        else:
            page.evaluate("document.dispatchEvent(new Event('resume'))")
        page.evaluate("window.slept = performance.now()")
        wait_until(page, lambda: page.evaluate("Boolean(window.reasons.silent)"), seconds=60)
        # A line that nobody doubts has ten seconds, the page's own; the tolerance is for a busy machine.
        assert page.evaluate("window.reasons.silent.at - window.slept") < 9000
        server.line.frozen = False
        live_again(page)


def test_a_portal_that_dies_is_named_and_the_screen_comes_back_with_it(
    tab: Callable[..., Page], socket_path: str
) -> None:
    """Killed and started again at the same address, as a supervisor does."""
    with running_qemu(socket_path, SECRET):
        port = free_port()
        with served(PageServer(socket_path, SECRET), port=port) as first:
            page = live(tab(url=first.url))
            first.verdict = Ended(Step.ENDED, "portal-stopped")
        state(page, "waiting")
        page.wait_for_selector("[data-console][data-step=network][data-reason=no-portal]")
        expect(page.locator("[data-console-status]")).to_contain_text("The portal does not answer.")
        with served(PageServer(socket_path, SECRET), port=port):
            live_again(page)
            page.goto("about:blank")


def test_an_operator_sees_more_than_a_user(tab: Callable[..., Page], server: PageServer, socket_path: str) -> None:
    server.refusal = (409, {"step": "host", "code": "host-silent", "message": "", "detail": "rack-7: unknown"})
    page = tab()
    state(page, "waiting")
    expect(page.locator("[data-console-where]")).to_have_text("Stopped at: the machine's host.")
    assert page.locator("[data-console-technical]").count() == 0
    assert "rack-7" not in page.content()
    server.operator = True
    page = tab()
    state(page, "waiting")
    expect(page.locator("[data-console-technical]")).to_have_text("host/host-silent · rack-7: unknown")
    expect(page.get_by_role("link", name="Why? Test each step")).to_have_attribute("href", re.compile("/screen/test/"))


def test_an_operator_sees_the_host_and_the_sessions_number_of_a_stream_that_ended(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    server.operator = True
    with running_qemu(socket_path, SECRET):
        page = live(tab())
    state(page, "waiting")
    expect(page.locator("[data-console-technical]")).to_have_text(re.compile(r"^\w+/[\w-]+ · rack-7 · session 5e55$"))


def test_quality_goes_down_on_a_slow_line_and_the_machine_is_told(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        first = levels(server)
        assert first[-1] == (6, 2), "balanced, until the line has shown what it carries"
        server.line.bytes_per_second = 100
        page.locator("[data-console-handle]").click()
        page.get_by_text("Size and quality").click()
        # Who looks at the figures has the line measured every second.
        page.get_by_role("button", name="Statistics").click()
        # Each of the two is a message of its own, and between them a step is half told.
        wait_until(page, lambda: any(level in {(3, 6), (1, 9)} for level in levels(server)[-1:]))
        expect(page.locator("[data-figure=level]")).to_contain_text("(automatic)")
        expect(page.locator("[data-figure=level]")).not_to_contain_text("balanced")


def test_a_quality_chosen_by_hand_is_sent_and_remembered(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.locator("[data-console-handle]").click()
        page.get_by_text("Size and quality").click()
        page.get_by_label("Fast, for slow lines").check()
        wait_until(page, lambda: levels(server)[-1:] == [(1, 9)])
        page.reload()
        live(page)
        wait_until(page, lambda: levels(server)[-1:] == [(1, 9)])
        page.locator("[data-console-handle]").click()
        page.get_by_text("Size and quality").click()
        expect(page.get_by_label("Fast, for slow lines")).to_be_checked()


def test_the_figures_are_shown_on_demand_and_cost_nothing_before(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        size = settled(page, socket_path)
        figures = page.locator("[data-console-figures]")
        expect(figures).to_be_hidden()
        before = page.evaluate("document.querySelector('[data-console-figures]').textContent")
        page.wait_for_timeout(2500)
        assert page.evaluate("document.querySelector('[data-console-figures]').textContent") == before
        page.locator("[data-console-handle]").click()
        page.get_by_text("Size and quality").click()
        page.get_by_role("button", name="Statistics").click()
        expect(figures.locator("[data-figure=latency]")).to_contain_text("ms")
        expect(figures.locator("[data-figure=size]")).to_have_text(re.compile(rf"^{size['width']} . {size['height']}$"))
        expect(figures.locator("[data-figure=level]")).to_have_text("balanced (automatic)")
        page.get_by_role("button", name="Statistics").click()
        expect(figures).to_be_hidden()


def test_six_hundred_characters_are_typed_completely_with_their_shift(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    """F03, against the line's own record of what left the browser."""
    alphabet = string.ascii_letters + string.digits + '!@#$%^&*()_+{}|:"<>?~'
    text = (alphabet * 8)[:600]
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        open_clipboard(page, text)
        page.get_by_role("button", name="Type it on the machine").click()
        expect(page.locator("[data-console-typed]")).to_have_text("All of it is typed.", timeout=120_000)
        wait_until(page, lambda: not held(keys(server)) and len(typed(keys(server))) == len(text))
        assert typed(keys(server)) == text


def test_typing_is_cancelled_with_nothing_left_down_and_never_begins_with_a_foreign_character(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        open_clipboard(page, "PASS€WORD")
        page.get_by_role("button", name="Type it on the machine").click()
        expect(page.locator("[data-console-typed]")).to_contain_text("Nothing was typed")
        assert not keys(server)
        page.locator("[data-console-clipboard]").fill("A" * 2000)
        page.get_by_role("button", name="Type it on the machine").click()
        page.get_by_role("button", name="Stop typing").click()
        expect(page.locator("[data-console-typed]")).to_contain_text("Stopped.")
        wait_until(page, lambda: bool(keys(server)) and not held(keys(server)))
        assert 0 < len(typed(keys(server))) < 2000


def test_typing_ends_when_somebody_else_takes_control(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        open_clipboard(page, "B" * 2000)
        page.get_by_role("button", name="Type it on the machine").click()
        wait_until(page, lambda: len(typed(keys(server))) > 10)
        page.evaluate(CONTROL, {"controls": False, "holder": "bob"})
        expect(page.locator("[data-console-typed]")).to_contain_text("Stopped.")
        wait_until(page, lambda: not held(keys(server)))
        assert len(typed(keys(server))) < 2000


@pytest.mark.parametrize("way", ["blur", "hidden", "bar", "hands-off", "dead-line"])
def test_no_key_stays_down_whichever_way_the_person_goes(
    tab: Callable[..., Page], server: PageServer, socket_path: str, way: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.locator("[data-console-stage] canvas").focus()
        for key in ("Control", "b"):
            page.keyboard.down(key)
        wait_until(page, lambda: len(held(keys(server))) == 2)
        if way == "blur":
            page.evaluate("window.dispatchEvent(new Event('blur'))")
        elif way == "hidden":
            page.evaluate(
                "Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true});"
                "document.dispatchEvent(new Event('visibilitychange'))"
            )
        elif way == "bar":
            page.locator("[data-console-handle]").click()
        elif way == "hands-off":
            page.evaluate(CONTROL, {"controls": False, "holder": "bob"})
        else:
            page.evaluate("window.dispatchEvent(new Event('pagehide'))")
        wait_until(page, lambda: not held(keys(server)))


def test_a_held_modifier_goes_with_the_next_key_and_is_let_go_after_it(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.locator("[data-console-handle]").click()
        page.get_by_text("Keys", exact=True).click()
        ctrl = page.get_by_role("button", name="Ctrl", exact=True)
        ctrl.click()
        expect(ctrl).to_have_attribute("aria-pressed", "true")
        page.locator("[data-console-stage] canvas").focus()
        wait_until(page, lambda: held(keys(server)) == {CTRL})
        page.keyboard.press("c")
        wait_until(page, lambda: not held(keys(server)))
        assert [key for key, down in keys(server) if down] == [CTRL, ord("c")]
        expect(ctrl).to_have_attribute("aria-pressed", "false")


def test_who_has_no_control_cannot_type(tab: Callable[..., Page], server: PageServer, socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.evaluate(CONTROL, {"controls": False, "holder": "<b>bob</b>"})
        page.locator("[data-console-handle]").click()
        expect(page.get_by_role("button", name="Ctrl+Alt+Del")).to_be_disabled()
        page.locator("[data-console-stage] canvas").focus()
        page.keyboard.press("x")
        page.evaluate(CONTROL, {"controls": True, "holder": ""})
        expect(page.get_by_role("button", name="Ctrl+Alt+Del")).to_be_enabled()
        page.locator("[data-console-stage] canvas").focus()
        page.keyboard.press("y")
        wait_until(page, lambda: bool(keys(server)))
        assert {key for key, _down in keys(server)} == {ord("y")}


def test_a_guest_that_can_be_resized_gets_the_displays_pixels(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET, "-vga", "none", "-device", "virtio-vga"):
        page = live(tab(viewport={"width": 700, "height": 500}, device_scale_factor=2))
        wait_until(page, lambda: (1400, 1000) in sizes_asked(server))
        page.locator("[data-console-handle]").click()
        page.get_by_text("Size and quality").click()
        page.get_by_label("The window's size: larger letters").check()
        wait_until(page, lambda: sizes_asked(server)[-1:] == [(700, 500)])


def test_a_screenshot_is_a_file_with_the_machines_name_and_pixels(tab: Callable[..., Page], socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        size = settled(page, socket_path)
        page.locator("[data-console-handle]").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Screenshot").click()
        assert re.fullmatch(r"beacon-\d{4}-\d\d-\d\d-\d{6}\.png", download.value.suggested_filename)
        head = download.value.path().read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:24]) == (size["width"], size["height"])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_on_the_page_shuts_anybody_out(
    tab: Callable[..., Page], server: PageServer, socket_path: str, theme: str
) -> None:
    """axe-core on the screen live, with each section of its bar open, failed, and on the test's page."""
    with running_qemu(socket_path, SECRET):
        page = live(tab(color_scheme=theme, reduced_motion="reduce"))
        assert grave(page) == []
        page.locator("[data-console-handle]").click()
        for section in page.locator("[data-console-bar] summary").all():
            section.click()
            assert grave(page) == []
        page.get_by_text("Size and quality").click()
        page.get_by_role("button", name="Statistics").click()
        assert grave(page) == []
    server.refusal = (409, {"step": "machine-off", "code": "machine-off", "message": ""})
    page = tab(color_scheme=theme, reduced_motion="reduce")
    state(page, "failed")
    assert grave(page) == []
    page = tab(color_scheme=theme, reduced_motion="reduce", path=TEST_PAGE)
    page.wait_for_selector("[data-selftest][data-state=failed]")
    assert grave(page) == []


def test_escape_closes_a_section_and_then_the_bar(tab: Callable[..., Page], socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.locator("[data-console-handle]").press("Enter")
        keys_section = page.locator("summary", has_text="Keys")
        keys_section.press("Enter")
        page.get_by_role("button", name="Alt+Tab").focus()
        page.keyboard.press("Escape")
        expect(keys_section).to_be_focused()
        expect(page.get_by_role("button", name="Alt+Tab")).to_be_hidden()
        page.keyboard.press("Escape")
        expect(page.locator("[data-console-bar]")).to_be_hidden()
        expect(page.locator("[data-console-handle]")).to_be_focused()


def test_the_way_is_tested_step_by_step_to_its_end(tab: Callable[..., Page], socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        page = tab(path=TEST_PAGE)
        page.wait_for_selector("[data-selftest][data-state=ok]", timeout=120_000)
        verdicts = page.eval_on_selector_all("[data-step]", "rows => rows.map(row => row.dataset.verdict)")
        assert verdicts == ["ok"] * 11
        assert all(page.eval_on_selector_all("[data-step-time]", "rows => rows.map(row => row.textContent)"))
        expect(page.locator("[data-step=bandwidth] [data-step-time]")).to_contain_text("MB/s")
        assert page.locator("[data-selftest-stage] canvas").count() == 0, "the screen is let go of"


@pytest.mark.parametrize(
    ("failing", "row", "words"),
    [
        (("machine-off", "machine-off", "machine-off"), "machine-off", "The machine is off."),
        (("display", "host", "unreachable"), "display", "send this result to an operator"),
        (None, "handshake", "The machine's host does not answer."),
    ],
)
def test_the_way_stops_at_the_step_that_fails_with_its_remedy(
    tab: Callable[..., Page], server: PageServer, failing: Any, row: str, words: str
) -> None:
    """Without a failing step the portal's part says "fine", and it is the stream that ends: no QEMU is there."""
    server.failing_step = failing
    page = tab(path=TEST_PAGE)
    page.wait_for_selector("[data-selftest][data-state=failed]", timeout=120_000)
    failed = page.locator("[data-verdict=failed]")
    expect(failed).to_have_count(1)
    expect(failed).to_have_attribute("data-step", row)
    expect(failed.locator("[data-step-remedy]")).to_contain_text(words)
    after = page.locator(f"[data-step={row}] ~ [data-step]")
    for step in after.all():
        expect(step.locator("[data-step-word]")).to_have_text("not tried")


def test_the_result_of_the_test_is_copied_as_text(tab: Callable[..., Page], server: PageServer) -> None:
    server.failing_step = ("display", "host", "unreachable")
    server.operator = True
    page = tab(path=TEST_PAGE, permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector("[data-selftest][data-state=failed]", timeout=120_000)
    page.get_by_role("button", name="Copy the result").click()
    expect(page.locator("[data-selftest-verdict]")).to_have_text("The result is on your clipboard.")
    text = page.evaluate("navigator.clipboard.readText()")
    assert "beacon" in text
    assert "fails here" in text
    assert "host/unreachable · rack-7" in text
    assert TICKET not in text


def test_full_screen_says_where_the_keys_go_and_how_to_leave(tab: Callable[..., Page], socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.locator("[data-console-handle]").click()
        button = page.get_by_role("button", name="Full screen")
        button.click()
        expect(page.locator("[data-console-hint]")).to_contain_text("Full screen")
        expect(button).to_have_attribute("aria-pressed", "true")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")


def test_the_canvas_has_the_framebuffers_size_after_each_restart(tab: Callable[..., Page], socket_path: str) -> None:
    """F04: the firmware passes through more than one mode each time; no reload."""
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        page.locator("[data-console-handle]").click()
        for _restart in range(3):
            settled(page, socket_path)
            wait_until(page, lambda: canvas_is(page, framebuffer(socket_path)))
            restart(page, socket_path)
        expect(page.locator("[data-console]")).to_have_attribute("data-state", "connected")


def test_the_canvas_follows_every_change_of_mode(tab: Callable[..., Page], socket_path: str) -> None:
    """F04 with a display that changes its size as a guest does from firmware to desktop and back."""
    modes: SimpleQueue[tuple[int, int]] = SimpleQueue()
    with changing_display(socket_path, modes):
        page = live(tab())
        for size in [(1280, 800), (720, 400), (1920, 1080), (640, 480)]:
            modes.put(size)
            wait_until(page, partial(canvas_is, page, size))
            box = page.locator("[data-console-stage] canvas").bounding_box()
            assert box is not None
            assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.02)
            wait_until(page, lambda: pixels(page)["lit"] > 0)
