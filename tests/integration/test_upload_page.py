"""Uploading an ISO in a real browser, through what breaks uploads: a cut line, a page left, a portal that dies."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from django.conf import settings
from playwright.sync_api import Page, Request, Route, expect, sync_playwright
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.isos.models import Iso, Status
from portal.jobs.models import Job
from portal.uploads.models import Upload
from tests.support.product import CHROMIUM_FLAGS
from tests.support.redis import redis_db, redis_url
from tests.support.together import at_once
from tests.support.web import CSRF, HOST, cookie_of, wait_for_web, web_process
from tests.workers.support import work_on

__all__ = ["redis_db", "redis_url"]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "upload.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
]

T = TypeVar("T")
MIB = 1024**2
PIECE = 8 * MIB
PIECES = 5
expect.set_options(timeout=60_000)
ADDRESS = "**/uploads/*-*"


@dataclass
class Site:
    """A web process that can die and come again at the same address, and a browser in which Bob is signed in."""

    page: Page
    url: str
    pid: int
    start_web: Callable[[], int]
    offsets: list[int] = field(default_factory=list)

    def choose(self, disc: Path) -> None:
        self.page.goto(f"{self.url}/isos/upload/")
        self.page.set_input_files("input[type=file]", disc)
        self.page.get_by_role("button", name="Upload", exact=True).click()


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """No two places of it are alike, so that a piece in the wrong place is seen."""
    content = bytearray(random.Random(7).randbytes(PIECES * PIECE - 5))  # noqa: S311 - the same every time
    content[16 * 2048 : 16 * 2048 + 7] = b"\1CD001\1"
    file = tmp_path / "installer.iso"
    file.write_bytes(content)
    return file


@pytest.fixture
def site(bob: User, project: Project, redis_db: str, settings: Settings, tmp_path: Path) -> Iterator[Site]:
    home = tmp_path / "home"
    settings.UPLOADS_DIR, settings.ISOS_DIR = home / "uploads", home / "isos"
    environment = {"CASEMENT_HOME": str(home), "REDIS_URL": redis_db}
    session = cookie_of(bob).partition(";")[0].partition("=")[2]
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0), backlog=64))
        port = listener.getsockname()[1]

        def start_web() -> int:
            """Until it listens, the browser's requests wait in the socket, which is the same one."""
            copy = socket.socket(fileno=os.dup(listener.fileno()))
            pid = stack.enter_context(web_process(copy, port, environment, tmp_path / f"web-{os.urandom(3).hex()}.log"))
            wait_for_web(port)
            return pid

        first = start_web()
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        stack.callback(browser.close)
        context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        values = {settings.SESSION_COOKIE_NAME: session, settings.CSRF_COOKIE_NAME: CSRF}
        url = f"http://localhost:{port}"
        context.add_cookies([{"name": name, "value": value, "url": url} for name, value in values.items()])
        site = Site(context.new_page(), url, first, start_web)
        site.page.on("request", lambda request: _note(site, request))
        yield site


def _note(site: Site, request: Request) -> None:
    if request.method == "PATCH":
        site.offsets.append(int(request.headers["upload-offset"]))


def ask(work: Callable[[], T]) -> T:
    """The database, in a thread of its own: Playwright's event loop runs in this one."""
    return at_once([work])[0]


def arrived(site: Site, disc: Path) -> None:
    """The page goes on to that of the ISO; a worker finds that all of it is as it was here."""
    expect(site.page.locator("h1")).to_have_text("installer", timeout=120_000)
    ask(lambda: work_on(Job.objects.get(name="iso.import")))
    iso = ask(Iso.objects.get)
    assert (iso.status, iso.sha256) == (Status.READY, hashlib.sha256(disc.read_bytes()).hexdigest()), iso.error
    assert ask(Upload.objects.count) == 0


def test_a_line_that_breaks_costs_one_piece(site: Site, disc: Path) -> None:
    broken: list[str] = []

    def cut_once(route: Route) -> None:
        if route.request.method == "PATCH" and not broken and route.request.headers["upload-offset"] == str(2 * PIECE):
            broken.append(route.request.url)
            route.abort("connectionreset")
        else:
            route.continue_()

    site.page.route(ADDRESS, cut_once)
    site.choose(disc)
    arrived(site, disc)
    assert broken
    assert site.offsets == [0, PIECE, 2 * PIECE, 2 * PIECE, 3 * PIECE, 4 * PIECE]


def test_a_page_that_is_left_goes_on_where_it_was_when_the_file_is_chosen_again(site: Site, disc: Path) -> None:
    def hold(route: Route) -> None:
        """The third piece never comes; everything else does."""
        if route.request.method != "PATCH" or int(route.request.headers["upload-offset"]) < 2 * PIECE:
            route.continue_()

    site.page.route(ADDRESS, hold)
    site.page.on("dialog", lambda dialog: dialog.accept())
    with site.page.expect_request(lambda one: one.headers.get("upload-offset") == str(2 * PIECE)):
        site.choose(disc)
    site.page.goto(f"{site.url}/isos/")
    site.page.unroute(ADDRESS)  # What it held back went with the page.
    unfinished = site.page.locator("#unfinished")
    expect(unfinished).to_contain_text("installer.iso")
    expect(unfinished).to_contain_text("16 MiB of 40 MiB")
    site.offsets.clear()
    site.choose(disc)
    arrived(site, disc)
    assert site.offsets == [2 * PIECE, 3 * PIECE, 4 * PIECE]


def test_a_web_process_that_is_killed_holds_the_upload_up_only(site: Site, disc: Path) -> None:
    killed: list[bool] = []

    def kill_once(route: Route) -> None:
        if route.request.method == "PATCH" and not killed and route.request.headers["upload-offset"] == str(PIECE):
            os.kill(site.pid, signal.SIGKILL)
            killed.append(True)
        route.continue_()

    site.page.route(ADDRESS, kill_once)
    with site.page.expect_request(lambda one: one.headers.get("upload-offset") == str(PIECE)):
        site.choose(disc)
    ask(site.start_web)
    arrived(site, disc)
    assert killed and site.offsets[0] == 0 and site.offsets[-1] == 4 * PIECE


def test_what_the_form_lacks_costs_no_second_upload(site: Site, disc: Path) -> None:
    site.page.goto(f"{site.url}/isos/upload/")
    site.page.set_input_files("input[type=file]", disc)
    expect(site.page.locator("#id_name")).to_have_value("installer")
    site.page.fill("#id_sha256", "not a checksum")
    site.page.get_by_role("button", name="Upload", exact=True).click()
    expect(site.page.locator("#id_sha256_error")).to_contain_text("64 digits", timeout=60_000)
    sent = list(site.offsets)
    site.page.fill("#id_sha256", hashlib.sha256(disc.read_bytes()).hexdigest())
    site.page.get_by_role("button", name="Upload", exact=True).click()
    arrived(site, disc)
    assert site.offsets == sent
