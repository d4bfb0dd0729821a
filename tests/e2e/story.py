"""What a person does and sees, in words that the stories are told with."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from playwright.sync_api import ConsoleMessage, Page, expect

from tests.support.product import Product, wait_for
from workers.hypervisor.errors import HypervisorError

# The share of pixels of the guest's screen for which a colour test holds.
_SHARE = """() => {
    const canvas = document.querySelector("[data-console-stage] canvas");
    if (!canvas || !canvas.width) return 0;
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const holds = (r, g, b) => TEST;
    let count = 0;
    for (let at = 0; at < data.length; at += 4) count += holds(data[at], data[at + 1], data[at + 2]) ? 1 : 0;
    return count / (data.length / 4);
}"""
_COLOURS = """() => {
    const canvas = document.querySelector("[data-console-stage] canvas");
    if (!canvas || !canvas.width) return 0;
    const data = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return new Set(data).size;
}"""
_SIZE = """() => {
    const canvas = document.querySelector("[data-console-stage] canvas");
    return canvas ? `${canvas.width} x ${canvas.height}` : "none";
}"""


expect.set_options(timeout=60_000)


def _us_keyboard() -> dict[str, tuple[str, bool]]:
    """Each character with its key's code and whether Shift is held."""
    keys = {" ": ("Space", False)}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        keys[letter] = (f"Key{letter.upper()}", False)
        keys[letter.upper()] = (f"Key{letter.upper()}", True)
    for digit, shifted in zip("0123456789", ")!@#$%^&*(", strict=True):
        keys[digit], keys[shifted] = (f"Digit{digit}", False), (f"Digit{digit}", True)
    brackets = ("BracketLeft", "BracketRight", "Backslash")
    names = ("Backquote", "Minus", "Equal", *brackets, "Semicolon", "Quote", "Comma", "Period", "Slash")
    for plain, shifted, name in zip("`-=[]\\;',./", '~_+{}|:"<>?', names, strict=True):
        keys[plain], keys[shifted] = (name, False), (name, True)
    return keys


KEYS = _us_keyboard()


class Story:
    def __init__(self, page: Page, product: Product, artefacts: Path, name: str) -> None:
        self.page = page
        self.product = product
        self.complaints: list[str] = []
        self._artefacts = artefacts
        self._name = name.removeprefix("test_")[:40]
        self._pictures = 0
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        # Answers that refuse (422, 409 …) are part of some stories, and Chromium calls each of them an error; so does
        # noVNC with a screen that ends because its machine was switched off.
        of_novnc = ("Failed when connecting: ", "Failed while connected: ", "Failed when disconnecting: ")
        # What shows a machine that was deleted meanwhile asks once more, and is removed by the 404.
        expected = ("Failed to load resource", "Response Status Error Code 404", *of_novnc)
        if message.type == "error" and not message.text.startswith(expected):
            self.complaints.append(message.text)

    def picture(self, what: str) -> None:
        self._pictures += 1
        self.page.screenshot(path=self._artefacts / f"{self._name}-{self._pictures:02}-{what}.png")

    # --- what is on the page --------------------------------------------------------------------------------------

    def launch(self, image: str, name: str, *, size: str) -> UUID:
        """From the list of machines to a machine that is being built."""
        self.fill_in_launch(image, name, size=size)
        return self.send_launch()

    def fill_in_launch(self, image: str, name: str, *, size: str) -> None:
        self.page.goto(f"{self.product.url}/machines/new/")
        self.page.locator("label.tile", has_text=image).first.click()
        self.page.locator("label.size", has_text=size).first.click()
        self.page.fill("input[name=name]", name)
        self.picture("before-launch")

    def send_launch(self) -> UUID:
        self.page.click("[data-launch]")
        self.page.wait_for_url(re.compile(r"/machines/[0-9a-f-]{36}/"))
        found = re.search(r"[0-9a-f-]{36}", self.page.url)
        assert found is not None
        return UUID(found[0])

    def wait_for_screen(self, *, seconds: float = 300) -> None:
        self.page.wait_for_selector("[data-console][data-first-frame]", timeout=seconds * 1000)

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).first.click()

    def ask_to_delete(self) -> None:
        """Clicked again where the page was just brought up to date under the pointer."""
        for _ in range(4):
            self.page.get_by_role("link", name="Delete…").click()
            with suppress(AssertionError):
                expect(self.page.get_by_role("button", name="Delete machine")).to_be_visible(timeout=20_000)
                return
        raise AssertionError("the question is not there")

    def expect_state(self, text: str, *, seconds: float = 240) -> None:
        expect(self.page.locator(".with-state")).to_contain_text(text, ignore_case=True, timeout=seconds * 1000)

    def password(self) -> str:
        self.press("Show the first password")
        return self.page.inner_text("#first-password")

    # --- the guest's screen ---------------------------------------------------------------------------------------

    def share_of_screen(self, test: str) -> float:
        """How much of the guest's screen has a colour for which `test` (of r, g, b) holds."""
        return float(self.page.evaluate(_SHARE.replace("TEST", test)))

    def colours_on_screen(self) -> int:
        return int(self.page.evaluate(_COLOURS))

    def fit_desktop(self, machine: UUID, width: int, height: int) -> None:
        """Give the tab this size, and wait until the guest's own screen has it too, as the guest says itself."""
        self.page.set_viewport_size({"width": width, "height": height})
        size = f"{width} x {height}"
        wait_for(f"the guest is {size}", lambda: self.page.evaluate(_SIZE) == size, seconds=300)
        ask = ("env", "DISPLAY=:0", "XAUTHORITY=/run/lightdm/root/:0", "xrandr")
        self.wait_in_guest(machine, f"current {size}", *ask)
        wait_for("the wallpaper fills it", lambda: self.share_of_screen("r + g + b < 30") < 0.1, seconds=300)

    def type(self, text: str) -> None:
        """Into the guest, key by key with Shift held as a person holds it; slowly, for it is emulated."""
        self.page.locator("[data-console-stage] canvas").focus()
        for character in text:
            key, shifted = KEYS[character]
            if shifted:
                self.page.keyboard.down("Shift")
            self.page.keyboard.press(key, delay=50)
            if shifted:
                self.page.keyboard.up("Shift")
            self.page.wait_for_timeout(50)

    def type_line(self, text: str) -> None:
        self.type(text)
        self.page.keyboard.press("Enter")

    # --- what is really there -------------------------------------------------------------------------------------

    def in_guest(self, machine: UUID, *argv: str) -> str:
        """What a command prints in the guest, asked by the agent and not by the screen; empty if it fails."""
        try:
            return self.product.driver().run_in_guest(machine, argv).stdout.decode().strip()
        except HypervisorError:
            return ""

    def wait_in_guest(self, machine: UUID, wanted: str, *argv: str, seconds: float = 300) -> None:
        wait_for(f"{argv} gives {wanted!r}", lambda: wanted in self.in_guest(machine, *argv), seconds=seconds)

    def wait_for_image(self, slug: str, *, seconds: float) -> None:
        sql = (
            "SELECT v.status, v.error, v.id FROM images_imageversion v JOIN images_image i ON v.image_id = i.id"
            " WHERE i.slug = ?"
        )

        def ready() -> bool:
            rows = self.product.rows(sql, slug)
            assert not [row for row in rows if row[0] == "failed"], rows
            return bool(rows) and rows[0][0] == "ready"

        wait_for(f"{slug} is built", ready, seconds=seconds, every=1)

    def assert_nothing_left(self, machine: UUID) -> None:
        ((pool,),) = self.product.rows("SELECT pool_dir FROM hosts_host")
        assert machine not in {info.uuid for info in self.product.driver().list()}
        assert not (Path(str(pool)) / "machines" / str(machine)).exists()
        assert machine not in {volume.machine for volume in self.product.driver().list_volumes()}
        done = subprocess.run(["pgrep", "-f", f"casement-{machine}"], capture_output=True, text=True, check=False)
        assert done.stdout == "", "QEMU still runs"
        used = self.product.rows(
            "SELECT used_machines, used_vcpus, used_memory_mib, used_disk_gib FROM accounts_project"
        )
        live = self.product.rows("SELECT count(*) FROM machines_machine WHERE holds_quota")
        if live == [(0,)]:
            assert all(row == (0, 0, 0, 0) for row in used), used
