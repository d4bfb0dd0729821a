"""People and their desktops in real browsers: a real web process, Redis and QEMU's own screens. Nothing is built."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from pytest_django.fixtures import Settings

from portal import settings as portal_settings
from portal.accounts.models import User
from portal.lib.secrets import seal
from portal.machines.models import Machine
from portal.pools import broker, events, services
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.states import DesktopState, EndReason, PlaceState
from tests.conftest import PASSWORD
from tests.integration.console.qemu import running_qemu
from tests.integration.console.test_browser import FLAGS
from tests.support import axe
from tests.support.pool_rows import pool_of
from tests.support.product import wait_for
from tests.support.redis import redis_db, redis_url
from tests.support.together import at_once
from tests.support.web import CSRF, cookie_of, web_processes

__all__ = ["redis_db", "redis_url"]

BUILT = django_settings.BASE_DIR / "static" / "dist" / "js" / "console.js"
pytestmark = [
    pytest.mark.real,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(not BUILT.exists(), reason="the front end is not built (bin/frontend)"),
    pytest.mark.skipif(not axe.SCRIPT.exists(), reason="axe-core is not installed (bin/frontend --lint)"),
]

SECRET = "s3cr3tpw"
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
ON_SCREEN = "[data-console][data-first-frame]"
expect.set_options(timeout=60_000)


@dataclass
class Site:
    """Where the portal is, with a browser to go there and the pool's desktops."""

    url: str
    browser: Browser
    pool: Pool
    complaints: list[str] = field(default_factory=list)

    def context(self, user: User | None = None, **options: Any) -> BrowserContext:
        context = self.browser.new_context(
            **{"viewport": {"width": 1300, "height": 850}, "reduced_motion": "reduce", **options}
        )
        context.set_default_timeout(60_000)
        axe.load_into(context)
        if user is not None:
            session = in_db(lambda: cookie_of(user)).partition(";")[0].partition("=")[2]
            names = {django_settings.SESSION_COOKIE_NAME: session, django_settings.CSRF_COOKIE_NAME: CSRF}
            context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in names.items()])
        return context

    def tab(self, user: User | None, path: str, **options: Any) -> Page:
        tab = self.context(user, **options).new_page()
        tab.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.goto(self.url + path)
        return tab


def in_db(work: Callable[[], Any]) -> Any:
    """Playwright's loop runs in this thread, in which Django refuses to work."""
    return at_once([work])[0]


def snap(tab: Page, name: str) -> None:
    """A picture for whoever looks at the pages, when a folder for it is given."""
    if folder := os.environ.get("CASEMENT_ARTEFACTS"):
        tab.screenshot(path=f"{folder}/{name}.png", full_page="/screen" not in tab.url and "session" not in tab.url)


MOVING = "document.getAnimations().some((one) => one.playState === 'running')"


def look(tab: Page, name: str) -> None:
    """Nothing serious, in both colour schemes and at the width of a phone."""
    size = tab.viewport_size
    assert size is not None
    for theme in ("light", "dark"):
        tab.evaluate(f"document.documentElement.dataset.bsTheme = '{theme}'")
        # Colours go over into each other; in between they are neither scheme's.
        wait_for("the colours are there", lambda: not tab.evaluate(MOVING), seconds=60, every=0.05)
        assert axe.findings(tab) == [], (name, theme)
        snap(tab, f"{name}-{theme}")
    tab.set_viewport_size({"width": 390, "height": 844})
    assert axe.findings(tab) == [], (name, "phone")
    snap(tab, f"{name}-phone")
    tab.set_viewport_size(size)


@pytest.fixture
def site(
    machine: Machine,
    alice: User,
    bob: User,
    charlie: User,
    operator: User,
    redis_db: str,
    settings: Settings,
    tmp_path: Path,
) -> Iterator[Site]:
    """Two desktops for Alice, Bob and Charlie. Live messages of this process go through the same Redis."""
    layer = portal_settings.CHANNEL_LAYERS["default"]
    host = {**layer["CONFIG"]["hosts"][0], "address": redis_db}  # type: ignore[index]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {**layer["CONFIG"], "hosts": [host]}}}  # type: ignore[dict-item]
    Machine.objects.filter(pk=machine.pk).update(owner=operator)
    pool = pool_of(machine, entitled=(alice, bob, charlie), maximum=2)
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="casement-vnc-")))
        for desktop in Desktop.objects.all():
            socket = str(folder / f"{desktop.number}.sock")
            Machine.objects.filter(desktop=desktop).update(console_socket=socket, console_secret=seal(SECRET))
            stack.enter_context(running_qemu(socket, SECRET))
        (web,) = stack.enter_context(web_processes(1, environment, tmp_path))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield Site(f"http://localhost:{web.port}", browser, pool)
        browser.close()


def one_desktop() -> None:
    """Of the two only the first is there."""
    Desktop.objects.filter(number=2).update(state=DesktopState.RETIRED)
    Pool.objects.update(maximum=1)


def sign_in(tab: Page, name: str) -> None:
    tab.fill("input[name=username]", name)
    tab.fill("input[name=password]", PASSWORD)
    tab.get_by_role("button", name="Sign in").click()


def live_session(user: User) -> Session:
    found: Session = in_db(lambda: Session.objects.live().select_related("pool", "desktop", "person").get(person=user))
    return found


def test_from_signing_in_to_signing_out(site: Site, charlie: User, operator: User) -> None:
    home = site.tab(None, "/")
    sign_in(home, "charlie")
    home.wait_for_selector(ON_SCREEN)
    session = live_session(charlie)
    assert home.url.endswith(f"/desktops/session/{session.pk}/")
    wait_for("the first picture is written down", lambda: live_session(charlie).on_screen_at, seconds=60)
    snap(home, "desk")

    # Another device is asked; taking it over lets the first one go within moments.
    phone = site.tab(charlie, f"/desktops/{site.pool.name}/", **PHONE)
    expect(phone.get_by_role("heading")).to_contain_text("is open on another device")
    look(phone, "elsewhere")
    phone.get_by_role("button", name="Take it over").click()
    phone.wait_for_selector(ON_SCREEN)
    assert live_session(charlie).pk == session.pk
    over = home.get_by_role("alertdialog")
    expect(over).to_contain_text("open on another device now")
    look(home, "taken")
    over.get_by_role("button", name="Take it back").click()
    home.wait_for_selector(ON_SCREEN)
    expect(phone.get_by_role("alertdialog")).to_contain_text("open on another device now")
    phone.get_by_role("button", name="Share it").click()
    phone.wait_for_selector(ON_SCREEN)
    expect(home.get_by_role("alertdialog")).to_have_count(0)

    # A message to all, and the warning of an idle session.
    at_once([lambda: services.send_message(site.pool, actor=operator, text="The lab closes at six.")])
    note = home.get_by_text("The lab closes at six.")
    expect(note).to_be_visible()
    snap(home, "message")
    snap(phone, "message-phone")
    home.get_by_role("button", name="Put the message away").click()
    expect(note).to_be_hidden()
    phone.close()

    def warn() -> None:
        Pool.objects.update(idle_warn_s=60, idle_disconnect_s=300)
        Session.objects.filter(pk=session.pk).update(warned_at=timezone.now())
        events.session_changed(Session.objects.get(pk=session.pk))

    at_once([warn])
    expect(over).to_contain_text("Are you still there?")
    clock = over.locator("[data-countdown]")
    expect(clock).to_have_text(re.compile(r"4 min \d+ s"))
    look(home, "warned")
    home.get_by_role("button", name="I am here").focus()
    home.keyboard.press("Enter")
    expect(over).to_have_count(0)
    wait_for("the warning is forgotten", lambda: live_session(charlie).warned_at is None, seconds=60)

    def soon_over() -> None:
        Pool.objects.update(limit_s=3600)
        Session.objects.filter(pk=session.pk).update(started_at=timezone.now() - dt.timedelta(minutes=56))
        events.session_changed(Session.objects.get(pk=session.pk))

    at_once([soon_over])
    expect(home.get_by_text("This session ends in")).to_be_visible()
    look(home, "limit")

    home.locator("[data-console-handle]").click()
    look(home, "desk-bar")
    home.get_by_role("button", name="Sign out").click()
    expect(home.get_by_role("heading", name="You are signed out")).to_be_visible()
    look(home, "ended")
    in_db(lambda: Session.objects.get(pk=session.pk, end_reason=EndReason.SIGNED_OUT))
    home.get_by_role("link", name="Open a new desktop").click()
    home.wait_for_selector(ON_SCREEN)
    assert live_session(charlie).pk != session.pk

    # An operator signs him off: the page says so over the screen.
    at_once([lambda: services.sign_off_all(site.pool, actor=operator)])
    expect(over).to_contain_text("An operator signed you out")
    look(home, "signed-off")
    # What the browser itself says of tickets that were refused meanwhile.
    assert [text for text in site.complaints if not re.search(r"40[349]|429", text)] == []


def test_three_people_and_one_desktop(site: Site, alice: User, bob: User, charlie: User) -> None:
    in_db(one_desktop)
    path = f"/desktops/{site.pool.name}/"
    alices = site.tab(alice, path)
    alices.wait_for_selector(ON_SCREEN)
    bobs, charlies = site.tab(bob, path), site.tab(charlie, path)
    expect(bobs.locator("#waiting")).to_contain_text("You are next.")
    expect(charlies.locator("#waiting")).to_contain_text("1 person is before you.")
    look(charlies, "waiting")
    charlies.wait_for_selector("html[data-line=up]", state="attached")
    charlies.evaluate("window.notReloaded = true")

    # A reload keeps the place; a closed tab gives it to the others.
    bobs.reload()
    expect(bobs.locator("#waiting")).to_contain_text("You are next.")
    bobs.close()
    wait_for("his place is let go", lambda: in_db(lambda: _left_behind(bob)), seconds=60)
    at_once([lambda: broker.drop_lost(site.pool)])
    expect(charlies.locator("#waiting")).to_contain_text("You are next.")
    assert charlies.evaluate("window.notReloaded") is True

    def leaves() -> None:
        broker.sign_out(Session.objects.live().get(), EndReason.SIGNED_OUT, actor=alice)
        Desktop.objects.filter(number=1).update(state=DesktopState.SPARE)
        broker.serve(site.pool)

    at_once([leaves])
    charlies.wait_for_selector(ON_SCREEN)
    assert charlies.url.endswith(f"/desktops/session/{live_session(charlie).pk}/")
    expect(alices.get_by_role("alertdialog")).to_contain_text("You are signed out")


def _left_behind(person: User) -> bool:
    """The closed tab has said so, and what it was given to come back in is over."""
    waits = Place.objects.filter(person=person, state=PlaceState.WAITING)
    return not waits.filter(pk__in=Place.objects.waiting().values("pk")).exists()


def test_an_operator_sees_the_pool_live(site: Site, charlie: User, operator: User) -> None:
    olgas = site.tab(operator, f"/pools/{site.pool.pk}/", viewport={"width": 1300, "height": 1200})
    olgas.wait_for_selector("html[data-line=up]", state="attached")
    expect(olgas.locator("#pool-sessions")).to_contain_text("Nobody is on a desktop now.")
    olgas.evaluate("window.notReloaded = true")
    charlies = site.tab(charlie, "/")
    charlies.wait_for_selector(ON_SCREEN)
    expect(olgas.locator("#pool-sessions")).to_contain_text("charlie")
    expect(olgas.locator("#pool-times")).to_contain_text("Half of them within")
    failed = "The host has no room for another desktop of this size."

    def fails() -> None:
        Desktop.objects.filter(state=DesktopState.SPARE).update(state=DesktopState.FAILED, error=failed)
        events.pool_changed(site.pool)

    at_once([fails])
    expect(olgas.locator("#pool-failures")).to_contain_text(failed)
    look(olgas, "pool")
    olgas.get_by_role("button", name="Sign off charlie").click()
    expect(olgas.locator("#pool-sessions")).to_contain_text("Nobody is on a desktop now.")
    assert olgas.evaluate("window.notReloaded") is True
    expect(charlies.get_by_role("alertdialog")).to_contain_text("An operator signed you out")
    olgas.get_by_label("What they are to know").fill("Back at noon.")
    olgas.get_by_role("button", name="Show it").click()
    olgas.get_by_role("button", name="Maintenance").click()
    expect(olgas.locator("#pool")).to_contain_text("Nobody gets a desktop of it")
    charlies.goto(f"{site.url}/desktops/{site.pool.name}/")
    expect(charlies.locator("#waiting")).to_contain_text("closed for maintenance")
    expect(charlies.locator("#waiting")).to_contain_text("Back at noon.")
    look(charlies, "maintenance")
    charlies.goto(f"{site.url}/desktops/")
    look(charlies, "tiles")
    for path, name in (("", "pools"), ("new/", "pool-new"), (f"{site.pool.pk}/edit/", "pool-edit")):
        olgas.goto(f"{site.url}/pools/{path}")
        look(olgas, name)
