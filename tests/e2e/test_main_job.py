"""The main job: ask for a machine in the browser, get its screen in the browser. Everything on the way is real."""

import secrets

import pytest
from playwright.sync_api import expect

from tests.e2e.story import Story
from tests.support.product import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.real, pytest.mark.timeout(3000)]


def a_name(word: str) -> str:
    """Free also in a home that an earlier run left."""
    return f"{word}-{secrets.token_hex(2)}"


RED = "r > 120 && g < 60 && b < 60"


def test_a_server_from_launch_to_nothing_left(story: Story) -> None:
    page = story.page
    story.picture("home")
    story.wait_for_image("debian-12-server", seconds=600)
    name = a_name("beacon")
    machine = story.launch("Debian 12 server", name, size="Small")
    story.picture("being-built")
    story.wait_for_screen()
    story.picture("first-frame")
    # A worker that dies in the middle loses nothing: another one goes on from the step that is not done.
    assert story.product.kill_worker() > 0
    story.expect_state("running", seconds=900)
    story.picture("ready")
    assert story.in_guest(machine, "hostname") == name

    # Sign in at the guest's own console, and paint it: only a booted guest's shell can make the screen red.
    password = story.password()
    user = page.locator("dt:has-text('User') + dd .mono").first.inner_text()
    wait_for(
        "getty waits", lambda: "agetty" in story.in_guest(machine, "ps", "-C", "agetty", "-o", "comm="), seconds=300
    )
    story.type_line(user)
    wait_for("login asks", lambda: "login" in story.in_guest(machine, "ps", "-t", "tty1", "-o", "comm="), seconds=300)
    # What is typed before the echo is off is thrown away by login.
    story.wait_in_guest(machine, "-echo ", "stty", "-F", "/dev/tty1", "-a")
    story.type_line(password)
    wait_for("a shell", lambda: "bash" in story.in_guest(machine, "ps", "-t", "tty1", "-o", "comm="), seconds=180)
    story.type_line("echo typed-on-the-screen > proof; clear; printf '\\033[41m\\033[2J'")
    story.wait_in_guest(machine, "typed-on-the-screen", "cat", f"/home/{user}/proof")
    wait_for("the guest's screen is red", lambda: story.share_of_screen(RED) > 0.8, seconds=300)
    story.picture("typed")

    # A reload and a tab of its own find the same screen.
    page.goto(f"{story.product.url}/machines/{machine}/screen/")
    story.wait_for_screen()
    wait_for("the same screen", lambda: story.share_of_screen(RED) > 0.8, seconds=300)
    story.picture("own-tab")
    _works_on_its_serial_console(story, f"{story.product.url}/machines/{machine}/", name)
    page.goto(f"{story.product.url}/machines/{machine}/")
    story.wait_for_screen()

    # Power, each shown without a reload.
    page.evaluate("window.notReloaded = true")
    story.press("Shut down")
    story.expect_state("shut off")
    story.picture("shut-off")
    story.press("Start")
    story.wait_for_screen()
    story.expect_state("running")
    wait_for("it is up again", lambda: story.in_guest(machine, "hostname") == name, seconds=600)
    assert story.in_guest(machine, "cat", f"/home/{user}/proof") == "typed-on-the-screen"

    # Switched off inside the guest, the page says so by itself.
    story.in_guest(machine, "systemctl", "poweroff", "--no-wall")
    story.expect_state("shut off", seconds=300)
    assert page.evaluate("window.notReloaded") is True
    story.picture("shut-off-inside")

    story.ask_to_delete()
    story.picture("asks-before-deleting")
    page.get_by_label("Past the bin").check()
    story.press("Delete machine")
    page.wait_for_url(f"{story.product.url}/machines/")
    wait_for(
        "it is gone",
        lambda: story.product.rows("SELECT status FROM machines_machine WHERE name = ?", name) == [("deleted",)],
        seconds=300,
    )
    expect(page.get_by_role("link", name=name)).to_have_count(0)
    story.picture("gone")
    story.assert_nothing_left(machine)


def _works_on_its_serial_console(story: Story, machine: str, name: str) -> None:
    """libvirt's socket, the line through Redis, the terminal; and the log, which a worker brings from the pool."""
    page = story.page
    page.goto(f"{machine}serial/")
    expect(page.locator("[data-serial]")).to_have_attribute("data-input", "on")
    page.get_by_role("button", name="Enter").click()
    expect(page.locator(".xterm-rows")).to_contain_text(f"{name} login:", timeout=300_000)
    story.picture("serial-console")
    page.goto(f"{machine}serial/log/?q=login:")
    expect(page.locator(".log-text")).to_contain_text(f"{name} login:", timeout=300_000)
    story.picture("console-log")


def test_a_desktop_that_is_worked_on_in_the_tab(story: Story) -> None:
    page = story.page
    story.wait_for_image("debian-12-desktop", seconds=1200)
    name = a_name("atelier")
    machine = story.launch("Debian 12 desktop", name, size="Medium")
    story.wait_for_screen()
    story.expect_state("running", seconds=900)
    user = page.locator("dt:has-text('User') + dd .mono").first.inner_text()
    wait_for("the desktop is up", lambda: story.in_guest(machine, "pgrep", "-u", user, "xfce4-panel"), seconds=600)
    # The firmware and the text console have few colours; a desktop with its icons has hundreds.
    wait_for("the desktop is on the screen", lambda: story.colours_on_screen() > 300, seconds=300)
    story.picture("desktop")
    wait_for("the desktop has settled", lambda: story.in_guest(machine, "pgrep", "-u", user, "xfdesktop"), seconds=300)

    page.locator("[data-console-stage] canvas").click()
    page.keyboard.press("Control+Alt+t")
    wait_for("a terminal opens", lambda: story.in_guest(machine, "pgrep", "-u", user, "-x", "bash"), seconds=300)
    # Its shell runs before its window is there to take the keys: on a busy machine, long before.
    wait_for("its window is there", lambda: story.share_of_screen("r + g + b < 10") > 0.15, seconds=300)
    story.type_line("echo typed-on-the-desktop > proof")
    story.wait_in_guest(machine, "typed-on-the-desktop", "cat", f"/home/{user}/proof")
    story.picture("terminal")
    story.type_line("exit")
    wait_for("it is closed", lambda: not story.in_guest(machine, "pgrep", "-u", user, "-x", "bash"), seconds=300)

    # In a tab of its own the guest's screen takes the window's size, both smaller and larger than it was.
    page.goto(f"{story.product.url}/machines/{machine}/screen/")
    story.wait_for_screen()
    story.fit_desktop(machine, 1100, 700)
    story.picture("smaller-window")
    story.fit_desktop(machine, 1500, 960)
    story.picture("larger-window")
    page.goto(f"{story.product.url}/machines/{machine}/")

    story.ask_to_delete()
    page.get_by_label("Past the bin").check()
    story.press("Delete machine")
    wait_for(
        "it is gone",
        lambda: story.product.rows("SELECT status FROM machines_machine WHERE name = ?", name) == [("deleted",)],
        seconds=300,
    )
    story.assert_nothing_left(machine)
