"""From a click on a running machine to its first painted frame: Chromium, the whole portal, a real QEMU's screen."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Final

from django.conf import settings
from django.db import connections
from playwright.sync_api import Page, sync_playwright

from portal.lib.secrets import seal
from portal.machines.models import Machine
from tests.bench.rows import Row
from tests.bench.screens.doors import SECRET
from tests.integration.console.qemu import running_qemu
from tests.support.redis import private_redis
from tests.support.web import web_processes

FLAGS: Final = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
TARGET_MS, PORTAL_TARGET_MS = 400, 150
# When the WebSocket was asked for, and when the relay's first word was there: the ticket is redeemed by then, the
# session admitted and on record, and the display's handshake done.
WATCH_SOCKET: Final = """() => {
  window.WebSocket = new Proxy(WebSocket, {
    construct(Plain, args) {
      const socket = new Plain(...args);
      if (!String(args[0]).includes("/ws/console/")) return socket;
      window.screenAsked = performance.now();
      socket.addEventListener("message", () => { window.screenSpoke ??= performance.now(); }, {once: true});
      return socket;
    },
  });
}"""
CLICK: Final = """(link) => {
  sessionStorage.clicked = performance.timeOrigin + performance.now();
  link.click();
}"""
# The portal's part: the page, the ticket, and everything between the WebSocket's request and the relay's first word.
TIMES: Final = """() => {
  const frame = performance.getEntriesByName("casement:first-frame")[0];
  const page = performance.getEntriesByType("navigation")[0];
  const ticket = performance.getEntriesByType("resource").find((one) => one.name.endsWith("/console/ticket"));
  return {
    whole: performance.timeOrigin + frame.startTime - Number(sessionStorage.clicked),
    page: page.responseEnd - page.requestStart,
    ticket: ticket.responseEnd - ticket.requestStart,
    screen: window.screenSpoke - window.screenAsked,
  };
}"""


def is_possible() -> bool:
    built = (settings.BASE_DIR / "static" / "dist" / "js" / "console.js").exists()
    return built and bool(shutil.which("chromium")) and bool(shutil.which("qemu-system-x86_64"))


def measure(machine: Machine, cookie: str, logs: Path, rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="casement-vnc-") as folder:
        path = str(Path(folder) / "vnc.sock")
        Machine.objects.filter(pk=machine.pk).update(console_socket=path, console_secret=seal(SECRET))
        connections.close_all()
        with (
            running_qemu(path, SECRET),
            private_redis() as redis_url,
            web_processes(1, {"REDIS_URL": redis_url, "LOG_LEVEL": "ERROR"}, logs) as (web,),
            sync_playwright() as playwright,
        ):
            url = f"http://localhost:{web.port}"
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            context.set_default_timeout(60_000)
            pairs = [pair.partition("=") for pair in cookie.split("; ")]
            context.add_cookies([{"name": name, "value": value, "url": url} for name, _, value in pairs])
            context.add_init_script(f"({WATCH_SOCKET})()")
            page = context.new_page()
            # The first one fills caches, the browser's and ours.
            found = [_click(page, url, machine) for _ in range(2 * rounds + 1)][1:]
            browser.close()
    parts = {name: [one[name] for one in found] for name in ("whole", "page", "ticket", "screen")}
    portal = [one["page"] + one["ticket"] + one["screen"] for one in found]
    return [
        _row("click to first frame", parts["whole"], TARGET_MS),
        _row("click: the portal's part", portal, PORTAL_TARGET_MS),
        *(_row(f"click: {name}", parts[name], None) for name in ("page", "ticket", "screen")),
    ]


def _click(page: Page, url: str, machine: Machine) -> dict[str, float]:
    page.goto(f"{url}/machines/")
    page.locator(f"a[href='/machines/{machine.pk}/']").first.evaluate(CLICK)
    page.wait_for_selector("[data-console][data-first-frame]")
    times: dict[str, Any] = page.evaluate(TIMES)
    return {name: float(value) for name, value in times.items()}


def _row(name: str, values: list[float], target: float | None) -> Row:
    value = median(values)
    spread = (max(values) - min(values)) / value
    if target is None:
        return Row(name, value, "ms", spread=spread)
    return Row(name, value, "ms", target=f"< {target} ms", ok=value < target, spread=spread)
