"""Two people at one real screen, each in a browser: a real web process, Redis, QEMU and Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from portal.accounts.models import User
from portal.console.models import ConsoleGrant, ConsoleSession, ScreenControl
from portal.console.rfb.client_stream import SET_DESKTOP_SIZE
from portal.lib.secrets import seal
from portal.machines.models import Machine
from tests.integration.console.qemu import running_qemu
from tests.integration.console.test_browser import FLAGS
from tests.portal.console.conftest import socket_path
from tests.support.product import wait_for
from tests.support.redis import redis_db, redis_url
from tests.support.together import at_once
from tests.support.web import CSRF, cookie_of, web_processes

__all__ = ["redis_db", "redis_url", "socket_path"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "console.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
]

SECRET = "s3cr3tpw"
expect.set_options(timeout=60_000)
# From before the page's own scripts: what it says as it begins is not said again.
LISTEN = """
  window.control = [];
  window.addEventListener("casement:control", (e) => window.control.push(e.detail), true);
"""


@dataclass
class Place:
    """Where the portal is, and a browser to go there with."""

    url: str
    browser: Browser
    machine: Machine
    complaints: list[str]

    def context(self, user: User, **options: Any) -> BrowserContext:
        session = at_once([lambda: cookie_of(user)])[0].partition(";")[0].partition("=")[2]
        context = self.browser.new_context(**{"viewport": {"width": 1300, "height": 850}, **options})
        context.set_default_timeout(60_000)
        names = {settings.SESSION_COOKIE_NAME: session, settings.CSRF_COOKIE_NAME: CSRF}
        context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in names.items()])
        return context

    def sit_down(self, user: User, **options: Any) -> Page:
        """The screen in a tab of its own, with its bar open."""
        tab = self.context(user, **options).new_page()
        tab.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.add_init_script(LISTEN)
        tab.goto(f"{self.url}/machines/{self.machine.pk}/screen/")
        tab.wait_for_selector("[data-console][data-first-frame]")
        tab.locator("[data-console-handle]").click()
        return tab


@pytest.fixture
def place(
    machine: Machine, bob: User, vera: User, operator: User, redis_db: str, socket_path: str, tmp_path: Path
) -> Iterator[Place]:
    """The cast is there before Playwright is, in whose thread Django makes no rows."""
    Machine.objects.update(console_socket=socket_path, console_secret=seal(SECRET))
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with (
        running_qemu(socket_path, SECRET),
        web_processes(1, environment, tmp_path) as (web,),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield Place(f"http://localhost:{web.port}", browser, machine, [])
        browser.close()


def in_db(work: Callable[[], Any]) -> Any:
    """Playwright's loop runs in this thread, in which Django refuses to work."""
    return at_once([work])[0]


def people(tab: Page) -> Any:
    return tab.locator("[data-console-people]")


def snap(tab: Page, name: str) -> None:
    """A picture for whoever looks at the pages, when a folder for it is given."""
    if folder := os.environ.get("CASEMENT_ARTEFACTS"):
        tab.screenshot(path=f"{folder}/{name}.png")


def test_two_people_share_a_screen_hand_it_over_and_one_is_removed(place: Place, alice: User, bob: User) -> None:
    bobs = place.sit_down(bob)
    expect(people(bobs)).to_have_attribute("data-controls", "true")
    alices = place.sit_down(alice)
    expect(people(alices)).to_have_attribute("data-holder", "bob")
    expect(alices.locator("[data-people-line]")).to_contain_text("bob controls; you watch.")
    said = "({ controls, holder }) => control.at(-1)?.controls === controls && control.at(-1).holder === holder"
    alices.wait_for_function(said, arg={"controls": False, "holder": "bob"})
    snap(alices, "people-watching")

    # As an owner she could take it at once. She asks; he sees it without a reload and hands over in his list.
    expect(alices.locator("[data-people-line]").get_by_role("button", name="Take control")).to_be_visible()
    people(alices).get_by_role("button", name="Ask for control").click()
    expect(bobs.locator("[data-people-line]")).to_contain_text("alice asks for control")
    snap(bobs, "people-asked")
    people(bobs).get_by_role("button", name="Give control to alice").click()
    expect(people(alices)).to_have_attribute("data-controls", "true")
    alices.wait_for_function("control.at(-1).controls")
    expect(bobs.locator("[data-people-line]")).to_contain_text("alice controls; you watch.")
    assert in_db(lambda: ScreenControl.objects.select_related("user").get().user) == alice

    people(alices).get_by_role("button", name="Remove bob from the screen").click()
    expect(bobs.locator("[data-console]")).to_have_attribute("data-reason", "kicked")
    expect(bobs.locator("[data-console-status]")).to_contain_text("You were removed from this screen")
    bobs.get_by_role("button", name="Try again").click()
    expect(bobs.locator("[data-console-status]")).to_contain_text("alice removed you from this screen")
    snap(bobs, "people-removed")
    expect(people(alices)).to_contain_text("Removed for a while")
    snap(alices, "people-removed-seen")
    people(alices).get_by_role("button", name="Let back in: bob").click()
    bobs.get_by_role("button", name="Try again").click()
    expect(bobs.locator("[data-console]")).to_have_attribute("data-state", "connected")
    phone = place.sit_down(bob, viewport={"width": 390, "height": 800}, color_scheme="dark", reduced_motion="reduce")
    expect(people(phone)).to_contain_text("2 tabs")
    people(phone).scroll_into_view_if_needed()
    snap(phone, "people-phone-dark")
    # What the browser itself says of the refused ticket.
    assert [text for text in place.complaints if "409" not in text] == []


def sizes_asked(tab: Page) -> list[tuple[int, int]]:
    """What size of screen the page asks the guest for, as it goes on; from before the page is opened."""
    sizes: list[tuple[int, int]] = []

    def sent(payload: str | bytes) -> None:
        if isinstance(payload, bytes) and payload[0] == SET_DESKTOP_SIZE:
            sizes.append((int.from_bytes(payload[2:4]), int.from_bytes(payload[4:6])))

    tab.on("websocket", lambda socket: socket.on("framesent", sent))
    return sizes


def test_who_gets_control_gives_the_guest_their_window_s_size(place: Place, alice: User, bob: User) -> None:
    place.sit_down(bob)
    alices = place.context(alice).new_page()
    asked = sizes_asked(alices)
    alices.goto(f"{place.url}/machines/{place.machine.pk}/screen/")
    alices.wait_for_selector("[data-console][data-first-frame]")
    expect(people(alices)).to_have_attribute("data-holder", "bob")
    alices.set_viewport_size({"width": 1100, "height": 700})
    alices.locator("[data-people-line]").get_by_role("button", name="Take control").click()
    expect(people(alices)).to_have_attribute("data-controls", "true")
    wait_for("the guest is asked for it", lambda: alices.evaluate("1") and (1100, 700) in asked, seconds=60)
    # The relay's look at who controls may come later than the page's; it is asked until QEMU has heard and answered.
    wait_for("and no more once it has answered", lambda: _stays(alices, asked), seconds=60)


def _stays(tab: Page, asked: list[tuple[int, int]]) -> bool:
    before = len(asked)
    tab.wait_for_timeout(5000)
    return len(asked) == before


def test_what_is_chosen_in_the_panel_outlives_its_refresh(place: Place, alice: User, bob: User) -> None:
    alices = place.sit_down(alice)
    people(alices).get_by_text("Share this screen").click()
    people(alices).get_by_label("Who opens it may").select_option("control")
    alices.locator("[data-console-handle]").focus()
    place.sit_down(bob)
    expect(people(alices)).to_contain_text("bob")
    expect(people(alices).get_by_label("Who opens it may")).to_have_value("control")


def test_a_link_is_made_and_opened_and_an_operator_s_watching_is_said(
    place: Place, alice: User, vera: User, operator: User
) -> None:
    alices = place.sit_down(alice)
    people(alices).get_by_text("Share this screen").click()
    people(alices).get_by_label("Who opens it may").select_option("control")
    people(alices).get_by_role("button", name="Make a link").click()
    link = people(alices).locator("[data-people-link]").input_value()
    snap(alices, "people-shared")
    assert "/machines/shared/" in link

    veras = place.context(vera).new_page()
    veras.goto(link)
    assert veras.url.endswith(f"/machines/{place.machine.pk}/screen/")
    veras.wait_for_selector("[data-console][data-granted-mode=control][data-first-frame]")
    expect(people(alices)).to_contain_text("vera")
    assert people(alices).locator("[data-people-link]").input_value() == link, "it stays until the page is left"

    olgas = place.context(operator, color_scheme="dark").new_page()
    olgas.goto(f"{place.url}/sessions/")
    snap(olgas, "sessions-dark")
    olgas.get_by_role("button", name="Watch alice on beacon").click()
    olgas.wait_for_selector("[data-console][data-granted-mode=view][data-first-frame]")
    expect(alices.locator("[data-people-line]")).to_contain_text("olga (operator) is watching.")
    snap(alices, "people-operator-watches")

    list_page = place.context(operator, viewport={"width": 390, "height": 800}).new_page()
    list_page.goto(f"{place.url}/sessions/")
    list_page.wait_for_selector("html[data-line=up]", state="attached")
    snap(list_page, "sessions-phone")
    list_page.get_by_role("link", name="End the session of vera on beacon").click()
    expect(list_page.get_by_role("dialog")).to_be_visible()
    snap(list_page, "sessions-end")
    list_page.get_by_role("button", name="End it").click()
    expect(veras.locator("[data-console]")).to_have_attribute("data-reason", "ended-by-operator")
    list_page.goto(f"{place.url}/sessions/?state=ended")
    expect(list_page.locator("#session-list")).to_contain_text("olga ended it.")
    snap(list_page, "sessions-ended-phone")
    ended = ConsoleSession.objects.filter(ended_reason="ended-by-operator")
    assert in_db(lambda: (ConsoleGrant.objects.count(), ended.count())) == (1, 1)
    assert place.complaints == []
