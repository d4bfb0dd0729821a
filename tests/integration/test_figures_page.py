"""A machine's figures in a real browser, under the real content policy: drawn, and renewed while somebody looks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import Page, Route, expect, sync_playwright

from portal.accounts.models import User
from portal.figures import live
from portal.figures.rates import Reading
from portal.lib.store import store
from portal.machines.models import Machine
from tests.support.libvirtd import wait_until
from tests.support.product import CHROMIUM_FLAGS
from tests.support.redis import redis_db, redis_url
from tests.support.web import cookie_of, web_processes

__all__ = ["redis_db", "redis_url"]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "base.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
]

Tell = Callable[[float], None]
expect.set_options(timeout=60_000)
# A live chart is asked for anew every ten seconds; a busy machine may take its time for it.
RENEWED_MS = 60_000


@pytest.fixture
def tell(machine: Machine, redis_db: str, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """The machine's processor was busy by this share since the last time, ten seconds earlier; the fourth is now."""
    rounds = list[tuple[float, float]]()

    def one(share: float) -> None:
        cpu_ns, at_s = rounds[-1] if rounds else (0.0, live.now_s(store()) - 40)
        rounds.append((cpu_ns + share * 10e9, at_s + 10))
        reading = Reading(1, 1, rounds[-1][0], 0, 0, 0, 0, 2**28, 2**30)
        with monkeypatch.context() as patch:
            patch.setattr(live, "now_s", lambda _client: rounds[-1][1])
            host = Reading(0, 8, rounds[-1][0])
            live.record(machine.host_id, live.Round("steady", rounds[-1][1], host, {machine.pk: reading}))

    return one


@pytest.fixture
def page(tell: Tell, alice: User, redis_db: str, tmp_path: Path) -> Iterator[tuple[Page, str, list[str]]]:
    session = cookie_of(alice).partition(";")[0].partition("=")[2]
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with web_processes(1, environment, tmp_path) as (web,), sync_playwright() as playwright:
        url, faults = f"http://localhost:{web.port}", list[str]()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": url}])
        opened = context.new_page()
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda said: faults.append(said.text) if said.type in {"error", "warning"} else None)
        yield opened, url, faults
        browser.close()


def test_figures_are_drawn_renewed_and_changed(page: tuple[Page, str, list[str]], machine: Machine, tell: Tell) -> None:
    shown, url, faults = page
    for share in (0.0, 0.25, 0.25, 0.25):
        tell(share)
    shown.goto(f"{url}/machines/{machine.pk}/figures/?span=live")
    cpu = shown.locator("#chart-cpu")
    expect(cpu.locator("canvas")).to_be_visible()
    expect(shown.locator(".charts canvas")).to_have_count(4)
    expect(cpu.locator("b")).to_have_text("25 %")
    canvas = cpu.locator("canvas").evaluate_handle("canvas => canvas")

    tell(0.75)
    tell(0.75)
    expect(cpu.locator("b")).to_have_text("75 %", timeout=RENEWED_MS)
    assert canvas.evaluate("canvas => canvas.isConnected"), "the chart took the new numbers, it was not made anew"
    assert shown.evaluate("document.activeElement === document.body")

    shown.locator("#span-day").click()
    expect(shown.locator("#span-day")).to_have_attribute("aria-current", "true")
    expect(shown.locator("#figures")).to_have_attribute("data-figures", "300")
    expect(cpu.locator("canvas")).to_be_visible()
    shown.locator("[data-theme-toggle]").first.click()
    expect(cpu.locator("canvas")).to_be_visible()
    shown.get_by_text("As a table").click()
    expect(shown.get_by_role("columnheader", name="Memory in use")).to_be_visible()
    assert faults == []


def test_on_the_machines_page_they_come_when_they_are_scrolled_to_and_outlive_its_refresh(
    page: tuple[Page, str, list[str]], machine: Machine, tell: Tell
) -> None:
    shown, url, faults = page
    for share in (0.0, 0.5, 0.5, 0.5):
        tell(share)
    asked = list[str]()
    shown.on("request", lambda request: asked.append(request.url) if "/figures/" in request.url else None)
    shown.set_viewport_size({"width": 390, "height": 300})
    shown.goto(f"{url}/machines/{machine.pk}/")
    expect(shown.locator("#figures")).to_contain_text("Looking them up")
    assert asked == [], "nobody has scrolled there yet"
    shown.route("**/figures/**", lambda route: route.fulfill(status=503))
    shown.locator("#figures").scroll_into_view_if_needed()
    expect(shown.locator("#figures")).to_contain_text("could not be fetched")
    shown.unroute("**/figures/**")
    expect(shown.locator("#chart-cpu canvas")).to_be_visible(timeout=RENEWED_MS)
    canvas = shown.locator("#chart-cpu canvas").evaluate_handle("canvas => canvas")
    with shown.expect_response(re.compile(rf"/machines/{machine.pk}/(\?.*)?$")):
        shown.evaluate("document.dispatchEvent(new CustomEvent('casement:changed', { detail: { topics: ['*'] } }))")
    expect(shown.locator("#chart-cpu canvas")).to_be_visible()
    assert canvas.evaluate("canvas => canvas.isConnected")
    # Its screen is nowhere, which noVNC says as well; and the browser that something was refused.
    assert [
        fault
        for fault in faults
        if not fault.startswith(("Failed when connecting", "Failed to load", "Response Status Error Code 503"))
    ] == []


def test_a_place_that_is_in_view_from_the_beginning_is_filled_at_once(
    page: tuple[Page, str, list[str]], machine: Machine, tell: Tell
) -> None:
    """Before the scripts of the page have all run, nobody would hear that it is due."""
    shown, url, _faults = page
    for share in (0.0, 0.5, 0.5, 0.5):
        tell(share)
    shown.set_viewport_size({"width": 1200, "height": 3000})
    waiting = list[Route]()
    shown.route("**/js/console.js", lambda route: waiting.append(route))  # noqa: PLW0108 - it sets an attribute on it
    shown.goto(f"{url}/machines/{machine.pk}/", wait_until="commit")
    expect(shown.locator("#figures")).to_be_visible()
    # Drawn at least once more: what comes into view has been noticed by then.
    shown.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")
    wait_until(lambda: bool(shown.title() and waiting), 60)
    waiting[0].continue_()
    expect(shown.locator("#chart-cpu canvas")).to_be_visible()


def test_lists_show_what_their_machines_use(page: tuple[Page, str, list[str]], machine: Machine, tell: Tell) -> None:
    shown, url, faults = page
    for share in (0.0, 0.5, 0.5, 0.5):
        tell(share)
    for view in ("cards", "table"):
        tell(0.5)  # What is older than some seconds is not shown.
        shown.goto(f"{url}/machines/?view={view}")
        expect(shown.locator(f'[data-load="{machine.pk}"]')).to_have_text("CPU 50 %, memory 256 MiB")
        expect(shown.locator(f'[data-load="{machine.pk}"] svg path')).to_have_attribute("d", re.compile("M.*L"))
    assert faults == []
