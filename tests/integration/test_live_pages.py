"""An operator's tab in a real browser while the whole site changes: it stays right, and asks at a bearable pace."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings
from playwright.sync_api import Page, Response, expect, sync_playwright
from pytest_django.fixtures import Settings

from portal import settings as portal_settings
from portal.accounts.models import User
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobStatus
from portal.lib.live import OPERATORS, publish_on_commit
from portal.machines.events import machine_changed, screen_came
from portal.machines.models import Machine
from portal.machines.states import PowerState
from tests.support.redis import redis_db, redis_url
from tests.support.together import at_once
from tests.support.web import CSRF, cookie_of, web_processes

__all__ = ["redis_db", "redis_url"]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "base.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
]

FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
# As in static/js/base/live.js: so many times longer than the portal took a part rests, give or take a fifth.
LEAST_RESTS = 40 * 0.8
LIST = re.compile(r"/machines/(\?.*)?$")
DETAIL = re.compile(r"/machines/[0-9a-f-]{36}/\?stage=")
CHANGES = 150
GATHER_MS = 50
expect.set_options(timeout=60_000)


@pytest.fixture
def page(
    machine: Machine, operator: User, redis_db: str, settings: Settings, tmp_path: Path
) -> Iterator[tuple[Page, str]]:
    """The list of machines, and its address; live messages go through a real Redis."""
    layer = portal_settings.CHANNEL_LAYERS["default"]
    host = {**layer["CONFIG"]["hosts"][0], "address": redis_db}  # type: ignore[index]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {**layer["CONFIG"], "hosts": [host]}}}  # type: ignore[dict-item]
    session = cookie_of(operator).partition(";")[0].partition("=")[2]
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with web_processes(1, environment, tmp_path) as (web,), sync_playwright() as playwright:
        url = f"http://localhost:{web.port}"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        context.add_cookies(
            [
                {"name": settings.SESSION_COOKIE_NAME, "value": session, "url": url},
                {"name": settings.CSRF_COOKIE_NAME, "value": CSRF, "url": url},
            ]
        )
        tab = context.new_page()
        tab.goto(f"{url}/machines/")
        # Up means greeted: from here on every change reaches the tab.
        tab.wait_for_selector("html[data-line=up]", state="attached")
        yield tab, url
        browser.close()


def storm() -> None:
    """Changes of machines that the tab does not show, twenty a second."""
    for _ in range(CHANGES):
        publish_on_commit([OPERATORS], [f"machine:{uuid4()}", "machines"])
        time.sleep(0.05)


def test_a_storm_of_changes_costs_the_portal_a_small_share_and_the_tab_stays_right(
    page: tuple[Page, str], machine: Machine
) -> None:
    tab, _ = page
    fetched: list[Response] = []
    tab.on("response", lambda response: fetched.append(response) if LIST.search(response.url) else None)
    began = time.monotonic()
    at_once([storm])
    # Playwright tells of what happened meanwhile only when it is asked something.
    wait_until(tab, lambda: bool(fetched))
    elapsed_ms = (time.monotonic() - began) * 1000
    took = [float(response.headers["server-timing"].partition("dur=")[2]) for response in fetched]
    assert took, "the list was never fetched again"
    assert sum(took[:-1]) * LEAST_RESTS <= elapsed_ms
    assert len(fetched) < CHANGES / 3

    def stops() -> None:
        Machine.objects.filter(pk=machine.pk).update(power_state=PowerState.SHUT_OFF, console_socket="")
        machine_changed(machine)

    at_once([stops])
    expect(tab.locator(f"#machine-{machine.pk}")).to_contain_text("Shut off", timeout=60_000)


def test_a_screen_that_somebody_waits_for_is_not_held_back_by_the_pages_rest(
    page: tuple[Page, str], machine: Machine
) -> None:
    """Between two looks at the portal a page rests, here for longer than its clock is let go on."""
    tab, url = page
    # Without a screen, which has news of its own.
    off = {"power_state": PowerState.SHUT_OFF, "console_socket": ""}
    at_once([lambda: Machine.objects.filter(pk=machine.pk).update(**off)])
    fetched: list[Response] = []
    heard: list[str] = []
    tab.on("response", lambda response: fetched.append(response) if DETAIL.search(response.url) else None)
    tab.on("websocket", lambda line: line.on("framereceived", lambda frame: heard.append(str(frame))))
    tab.clock.install()
    tab.goto(f"{url}/machines/{machine.pk}/")
    wait_until(tab, lambda: bool(fetched))  # It looks once when it hears from the portal.
    tab.wait_for_timeout(1000)
    # Its clock goes on until it is stopped, and on a busy machine that is a while later.
    tab.clock.pause_at(tab.evaluate("Date.now() / 1000 + 20"))
    looked = len(fetched)
    heard.clear()
    at_once([lambda: machine_changed(machine)])
    wait_until(tab, lambda: any(f"machine:{machine.pk}" in one for one in heard))

    def looks_again() -> bool:
        tab.clock.run_for(GATHER_MS)
        return len(fetched) > looked

    wait_until(tab, looks_again)
    looked = len(fetched)
    heard.clear()
    at_once([lambda: screen_came(machine)])
    wait_until(tab, lambda: any(f"screen:{machine.pk}" in one for one in heard))
    # Playwright hears it before the page does, which may be a while later: still much sooner than it has rested.
    for _ in range(2 * GATHER_MS):
        if len(fetched) == looked:
            tab.clock.run_for(1)
            tab.wait_for_timeout(20)
    wait_until(tab, lambda: len(fetched) > looked)


def wait_until(tab: Page, condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        tab.wait_for_timeout(20)


FIRST_ONE_HANGS = """
const Real = window.WebSocket;
window.lines = [];
window.WebSocket = class extends Real {
  constructor(url, names) {
    super(url, names);
    window.lines.push(this);
    if (window.lines.length === 1) {
      const listen = this.addEventListener.bind(this);
      this.addEventListener = (kind, heard) => kind === "open" || listen(kind, heard);
    }
  }
};
"""


def test_a_line_that_never_comes_about_is_tried_again(page: tuple[Page, str]) -> None:
    """Browsers themselves wait for minutes. Here the first one is never said to be open."""
    tab, url = page
    tab.add_init_script(FIRST_ONE_HANGS)
    tab.goto(f"{url}/machines/")
    tab.wait_for_selector("html[data-line=up]", state="attached")
    assert tab.evaluate("window.lines.length") == 2
    assert tab.evaluate("window.lines[0].readyState") >= 2, "the first one was let go of"


def test_many_are_chosen_by_keyboard_stay_chosen_and_their_results_come_by_themselves(
    page: tuple[Page, str], machine: Machine
) -> None:
    tab, url = page
    tab.goto(f"{url}/machines/?view=table")
    tab.wait_for_selector("html[data-line=up]", state="attached")
    pick = tab.get_by_label(f"Choose {machine.name}")
    pick.focus()
    tab.keyboard.press("Space")
    bar = tab.locator("#many")
    expect(bar).to_contain_text("1 chosen")

    def is_reset() -> None:
        Machine.objects.filter(pk=machine.pk).update(addresses=["10.213.0.77"])
        machine_changed(machine)

    at_once([is_reset])
    expect(tab.locator(f"#machine-{machine.pk}")).to_contain_text("10.213.0.77", timeout=60_000)
    expect(pick).to_be_checked()
    bar.get_by_role("combobox").select_option("stop")
    bar.get_by_role("button", name="Do it").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url(re.compile(r"/machines/many/[0-9a-f-]+/$"))
    tab.wait_for_selector("html[data-line=up]", state="attached")
    expect(tab.locator("#many-result")).to_contain_text("0 done, 1 under way", timeout=60_000)
    tab.evaluate("window.notReloaded = true")
    at_once([worked_off])
    expect(tab.locator("#many-result")).to_contain_text("1 done, 0 under way", timeout=60_000)
    assert tab.evaluate("window.notReloaded") is True


def worked_off() -> None:
    """A worker ends the job; what it does on a host is no part of this."""
    job = jobs.take_lease(Job.objects.get().pk, owner="a worker")
    assert job is not None
    jobs.finish(job, JobStatus.DONE)
