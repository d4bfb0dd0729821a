"""A guest's serial console in a browser: real QEMU, Redis, web process and Chromium; and the log of the same guest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from portal.accounts.models import User
from portal.console import control, serial_log
from portal.console.models import ConsoleSession
from portal.lib.secrets import seal
from portal.machines.models import Machine
from portal.machines.states import PowerState
from tests.integration.console.qemu import running_qemu
from tests.integration.console.test_browser import FLAGS
from tests.portal.console.conftest import socket_path
from tests.support import axe
from tests.support.microguest import READY, build_microguest
from tests.support.product import wait_for
from tests.support.redis import redis_db, redis_url
from tests.support.together import at_once
from tests.support.web import CSRF, cookie_of, web_processes
from workers.hypervisor.kvm.serial import read_log

__all__ = ["redis_db", "redis_url", "socket_path"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "serial.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
]

SECRET = "s3cr3tpw"
IMAGES = settings.BASE_DIR / "var" / "images-dev"
ROWS = ".xterm-rows"
# Title, clipboard, a link to a script, a colour of its own, a question for the cursor's place, and HTML.
HOSTILE = (
    r"printf '\033]0;PWNED\007\033]52;c;UFdORUQ=\007\033]8;;javascript:alert(1)\007click\033]8;;\007"
    r"\033[38;2;250;20;30mred\033[0m\033[6n <img src=x onerror=alert(1)>\n'"
)
expect.set_options(timeout=60_000)


@dataclass
class Place:
    """Where the portal is, whose guest prints into `logs`, and a browser to go there with."""

    url: str
    browser: Browser
    machine: Machine
    logs: Path
    complaints: list[str]

    def tab(self, user: User, page: str, **options: Any) -> Page:
        session = at_once([lambda: cookie_of(user)])[0].partition(";")[0].partition("=")[2]
        context = self.browser.new_context(**{"viewport": {"width": 1300, "height": 850}, **options})
        context.set_default_timeout(60_000)
        names = {settings.SESSION_COOKIE_NAME: session, settings.CSRF_COOKIE_NAME: CSRF}
        context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in names.items()])
        axe.load_into(context)
        tab = context.new_page()
        tab.on("console", lambda said: self.complaints.append(said.text) if said.type in {"error", "warning"} else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        tab.goto(f"{self.url}/machines/{self.machine.pk}/{page}")
        return tab

    def sit_down(self, user: User, **options: Any) -> Page:
        """The serial console, live."""
        tab = self.tab(user, "serial/", **options)
        expect(tab.locator("[data-serial]")).to_have_attribute("data-state", "connected")
        return tab


@pytest.fixture
def place(machine: Machine, bob: User, vera: User, redis_db: str, socket_path: str, tmp_path: Path) -> Iterator[Place]:
    """The cast is there before Playwright is, in whose thread Django makes no rows."""
    port = socket_path.replace("vnc.sock", "serial")
    Machine.objects.update(console_socket=socket_path, console_secret=seal(SECRET), serial_socket=port)
    guest = ["-m", "256", "-boot", "menu=off,splash-time=0", "-nic", "none"]
    guest += ["-drive", f"file={build_microguest(IMAGES)},format=qcow2,if=virtio,snapshot=on"]
    log = tmp_path / "serial.log"
    # Its agent complains on every console for as long as it finds no port.
    guest += ["-device", "virtio-serial", "-chardev", "null,id=agent"]
    guest += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    guest += ["-chardev", f"socket,id=line,path={port},server=on,wait=off,logfile={log}", "-serial", "chardev:line"]
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with (
        running_qemu(socket_path, SECRET, *guest),
        web_processes(1, environment, tmp_path) as (web,),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield Place(f"http://localhost:{web.port}", browser, machine, tmp_path, [])
        browser.close()


def in_db(work: Callable[[], Any]) -> Any:
    """Playwright's loop runs in this thread, in which Django refuses to work."""
    return at_once([work])[0]


def snap(tab: Page, name: str) -> None:
    """Pictures for whoever looks at the pages, when a folder for them is given."""
    if folder := os.environ.get("CASEMENT_ARTEFACTS"):
        tab.screenshot(path=f"{folder}/{name}.png")


def rows(tab: Page) -> Locator:
    return tab.locator(ROWS)


def types(tab: Page, words: str) -> None:
    tab.locator(".xterm-helper-textarea").focus()
    tab.keyboard.type(words)
    tab.keyboard.press("Enter")


def test_a_guest_is_worked_in_on_its_serial_console(place: Place, alice: User, bob: User, vera: User) -> None:
    bobs = place.sit_down(bob)
    assert place.complaints == []
    wait_for("the guest", lambda: READY.encode() in read_log(place.logs), seconds=300)
    bobs.get_by_role("button", name="Enter").click()
    expect(rows(bobs)).to_contain_text("#")
    types(bobs, "hostname se''rial-$((6*7)); hostname")
    expect(rows(bobs)).to_contain_text("serial-42")
    snap(bobs, "serial-light")

    _a_watcher_sees_it_and_types_nothing(place, vera, bobs)
    _hostile_words_do_nothing(place, bobs)
    _control_passes_on(place, alice, bob, bobs)
    _one_leaves_the_terminal_by_keyboard(bobs)
    _it_is_whole_on_a_phone(place, bob)
    _a_line_that_died_without_a_word_is_replaced(bobs)
    assert place.complaints == []
    _a_machine_that_goes_off_is_waited_for(place, bobs)
    place.complaints.clear()  # The browser itself reports each ticket that is refused.

    _the_log_is_read_and_searched(place, vera)
    assert place.complaints == []


def _a_watcher_sees_it_and_types_nothing(place: Place, vera: User, bobs: Page) -> None:
    """She comes late, and gets what was there."""
    veras = place.sit_down(vera, color_scheme="dark")
    expect(rows(veras)).to_contain_text("serial-42")
    expect(veras.get_by_text("Watch only")).to_be_visible()
    expect(veras.get_by_role("button", name="Ctrl+C")).to_be_disabled()
    types(veras, "echo ve''ra-was-here")
    types(bobs, "echo bo''b-was-here")
    expect(rows(veras)).to_contain_text("bob-was-here")
    expect(rows(veras)).not_to_contain_text("ra-was-here")
    snap(veras, "serial-watching-dark")
    assert axe.findings(veras) == []
    veras.context.close()


def _hostile_words_do_nothing(place: Place, bobs: Page) -> None:
    title = bobs.title()
    types(bobs, HOSTILE)
    expect(rows(bobs)).to_contain_text("red <img src=x onerror=alert(1)>")
    assert bobs.locator(f"{ROWS} img").count() == bobs.locator(f"{ROWS} a").count() == 0
    bobs.get_by_text("click", exact=True).last.click(force=True)
    assert bobs.title() == title
    # The sheets and colours that the portal's policy forbids as attributes are there all the same.
    red = bobs.evaluate(f"""() => [...document.querySelectorAll('{ROWS} span')]
        .filter((span) => span.textContent.startsWith('red')).map((span) => getComputedStyle(span).color)""")
    assert red, rows(bobs).inner_text()
    assert red[-1] != bobs.evaluate(f"() => getComputedStyle(document.querySelector('{ROWS}')).color")
    # A terminal answers where its cursor is. Whoever comes later is not asked, so nothing is typed by their coming.
    types(bobs, "clear; cat -v")
    bobs.reload()
    expect(bobs.locator("[data-serial]")).to_have_attribute("data-state", "connected")
    expect(bobs.locator("[data-serial]")).to_have_attribute("data-input", "on")
    types(bobs, "no''thing")
    expect(rows(bobs)).to_contain_text("no''thing")
    assert "^[[" not in rows(bobs).inner_text()
    bobs.get_by_role("button", name="Ctrl+C").click()


def _control_passes_on(place: Place, alice: User, bob: User, bobs: Page) -> None:
    """Who controls the screen types here, and it is said where."""
    alices = place.sit_down(alice)
    expect(alices.locator("[data-people-line]")).to_contain_text("bob controls; you watch.")
    expect(alices.locator("[data-serial]")).to_have_attribute("data-input", "off")
    in_db(lambda: control.take(place.machine, actor=alice))
    expect(alices.locator("[data-serial]")).to_have_attribute("data-input", "on")
    expect(bobs.locator("[data-people-line]")).to_contain_text("alice controls; you watch.")
    types(alices, "echo al''ice-types")
    expect(rows(bobs)).to_contain_text("alice-types")
    alices.locator(".serial-tools > summary").click()
    expect(alices.locator("[data-console-people]")).to_contain_text("bob")
    snap(alices, "serial-people")
    assert axe.findings(alices) == []
    alices.context.close()
    expect(bobs.locator("[data-serial]")).to_have_attribute("data-input", "on")


def _one_leaves_the_terminal_by_keyboard(bobs: Page) -> None:
    bobs.locator(".xterm-helper-textarea").focus()
    bobs.keyboard.press("Control+Alt+Shift")
    expect(bobs.get_by_role("link", name="Log")).to_be_focused()


def _it_is_whole_on_a_phone(place: Place, bob: User) -> None:
    tab = place.sit_down(bob, viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    expect(rows(tab)).to_contain_text("alice-types")
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 390
    for button in tab.locator(".serial-keys .btn").all():
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44
    snap(tab, "serial-phone-dark")
    assert axe.findings(tab) == []
    tab.context.close()


def _a_line_that_died_without_a_word_is_replaced(bobs: Page) -> None:
    """As after a sleep: by the clock, nothing has been heard for a minute."""
    sessions = in_db(ConsoleSession.objects.count)
    bobs.evaluate("() => { const now = Date.now; Date.now = () => now() + 60_000; }")
    wait_for("another session", lambda: in_db(ConsoleSession.objects.count) > sessions, seconds=60)
    expect(bobs.locator("[data-serial]")).to_have_attribute("data-input", "on")
    expect(rows(bobs)).to_contain_text("alice-types")


def _a_machine_that_goes_off_is_waited_for(place: Place, bobs: Page) -> None:
    row = Machine.objects.filter(pk=place.machine.pk)
    in_db(lambda: row.update(power_state=PowerState.SHUT_OFF))
    expect(bobs.locator("[data-serial-status]")).to_have_text("The machine is off. Start it to see its serial console.")
    expect(bobs.get_by_role("button", name="Start the machine")).to_be_visible()
    snap(bobs, "serial-off")
    assert axe.findings(bobs) == []
    in_db(lambda: row.update(power_state=PowerState.RUNNING))
    expect(bobs.locator("[data-serial]")).to_have_attribute("data-state", "connected")
    expect(rows(bobs)).to_contain_text("alice-types")


def _the_log_is_read_and_searched(place: Place, vera: User) -> None:
    """The words of the same guest, as its host keeps them; a worker brings them, which this does in its place."""
    tab = place.tab(vera, "serial/log/")
    expect(tab.get_by_role("heading", name="The host is being asked")).to_be_visible()
    snap(tab, "log-waiting")
    data = read_log(place.logs)
    in_db(lambda: serial_log.keep(place.machine.pk, data + b"<b>bold</b>\0\x1b]0;x\x07" + b"y" * 5000 + b"\n"))
    log = tab.locator(".log-text")
    expect(log).to_contain_text(READY)
    expect(log).to_contain_text("<b>bold</b>␀␛]0;x␇")
    expect(log).to_contain_text("characters more")
    assert tab.locator(".log-text :not(span):not(mark)").count() == 0
    snap(tab, "log")
    assert axe.findings(tab) == []
    tab.get_by_role("searchbox").fill("CASEMENT-MICRO ready")
    expect(tab.locator(".log-text mark").first).to_have_text(READY)
    expect(log).not_to_contain_text("bold")
    snap(tab, "log-search")
    tab.get_by_role("searchbox").fill("no such words")
    expect(tab.get_by_role("heading", name="No line matches")).to_be_visible()
    tab.goto(f"{place.url}/machines/{place.machine.pk}/serial/log/?q=ready")
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download").click()
    saved = Path(download.value.path()).read_text(encoding="utf-8")
    assert download.value.suggested_filename == f"{place.machine.name}-console.txt"
    assert READY in saved
    assert not set(saved) & {"\0", "\x1b", "\r"}
    assert "y" * 5000 in saved
    for look in ({"viewport": {"width": 390, "height": 844}}, {"color_scheme": "dark"}):
        other = place.tab(vera, "serial/log/", **look)
        expect(other.locator(".log-text")).to_contain_text(READY)
        snap(other, f"log-{next(iter(look))}")
        assert axe.findings(other) == []
