"""The whole product as people start it: `bin/run` in a folder of its own, and a browser in front of it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.registry import driver_for
from workers.hypervisor.types import HostConfig

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_FLAGS = [
    "--no-sandbox",  # Chromium refuses to run as root with it.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]


@dataclass(frozen=True)
class Product:
    """A running Casement. `home` holds its database, images and logs; `uri` is set where its own says less."""

    url: str
    user: str
    password: str
    home: Path
    output: Path
    uri: str = ""

    def rows(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """Ask its database, without touching it."""
        database = sqlite3.connect(f"file:{self.home / 'db.sqlite3'}?mode=ro", uri=True, timeout=30)
        try:
            return database.execute(sql, values).fetchall()
        finally:
            database.close()

    def driver(self) -> HypervisorDriver:
        """Of its one host."""
        ((uri, pool, network),) = self.rows("SELECT uri, pool_dir, network FROM hosts_host")
        return driver_for(HostConfig(uri=self.uri or uri, pool_dir=Path(pool), network=network))

    def remove_machines(self) -> None:
        """What a failed test left on this machine's libvirt, and the images there."""
        driver = self.driver()
        for machine in {volume.machine for volume in driver.list_volumes() if volume.machine is not None}:
            driver.undefine(machine)
            driver.delete_storage(machine)
        ((pool,),) = self.rows("SELECT pool_dir FROM hosts_host")
        shutil.rmtree(pool, ignore_errors=True)

    def kill_worker(self) -> int:
        """SIGKILL to the worker and its children, as a machine out of memory would send it; how many it hit."""
        home = f"CASEMENT_HOME={self.home}".encode()
        hit = 0
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                argv = (process / "cmdline").read_bytes().split(b"\0")
                if b"worker@%h" in argv and home in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
                    hit += 1
        return hit

    def log(self) -> str:
        """The ends of all logs, for a failing test's report."""
        logs = sorted((self.home / "log").glob("*.log"))
        parts = [f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in [self.output, *logs]]
        return "\n".join(parts)


def wait_for(what: str, condition: Callable[[], object], *, seconds: float, every: float = 0.5) -> None:
    """Until `condition` gives something true. The deadline is generous: emulation is slow and machines are noisy."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)


def free_port() -> int:
    """None of those that the kernel gives out: until it is listened on, other tests' connections would get it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest // 2, lowest)  # noqa: S311 - any will do
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running_product(
    home: Path,
    *,
    environment: dict[str, str] | None = None,
    checkout: Path = ROOT,
    prefix: Sequence[str] = (),
    uri: str = "",
    seconds: float = 300,
) -> Iterator[Product]:
    """Start `bin/run` of `checkout`, behind the command `prefix`, and stop it by Ctrl-C at the end."""
    home.mkdir(parents=True, exist_ok=True)
    output = home / "bin-run.out"
    earlier = len(output.read_text(errors="replace")) if output.exists() else 0
    port = free_port()
    own = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    own |= {"CASEMENT_HOME": str(home), "PORT": str(port), **(environment or {})}
    with output.open("ab") as out:
        process = subprocess.Popen(
            [*prefix, checkout / "bin" / "run"],
            cwd=checkout,
            env=own,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        product = replace(_ready(process, home, output, earlier, seconds), uri=uri)
        try:
            yield product
        finally:
            product.remove_machines()
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=180)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("bin/run did not stop on Ctrl-C:\n" + output.read_text(errors="replace")[-3000:])


# What tests set for themselves must not reach the product under test.
_NOT_INHERITED = {"CASEMENT_TESTING", "CASEMENT_HOME", "DJANGO_SETTINGS_MODULE", "DATABASE_URL", "SECRET_KEY", "PORT"}


def _ready(process: subprocess.Popen[bytes], home: Path, output: Path, earlier: int, seconds: float) -> Product:
    def printed() -> re.Match[str] | None:
        text = output.read_text(errors="replace")[earlier:]
        if process.poll() is not None:
            raise AssertionError(f"bin/run ended by itself:\n{text[-3000:]}")
        return re.search(r"Casement runs at (\S+)", text)

    try:
        wait_for("bin/run prints the address", printed, seconds=seconds)
    except AssertionError as error:
        logs = Product("", "", "", home, output).log()
        raise AssertionError(f"{error}\n{logs}") from error
    text = output.read_text(errors="replace")
    address = re.search(r"Casement runs at (\S+)", text[earlier:])
    # It is printed at the first start only, which is why the whole output of earlier starts is kept.
    password = re.search(r"with the password (\S+)", text)
    assert address is not None
    assert password is not None
    return Product(address[1], "admin", password[1], home, output)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    assert executable is not None, "Chromium is not installed: bin/test installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def new_context(browser: Browser, *, width: int = 1400, height: int = 900) -> BrowserContext:
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    return context


def sign_in(page: Page, product: Product) -> None:
    page.goto(f"{product.url}/")
    page.fill("input[name=username]", product.user)
    page.fill("input[name=password]", product.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "login" not in url)
