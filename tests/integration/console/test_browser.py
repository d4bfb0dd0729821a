"""The screen in Chromium: the page's own template, scripts and security policy, the relay, and a real QEMU."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from portal.console.relay import Ended, Step
from tests.integration.console.page_server import TICKET, PageServer, served
from tests.integration.console.qemu import running_qemu

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "console.js").exists(),
        reason="the front end is not built (npm run build)",
    ),
]

SECRET = "s3cr3tpw"
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

    def tab(**options: Any) -> Page:
        page = browser.new_context(**options).new_page()
        watch(page)
        page.goto(server.url)
        pages.append(page)
        return page

    yield tab
    for page in pages:
        page.context.close()
    assert not faults


def live(page: Page) -> Page:
    page.wait_for_selector("[data-console][data-state=connected][data-first-frame]", timeout=20_000)
    return page


def state(page: Page, name: str) -> None:
    page.wait_for_selector(f"[data-console][data-state={name}]", timeout=20_000)


def pixels(page: Page) -> dict[str, int]:
    found: dict[str, int] = page.evaluate(PIXELS)
    return found


def changes(page: Page, before: dict[str, int], *, seconds: float = 8) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # A text cursor blinks for ever; a word more or less is another picture.
        if abs(pixels(page)["lit"] - before["lit"]) > 80:
            return True
        page.wait_for_timeout(100)
    return False


def settled(page: Page) -> dict[str, int]:
    """The picture of SeaBIOS waiting for Escape: it has stood still for a second."""
    before = pixels(page)
    while changes(page, before, seconds=1):
        before = pixels(page)
    return before


def test_a_real_machines_pixels_reach_the_canvas_and_no_ticket_reaches_an_address(
    tab: Callable[..., Page], server: PageServer, socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        assert pixels(page)["lit"] > 100
        expect(page.locator("[data-console-status]")).to_have_text("The screen is live.")
        assert page.evaluate("performance.getEntriesByName('casement:first-frame').length") == 1
    assert not [target for target in server.targets if TICKET in target]
    assert TICKET not in page.content()


def test_the_canvas_follows_the_machine_from_mode_to_mode_without_a_reload(
    tab: Callable[..., Page], socket_path: str
) -> None:
    """F04: opened while the firmware starts, in another mode than the one it ends in."""
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        settled(page)
        size = pixels(page)
        assert (size["width"], size["height"]) in {(720, 400), (640, 480), (1024, 768)}
        box = page.locator("[data-console-stage] canvas").bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(size["width"] / size["height"], rel=0.02)


def test_keys_reach_the_machine_and_ctrl_alt_shift_leads_out_of_the_screen(
    tab: Callable[..., Page], socket_path: str
) -> None:
    with running_qemu(socket_path, SECRET):
        page = live(tab())
        before = settled(page)
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
        settled(page)
        page.keyboard.press("Escape")
        menu = settled(page)
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
        before = settled(page)
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
        settled(page)
    state(page, "waiting")
    expect(page.locator("[data-console-status]")).to_contain_text("The screen comes back by itself.")
    assert page.evaluate("document.querySelector('[data-console-still]').width") > 300
    server.refusal = (409, {"step": "machine-off", "code": "machine-off", "message": "It is off."})
    state(page, "failed")
    expect(page.locator("[data-console-status]")).to_have_text("The machine is off. Start it to see its screen.")
    with running_qemu(socket_path, SECRET):
        page.get_by_role("button", name="Start the machine").click()
        expect(page.locator("[data-console-status]")).to_have_text(
            "The machine is starting. The screen comes by itself."
        )
        live(page)
        assert pixels(page)["lit"] > 100


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
