"""From pressing Launch to the guest's screen and to a usable login, beside the same machine by virsh and qemu-img.

Rounds are interleaved. "First frame" is the first picture that is drawn: in the browser's canvas for the portal, the
first framebuffer update from QEMU's VNC for virsh. "Login" is the guest agent's first answer. The overhead is the
portal's time less virsh's: everything that is not the guest booting.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from uuid import uuid4
from xml.etree import ElementTree

from playwright.sync_api import Page

from portal.console.rfb import RfbError, open_display
from tests.bench.rows import Row
from tests.support.product import Product, chromium, new_context, running_product, sign_in, wait_for

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
TARGET_S = 1.0
STEPS = ("image", "disk", "seed", "define", "start")


@dataclass
class Round:
    """Seconds from the press of the button, or from the first command."""

    first_frame: float
    login: float
    parts: dict[str, float] = field(default_factory=dict)


def run() -> list[Row]:
    kept = os.environ.get("CASEMENT_BENCH_HOME")  # A folder whose images are built already.
    folder = tempfile.TemporaryDirectory(prefix="casement-bench-")
    with folder as new, running_product(Path(kept or new)) as product:
        wait_for("the images are built", lambda: _all_built(product), seconds=1800, every=2)
        with chromium() as browser:
            page = new_context(browser).new_page()
            sign_in(page, product)
            ours: list[Round] = []
            plain: list[Round] = []
            for number in range(ROUNDS):
                machine, launched = _by_portal(page, product, f"bench-{number}-{os.urandom(2).hex()}")
                ours.append(launched)
                plain.append(_by_virsh(machine))
                _delete(page, product, machine)
    return _rows(ours, plain)


def _rows(ours: list[Round], plain: list[Round]) -> list[Row]:
    rows = [
        _row("launch.first-frame", [r.first_frame for r in ours], [r.first_frame for r in plain]),
        _row("launch.login", [r.login for r in ours], [r.login for r in plain]),
    ]
    overhead = median(r.first_frame for r in ours) - median(r.first_frame for r in plain)
    rows.append(Row("launch.overhead", overhead, "s", target=f"< {TARGET_S:g} s", ok=overhead < TARGET_S))
    rows += [Row(f"launch.part.{part}", median(r.parts[part] for r in ours), "s") for part in ours[0].parts]
    rows += [Row(f"virsh.part.{part}", median(r.parts[part] for r in plain), "s") for part in plain[0].parts]
    return rows


def _row(name: str, ours: list[float], plain: list[float]) -> Row:
    value, peer = median(ours), median(plain)
    return Row(name, value, "s", peer="virsh", peer_value=peer, ratio=value / peer)


# --- by the portal ------------------------------------------------------------------------------------------------


def _by_portal(page: Page, product: Product, name: str) -> tuple[str, Round]:
    page.goto(f"{product.url}/machines/new/")
    page.locator("label.tile", has_text="Debian 12 server").click()
    page.fill("input[name=name]", name)
    pressed = time.time()
    page.click("[data-launch]")
    page.wait_for_selector("[data-console][data-first-frame]", timeout=300_000)
    drawn = page.evaluate(
        "performance.timeOrigin / 1000 + performance.getEntriesByName('casement:first-frame')[0].startTime / 1000"
    )
    found = re.search(r"/machines/([0-9a-f-]{36})", page.url)
    assert found is not None
    machine = found[1]
    wait_for("the machine is ready", lambda: _status(product, machine) == "ready", seconds=900)
    parts, login = _parts(product, machine, pressed)
    parts["ticket and first frame"] = drawn - pressed - sum(parts.values())
    return machine, Round(drawn - pressed, login - pressed, parts)


def _parts(product: Product, machine: str, pressed: float) -> tuple[dict[str, float], float]:
    """The job's steps up to the start, and when the guest's agent answered (epoch seconds)."""
    rows = product.rows(
        "SELECT j.created_at, j.started_at, s.name, s.started_at, s.finished_at FROM jobs_job j JOIN jobs_jobstep s"
        " ON s.job_id = j.id WHERE j.target_id = ? AND j.name = 'machine.create' ORDER BY s.position",
        machine.replace("-", ""),
    )
    created, started = _epoch(rows[0][0]), _epoch(rows[0][1])
    parts = {"request": created - pressed, "queue": started - created}
    parts |= {row[2]: _epoch(row[4]) - _epoch(row[3]) for row in rows if row[2] in STEPS}
    return parts, next(_epoch(row[4]) for row in rows if row[2] == "boot")


def _delete(page: Page, product: Product, machine: str) -> None:
    """By the page's own form, sent as the page would."""
    page.evaluate(
        """async (url) => {
            const token = document.cookie.match(/casement_csrf=([^;]+)/)[1];
            const body = new URLSearchParams({purge: "yes"});
            await fetch(url, {method: "POST", headers: {"X-CSRFToken": token}, body});
        }""",
        f"{product.url}/machines/{machine}/delete",
    )
    wait_for("the machine is gone", lambda: _status(product, machine) == "deleted", seconds=120)


def _status(product: Product, machine: str) -> str:
    rows = product.rows("SELECT status FROM machines_machine WHERE id = ?", machine.replace("-", ""))
    return str(rows[0][0]) if rows else ""


def _all_built(product: Product) -> bool:
    states = [row[0] for row in product.rows("SELECT status FROM images_imageversion")]
    return "ready" in states and "building" not in states


def _epoch(stored: str) -> float:
    return datetime.fromisoformat(stored).replace(tzinfo=UTC).timestamp()


# --- by virsh and qemu-img ----------------------------------------------------------------------------------------


def _by_virsh(machine: str) -> Round:
    """The portal's own domain under another name, on a fresh overlay of the same image, with the same seed."""
    original = ElementTree.fromstring(_virsh("dumpxml", "--inactive", "--security-info", f"casement-{machine}"))  # noqa: S314 - libvirt's own XML
    uuid = uuid4()
    folder = Path(tempfile.mkdtemp(prefix="casement-bench-disk-", dir="/var/lib/libvirt/images"))
    folder.chmod(0o755)
    xml, disk, base, secret = _derived(original, str(uuid), folder)
    name = f"bench-{uuid}"
    try:
        return _timed(name, xml, disk, base, secret)
    finally:
        subprocess.run(["virsh", "destroy", name], capture_output=True, check=False)
        subprocess.run(["virsh", "undefine", name, "--nvram"], capture_output=True, check=False)
        shutil.rmtree(folder)


def _timed(name: str, xml: Path, disk: Path, base: str, secret: str) -> Round:
    parts: dict[str, float] = {}
    began = last = time.time()

    def part(what: str) -> None:
        nonlocal last
        now = time.time()
        parts[what], last = now - last, now

    size = _virtual_size(base)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", str(disk), str(size)], check=True
    )
    disk.chmod(0o666)
    part("disk")
    _virsh("define", str(xml))
    part("define")
    _virsh("start", name)
    part("start")
    socket = _virsh("domdisplay", "--type", "vnc", name).strip() or ""
    live = ElementTree.fromstring(_virsh("dumpxml", name))  # noqa: S314 - libvirt's own XML
    listen = live.find("./devices/graphics/listen")
    path = (listen.get("socket") if listen is not None else None) or socket.removeprefix("vnc+unix://")
    # In a thread, because Playwright has an event loop in this one.
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(asyncio.run, _first_picture(path, secret)).result()
    part("first frame")
    first_frame = time.time() - began
    while subprocess.run(
        ["virsh", "qemu-agent-command", name, '{"execute":"guest-ping"}'], capture_output=True, check=False
    ).returncode:
        if time.time() - began > 900:
            raise AssertionError("the guest of the plain run never answered")
        time.sleep(0.25)
    return Round(first_frame, time.time() - began, parts)


async def _first_picture(path: str, secret: str) -> None:
    deadline = time.time() + 60
    while True:
        try:
            display = await open_display(path, secret)
            break
        except (OSError, RfbError):
            if time.time() > deadline:
                raise
            await asyncio.sleep(0.01)
    width, height = display.init.width, display.init.height
    display.writer.write(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    await display.writer.drain()
    await display.reader.readexactly(4)
    await display.close()


def _derived(original: ElementTree.Element, uuid: str, folder: Path) -> tuple[Path, Path, str, str]:
    _set(original, "name", f"bench-{uuid}")
    _set(original, "uuid", uuid)
    _set(original, "genid", str(uuid4()))
    for element in original.findall("./metadata"):
        original.remove(element)
    mac = original.find("./devices/interface/mac")
    graphics = original.find("./devices/graphics")
    source = original.find("./devices/disk[@device='disk']/source")
    assert mac is not None
    assert graphics is not None
    assert source is not None
    mac.set("address", "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3)))
    for nvram in original.findall("./os/nvram"):
        nvram.text = None
    disk = folder / "disk.qcow2"
    base = _backing_of(str(source.get("file")))
    source.set("file", str(disk))
    for stale in original.findall("./devices/serial/log") + original.findall("./devices/console/log"):
        stale.set("file", str(folder / "serial.log"))
    xml = folder / "domain.xml"
    xml.write_bytes(ElementTree.tostring(original))
    return xml, disk, base, str(graphics.get("passwd"))


def _set(root: ElementTree.Element, tag: str, text: str) -> None:
    element = root.find(tag)
    if element is not None:
        element.text = text


def _qemu_img_info(path: str) -> dict[str, object]:
    done = subprocess.run(
        ["qemu-img", "info", "-U", "-f", "qcow2", "--output", "json", path], check=True, capture_output=True
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def _backing_of(path: str) -> str:
    return str(_qemu_img_info(path)["full-backing-filename"])


def _virtual_size(base: str) -> int:
    return max(int(str(_qemu_img_info(base)["virtual-size"])), 10 * 1024**3)


def _virsh(*argv: str) -> str:
    done = subprocess.run(["virsh", "-q", *argv], check=True, capture_output=True, text=True)
    return done.stdout
