"""From a person's click to their desktop in Chromium: forked for them, spare, and ten people in the same moment."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page

from tests.bench.instants.forks import cpu_s, running_qemus
from tests.bench.launch import _delete, _status
from tests.bench.rows import Row
from tests.support.product import ROOT, Product, chromium, new_context, running_product, sign_in, wait_for

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
AT_ONCE = 10
FORK_S, SPARE_S, ALL_S = 0.9, 0.4, 8.0
PASSWORD = "a-bench-person's-password"
# All free desktops together, of one processor, over so long: then none of them is only just made.
CALM, CALM_S = 0.4, 5.0
_DRAWN = "performance.timeOrigin / 1000 + performance.getEntriesByName('casement:first-frame')[0].startTime / 1000"
_COLOURS = """() => {
    const canvas = document.querySelector("[data-console-stage] canvas");
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer;
    return new Set(new Uint32Array(data)).size;
}"""
# What an operator does on the pages, in one go.
_SETUP = """
from django.conf import settings
from django.contrib.auth import get_user_model
from portal.accounts.models import Project
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.machines.models import Flavour
from portal.pools import services
User = get_user_model()
Project.objects.update(max_machines=100, max_vcpus=400, max_memory_mib=400 * 1024, max_disk_gib=4000)
Host.objects.update(vcpu_overcommit=50.0, memory_overcommit=4.0, disk_overcommit=20.0)
admin = User.objects.get(username="admin")
version = ImageVersion.objects.filter(image__slug="debian-12-desktop", status="ready").latest("number")
pool = services.create_pool(
    NAME, actor=admin, project=Project.objects.earliest("pk"), image_version=version,
    flavour=Flavour.objects.get(name="medium"), spare=SPARE, minimum=0, maximum=14, keeps_files=False,
)
for number in range(PEOPLE):
    person, _made = User.objects.get_or_create(username=f"bench-{number}")
    person.set_password(PASSWORD)
    person.save()
    services.entitle(pool, actor=admin, user=person)
"""


def run() -> list[Row]:
    kept = os.environ.get("CASEMENT_BENCH_HOME")  # A folder whose images are built already.
    with tempfile.TemporaryDirectory(prefix="casement-bench-") as new, running_product(Path(kept or new)) as product:
        wait_for("the images are built", lambda: _built(product), seconds=1800, every=2)
        with chromium() as browser, _pool(product):
            return list(_rows(browser, product))


def _rows(browser: Browser, product: Product) -> Iterator[Row]:
    signed_in = [_signs_in(browser, product, number % AT_ONCE) for number in range(ROUNDS)]
    yield Row("instant.sign-in.spare", median(signed_in), "s")
    spare = [_clicks(browser, product, number % AT_ONCE) for number in range(ROUNDS)]
    yield _row("instant.click.spare", spare, SPARE_S)
    forked = list(_launches(browser, product))
    yield _row("instant.click.fork", forked, FORK_S)
    _spares(product, AT_ONCE)
    together = _all_at_once(browser, product)
    last = max(together)
    yield Row("instant.ten-at-once", last, "s", target=f"<= {ALL_S:g} s", ok=last <= ALL_S)
    yield Row("instant.ten-at-once.p50", median(together), "s")


def _row(name: str, seconds: list[float], target: float) -> Row:
    middle = median(seconds)
    spread = (max(seconds) - min(seconds)) / middle
    return Row(name, middle, "s", target=f"<= {target:g} s", ok=middle <= target, spread=spread)


# --- the stage --------------------------------------------------------------------------------------------------------


def _built(product: Product) -> bool:
    sql = "SELECT v.status FROM images_imageversion v JOIN images_image i ON v.image_id = i.id"
    states = [row[0] for row in product.rows(f"{sql} WHERE i.slug = 'debian-12-desktop'")]
    return "ready" in states and not product.rows("SELECT 1 FROM images_imageversion WHERE status = 'building'")


@contextmanager
def _pool(product: Product) -> Iterator[None]:
    name = f"bench-{secrets.token_hex(2)}"
    values = f"NAME, SPARE, PEOPLE, PASSWORD = {name!r}, {AT_ONCE}, {AT_ONCE}, {PASSWORD!r}\n"
    _manage(product, values + _SETUP)
    try:
        ready = "SELECT count(*) FROM parents_parent WHERE state = 'ready'"
        wait_for("there is a parent", lambda: product.rows(ready) == [(1,)], seconds=1200)
        _spares(product, AT_ONCE)
        yield
    finally:
        end = "services.empty_pool(pool, actor=User.objects.get(username='admin'))"
        setup = "from portal.pools import services\nfrom portal.pools.models import Pool\n"
        users = "from django.contrib.auth import get_user_model\nUser = get_user_model()\n"
        _manage(product, f"{setup}{users}pool = Pool.objects.get(name={name!r})\n{end}\n")
        live = "SELECT count(*) FROM pools_desktop WHERE state != 'retired'"
        wait_for("the pool is empty", lambda: product.rows(live) == [(0,)], seconds=600)


def _manage(product: Product, script: str) -> None:
    own = {key: value for key, value in os.environ.items() if key not in {"CASEMENT_TESTING", "DATABASE_URL"}}
    own |= {"CASEMENT_HOME": str(product.home), "DJANGO_SETTINGS_MODULE": "portal.settings"}
    own["PYTHONPATH"] = f"{ROOT / 'bin'}:{ROOT}"
    argv = [sys.executable, "manage.py", "shell", "-c", script]
    subprocess.run(argv, cwd=ROOT, env=own | _settings_of(product), check=True, capture_output=True, timeout=120)


def _settings_of(product: Product) -> dict[str, str]:
    """Those that its processes have."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"celery" in words and b"beat" in words and f"CASEMENT_HOME={product.home}".encode() in variables:
            return dict(item.decode().split("=", 1) for item in variables if b"=" in item)
    raise AssertionError("the product's clock does not run")


def _spares(product: Product, number: int) -> None:
    sql = "SELECT count(*) FROM pools_desktop WHERE state = 'spare'"
    wait_for(f"{number} are free", lambda: product.rows(sql)[0][0] >= number, seconds=1800)
    _rests()


def _rests() -> None:
    """Another person's desktop that starts just now is not what is measured."""
    wait_for("the desktops have come to rest", lambda: _busy() < CALM, seconds=600)


def _busy() -> float:
    """What all machines take now, in processors."""
    before, began = _used(), time.monotonic()
    time.sleep(CALM_S)
    spent = sum(seconds - before.get(pid, 0.0) for pid, seconds in _used().items())
    return spent / (time.monotonic() - began)


def _used() -> dict[int, float]:
    """Processor seconds of each machine that runs, by QEMU's number."""
    found = {}
    for pid, _words in running_qemus():
        with suppress(OSError):  # It has just ended.
            found[pid] = cpu_s(pid)
    return found


# --- what is measured -------------------------------------------------------------------------------------------------


def _fill(browser: Browser, product: Product, number: int, *, place: str = "/") -> Page:
    page = new_context(browser, width=1280, height=860).new_page()
    page.goto(f"{product.url}{place}")
    page.fill("input[name=username]", f"bench-{number}")
    page.fill("input[name=password]", PASSWORD)
    return page


def _drawn(page: Page, *, seconds: float = 300) -> float:
    """When the desktop was painted, in epoch seconds."""
    page.wait_for_selector("[data-console][data-first-frame]", timeout=seconds * 1000)
    at = float(page.evaluate(_DRAWN))
    assert page.evaluate(_COLOURS) > 300, "the first picture is not a desktop"
    return at


def _leave(page: Page) -> None:
    page.locator("[data-console-handle]").click()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="You are signed out").wait_for()
    page.context.close()


def _signs_in(browser: Browser, product: Product, number: int) -> float:
    page = _fill(browser, product, number)
    began = time.time()
    page.get_by_role("button", name="Sign in").click(no_wait_after=True)
    took = _drawn(page) - began
    _leave(page)
    _spares(product, AT_ONCE)
    return took


def _clicks(browser: Browser, product: Product, number: int) -> float:
    """The same from a click on the desktop's tile, as whoever is signed in already opens it."""
    page = _fill(browser, product, number, place="/desktops/")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/desktops/")
    page.wait_for_load_state("networkidle")
    began = time.time()
    page.get_by_role("article").get_by_role("link").first.click(no_wait_after=True)
    took = _drawn(page) - began
    _leave(page)
    _spares(product, AT_ONCE)
    return took


def _launches(browser: Browser, product: Product) -> Iterator[float]:
    page = new_context(browser).new_page()
    sign_in(page, product)
    for _ in range(ROUNDS):
        page.goto(f"{product.url}/machines/new/")
        page.locator("label.tile", has_text="Debian 12 desktop").click()
        page.locator("label.size", has_text="Medium").first.click()
        page.fill("input[name=name]", f"bench-{secrets.token_hex(3)}")
        page.wait_for_load_state("networkidle")
        began = time.time()
        page.click("[data-launch]", no_wait_after=True)
        yield _drawn(page) - began
        machine = page.url.split("/machines/")[1].split("/")[0]
        how = product.rows("SELECT made_by FROM machines_machine WHERE id = ?", machine.replace("-", ""))
        _wait_until_ready(product, machine)
        assert how == [("fork",)], how
        page.goto(f"{product.url}/machines/new/")  # A machine's own page leaves by itself when it is gone.
        _delete(page, product, machine)
        _rests()
    page.context.close()


def _wait_until_ready(product: Product, machine: str) -> None:
    wait_for("it is ready", lambda: _status(product, machine) == "ready", seconds=300)


def _all_at_once(browser: Browser, product: Product) -> list[float]:
    pages = [_fill(browser, product, number) for number in range(AT_ONCE)]
    began = time.time()
    for page in pages:
        page.evaluate("document.querySelector('input[name=password]').form.requestSubmit()")
    took = [_drawn(page) - began for page in pages]
    for page in pages:
        _leave(page)
    return took
