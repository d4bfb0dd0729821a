"""A teacher's wall and a pupil who came by a link, each in a browser: a real web process, Redis, QEMU and Chromium."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from django.conf import settings
from django.contrib.auth.models import Group
from django.urls import reverse
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from portal.accounts.models import Project, User
from portal.console.models import ConsoleSession
from portal.console.thumbnails import AFTER_FAILURE_S
from portal.deployments import access
from portal.deployments.lists import entries_of
from portal.deployments.models import Deployment
from portal.deployments.services import make_deployment
from portal.jobs.models import Job, JobStep
from portal.lib.secrets import seal
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from tests.integration.console.qemu import running_qemu
from tests.integration.console.test_browser import FLAGS
from tests.portal.console.conftest import socket_path
from tests.portal.deployments.conftest import dana, emil, plan, room, run_all, seat_of
from tests.support.product import wait_for
from tests.support.redis import redis_db, redis_url
from tests.support.together import at_once
from tests.support.web import CSRF, cookie_of, web_processes

__all__ = ["dana", "emil", "plan", "redis_db", "redis_url", "room", "socket_path"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "console.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
]

SECRET = "s3cr3tpw"
NAMES = ["dana", "emil", *(f"{name} {letter}." for letter in "KLM" for name in ("Mia", "Noah", "Ida", "Finn"))]
expect.set_options(timeout=60_000)


@dataclass
class School:
    url: str
    browser: Browser
    deployment: Deployment
    complaints: list[str]

    def context(self, user: User | None, **options: Any) -> BrowserContext:
        context = self.browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        context.set_default_timeout(60_000)
        names = {settings.CSRF_COOKIE_NAME: CSRF}
        if user is not None:
            cookie = at_once([lambda: cookie_of(user)])[0]
            names[settings.SESSION_COOKIE_NAME] = cookie.partition(";")[0].partition("=")[2]
            context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in names.items()])
        return context

    def watched(self, tab: Page) -> Page:
        tab.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        return tab


@pytest.fixture
def school(
    room: Project,
    plan: Any,
    alice: User,
    operator: User,
    dana: User,
    emil: User,
    redis_db: str,
    socket_path: str,
    tmp_path: Path,
) -> Iterator[School]:
    Group.objects.create(name="10b").user_set.add(dana, emil, alice)
    deployment = make_deployment(room, actor=alice, plan=plan, people=entries_of(NAMES), whole=True)
    run_all(deployment)
    Machine.objects.update(console_socket=socket_path, console_secret=seal(SECRET), kind="desktop")
    _in_all_states(deployment)
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with (
        running_qemu(socket_path, SECRET),
        web_processes(1, environment, tmp_path) as (web,),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield School(f"http://localhost:{web.port}", browser, deployment, [])
        browser.close()


def _in_all_states(deployment: Deployment) -> None:
    off: dict[str, Any] = {"power_state": PowerState.SHUT_OFF, "console_socket": ""}
    for label, values in {
        "Mia M.": off,
        "Noah M.": {**off, "status": Status.BUILDING, "task": Task.BUILDING},
        "Ida M.": {**off, "status": Status.ERROR, "error_message": "The host's storage is full."},
        "Finn M.": {"status": Status.DELETED},
    }.items():
        Machine.objects.filter(seat__deployment=deployment, seat__label=label).update(**values)
    building = seat_of(deployment, "Noah M.")
    assert building.machine is not None
    Job.objects.filter(target_id=building.machine.pk).update(status="running", finished_at=None)
    step = JobStep.objects.filter(job__target_id=building.machine.pk).first()
    if step:
        JobStep.objects.filter(pk=step.pk).update(status="running", progress=40)


def snap(tab: Page, name: str, *, whole: bool = False) -> None:
    """A picture for whoever looks at the pages, when a folder for it is given."""
    if folder := os.environ.get("CASEMENT_ARTEFACTS"):
        tab.screenshot(path=f"{folder}/{name}.png", full_page=whole)


def link_for(school: School, alice: User, label: str) -> str:
    def make() -> str:
        seat = seat_of(school.deployment, label)
        week = dt.timedelta(days=7)
        [link] = access.make_links(school.deployment, [seat], actor=alice, lifetime=week)
        return reverse("deployments:shared", args=[link.token])

    return f"{school.url}{at_once([make])[0]}"


def test_a_teacher_sees_all_steps_in_and_tells_and_a_pupil_is_told(school: School, alice: User) -> None:
    # The pupil opens the link: one click, and the screen is there.
    pupil = school.watched(school.context(None).new_page())
    pupil.goto(link_for(school, alice, "Mia K."))
    snap(pupil, "deployment-link")
    pupil.get_by_role("button", name="Open the desktop").click()
    pupil.wait_for_selector("[data-console][data-first-frame]")

    # The teacher's wall has live pictures, says who is there, and changes by itself.
    teacher = school.watched(school.context(alice).new_page())
    teacher.goto(f"{school.url}{reverse('deployments:detail', args=[school.deployment.pk])}")
    mia = teacher.locator("article", has=teacher.get_by_role("heading", name="Mia K."))
    expect(mia).to_contain_text("at the screen")
    loaded = "() => [...document.querySelectorAll('img[data-thumbnail]')].filter((i) => i.naturalWidth > 1).length > 3"
    # A display too slow for its picture on a busy machine is left in peace for a minute.
    teacher.wait_for_function(loaded, timeout=4_000 * AFTER_FAILURE_S)
    snap(teacher, "deployment-wall", whole=True)

    # A message to all.
    teacher.locator("#wall-message summary").click()
    teacher.get_by_label("Message", exact=True).fill("We go on in five minutes.")
    snap(teacher, "deployment-message")
    teacher.get_by_role("button", name="Show it on their screens").click()
    expect(pupil.locator("[data-people-notice]")).to_contain_text("alice: We go on in five minutes.")
    snap(pupil, "deployment-told")
    pupil.locator("[data-people-notice]").get_by_role("button", name="Put away").click()
    expect(pupil.locator("[data-people-notice]")).to_be_hidden()

    # Watching: the pupil is told who.
    with teacher.context.expect_page() as opened:
        mia.get_by_role("button", name="Watch Mia K.").click()
    watching = school.watched(opened.value)
    watching.wait_for_selector("[data-console][data-first-frame]")
    expect(pupil.locator("[data-people-line]")).to_contain_text("alice is watching.")
    snap(pupil, "deployment-watched")
    watching.close()
    expect(pupil.locator("[data-people-line]")).to_be_hidden()

    # Control: taken at once, and the pupil is told, and may ask for it.
    with teacher.context.expect_page() as opened:
        mia.get_by_role("button", name="Control the screen of Mia K.").click()
    controlling = school.watched(opened.value)
    controlling.wait_for_selector("[data-console][data-first-frame]")
    expect(pupil.locator("[data-people-line]")).to_contain_text("alice controls; you watch.")
    expect(controlling.locator("[data-console-people]")).to_have_attribute("data-controls", "true")
    snap(controlling, "deployment-control")
    controlling.close()
    assert school.complaints == []

    # The link is revoked: the pupil's screen ends.
    took = _until_out(school, alice, pupil)
    assert took < 2.5, took


def _until_out(school: School, alice: User, pupil: Page) -> float:
    """How long the pupil's screen outlives the link."""
    seat = at_once([lambda: seat_of(school.deployment, "Mia K.")])[0]
    began = time.monotonic()
    at_once([lambda: access.revoke_link(seat, actor=alice)])
    out = partial(at_once, [lambda: _open_of(seat.guest_id) == 0])
    wait_for("the pupil's screen to end", lambda: out()[0], seconds=60, every=0.1)
    took = time.monotonic() - began
    expect(pupil.locator("[data-console-status]")).to_contain_text("signed out")
    return took


def _open_of(user_id: int | None) -> int:
    return ConsoleSession.objects.filter(user=user_id, ended_at=None).count()


LOOKS: list[tuple[str, Literal["light", "dark"], int]] = [("light", "light", 1400), ("dark-phone", "dark", 390)]


def test_the_pages_are_whole_in_light_and_dark_and_on_a_phone(school: School, alice: User, dana: User) -> None:
    """Nothing is wider than the page, and no script complains."""
    pk = school.deployment.pk
    paths = {
        "list": reverse("deployments:list"),
        "new": reverse("deployments:new"),
        "wall": reverse("deployments:detail", args=[pk]),
        "none": reverse("deployments:detail", args=[pk]) + "?q=nobody-is-called-so",
        "people": reverse("deployments:people", args=[pk]),
        "links": reverse("deployments:links", args=[pk]),
        "delete": reverse("deployments:delete", args=[pk]),
    }
    link = link_for(school, alice, "Noah K.")
    off = at_once([lambda: seat_of(school.deployment, "dana")])[0]
    for name, theme, width in LOOKS:
        size = {"width": width, "height": 900}
        tab = school.watched(school.context(alice, color_scheme=theme, viewport=size).new_page())
        for page, path in paths.items():
            tab.goto(f"{school.url}{path}")
            _is_whole(tab, f"{page}-{name}")
        tab.goto(f"{school.url}{paths['new']}")
        tab.get_by_label("Name", exact=True).fill("Physics, 10b")
        tab.get_by_label("People", exact=True).fill("\n".join(["dana", "emil@example.org", *NAMES[2:], "Zoe"]))
        tab.get_by_role("button", name="Check the list").click()
        expect(tab.get_by_role("button", name="Make 15 desktops")).to_be_visible()
        _is_whole(tab, f"checked-{name}")
        tab.goto(f"{school.url}{paths['links']}")
        tab.get_by_role("button", name="Make links").click()
        expect(tab.locator("#links-table")).to_be_visible()
        _is_whole(tab, f"made-{name}")
        tab.goto(f"{school.url}{paths['wall']}")
        tab.locator("#many").get_by_role("button", name="Reset…").click()
        _is_whole(tab, f"reset-{name}")
        for page, address in {"shared": link, "no-link": f"{school.url}/deployments/shared/{'x' * 43}/"}.items():
            other = school.context(None, color_scheme=theme, viewport=size).new_page()
            other.goto(address)
            _is_whole(other, f"{page}-{name}")
        link = link_for(school, alice, "Noah K.")
        danas = school.watched(school.context(dana, color_scheme=theme, viewport=size).new_page())
        danas.goto(f"{school.url}{paths['list']}")
        _is_whole(danas, f"mine-{name}")
        at_once([lambda: Machine.objects.filter(seat=off).update(power_state="shut_off", console_socket="")])
        danas.goto(f"{school.url}{reverse('deployments:own', args=[off.pk])}")
        expect(danas.get_by_role("button", name="Start it")).to_be_visible()
        _is_whole(danas, f"own-{name}")
    assert school.complaints == []


def _is_whole(tab: Page, name: str) -> None:
    snap(tab, f"deployment-{name}", whole=True)
    wide = tab.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, (name, wide)
