"""As a user without rights, on that user's own libvirt: the main job, and what a host can do to a build.

Each failure is real: the disk is full, libvirt stands still, the guest's disk has nothing to boot. It is told where the
person looks, it passes when its cause passes, and it leaves nothing behind.
"""

import contextlib
import os
import pwd
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from playwright.sync_api import expect

from tests.e2e.story import Story
from tests.support.plain_user import GIB, USER, PlainUser, plain_user
from tests.support.product import Product, running_product, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.real,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; here every story is a user's"),
]
MIB = 1024**2
# So long a guest that does not come up is on the screen; a browser on a busy machine takes its time to show it.
NEVER_BOOTED_S = 90


@pytest.fixture(scope="module")
def user(product: Product) -> Iterator[PlainUser]:
    states = "SELECT group_concat(status) FROM images_imageversion"
    # They are registered a moment after the address is printed.
    wait_for("the images are built", lambda: "building" not in (product.rows(states)[0][0] or "building"), seconds=1200)
    with plain_user(copy_of=product) as made:
        yield made


@pytest.fixture(scope="module")
def stage(user: PlainUser) -> Iterator[Product]:
    environment = {**user.environment, "GUEST_BOOT_TIMEOUT_S": str(NEVER_BOOTED_S)}
    with running_product(
        user.home, environment=environment, checkout=user.checkout, prefix=user.prefix, uri=user.uri
    ) as running:
        wait_for("its host reports", lambda: seen(running), seconds=300)
        yield running


def seen(product: Product) -> object:
    """When its host was last heard, if it answers."""
    ((at,),) = product.rows("SELECT CASE WHEN last_error = '' THEN last_seen_at END FROM hosts_host")
    return at


def a_name(word: str) -> str:
    return f"{word}-{secrets.token_hex(2)}"


def status_of(story: Story, machine: UUID) -> object:
    ((status,),) = story.product.rows("SELECT status FROM machines_machine WHERE id = ?", machine.hex)
    return status


def delete(story: Story, machine: UUID) -> None:
    story.page.goto(f"{story.product.url}/machines/{machine}/")
    # One that was never ready does not go into the bin; whether this one is by now is the guest's to say.
    story.ask_to_delete()
    past_the_bin = story.page.get_by_label("Past the bin")
    if past_the_bin.count():
        past_the_bin.check()
    story.press("Delete machine")
    wait_for("it is gone", lambda: status_of(story, machine) == "deleted", seconds=300)
    story.assert_nothing_left(machine)


def test_a_full_disk_ends_the_build_in_words(story: Story, user: PlainUser) -> None:
    (image,) = (user.home / "images").glob("*.qcow2")
    story.fill_in_launch("Debian 12 server", a_name("flood"), size="Small")
    # Its last look must be a moment ago: from a look at the full disk it would refuse before anything is built.
    before = seen(story.product)
    wait_for(
        "the host was looked at just now", lambda: seen(story.product) not in {before, None}, seconds=120, every=0.1
    )
    user.resize_pool(image.stat().st_size + 32 * MIB)
    try:
        machine = story.send_launch()
        expect(story.page.get_by_text("not enough free storage").first).to_be_visible(timeout=300_000)
        story.picture("disk-full")
        story.expect_state("failed")
        story.assert_nothing_left(machine)
    finally:
        user.resize_pool()
    free = "SELECT storage_free_bytes FROM hosts_host"
    wait_for("the host has room again", lambda: story.product.rows(free)[0][0] > 4 * GIB, seconds=300)


def test_a_server_from_launch_to_nothing_left(story: Story) -> None:
    machine = story.launch("Debian 12 server", a_name("cabin"), size="Small")
    story.wait_for_screen()
    story.picture("first-frame")
    assert owners_of_qemu(machine) == {pwd.getpwnam(USER).pw_uid}
    delete(story, machine)
    story.picture("gone")


def owners_of_qemu(machine: UUID) -> set[int]:
    """The numbers of the users whose processes run the machine."""
    owners = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"guest=casement-{machine}".encode() in (process / "cmdline").read_bytes():
                owners.add(process.stat().st_uid)
    return owners


def test_a_guest_that_never_boots_is_taken_back_and_says_so(story: Story, tmp_path: Path) -> None:
    upload_blank_disk(story, tmp_path / "blank.raw")
    machine = story.launch("Blank", a_name("void"), size="Small")
    story.wait_for_screen()
    story.picture("nothing-to-boot")
    expect(story.page.get_by_text("The guest did not come up in time").first).to_be_visible(
        timeout=(NEVER_BOOTED_S + 240) * 1000
    )
    story.expect_state("failed")
    story.picture("never-booted")
    story.assert_nothing_left(machine)


def upload_blank_disk(story: Story, disk: Path) -> None:
    """A boot sector that does nothing. An operator says that it has an agent, so that one is waited for."""
    page = story.page
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(MIB - 512))
    page.goto(f"{story.product.url}/images/upload/")
    page.set_input_files("input[type=file]", disk)
    page.fill("input[name=title]", "Blank")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url(re.compile(r"/images/[0-9a-f-]{36}/"))
    found = re.search(r"[0-9a-f-]{36}", page.url)
    assert found is not None
    ready = "SELECT 1 FROM images_imageversion WHERE image_id = ? AND status = 'ready'"
    wait_for("it is taken in", lambda: story.product.rows(ready, UUID(found[0]).hex), seconds=300)
    page.goto(f"{story.product.url}/admin/images/image/{found[0]}/change/")
    page.check("input[name=has_agent]")
    story.press("Save")
    expect(page.get_by_text("was changed successfully").first).to_be_visible()


def test_a_host_that_stands_still_is_named_and_waited_for(story: Story, user: PlainUser) -> None:
    page = story.page
    libvirtd = user.libvirtd()
    os.kill(libvirtd, signal.SIGSTOP)
    try:
        machine = story.launch("Debian 12 server", a_name("pause"), size="Small")
        told = page.get_by_text(
            re.compile(r"The (host did not answer|connection to the host was lost).* Trying again\.")
        )
        expect(told.first).to_be_visible(timeout=300_000)
        story.picture("host-away")
        wait_for("the host is known to be away", lambda: not seen(story.product), seconds=300)
        page.goto(f"{story.product.url}/machines/new/")
        page.fill("input[name=name]", "not-now")
        page.click("[data-launch]")
        expect(page.get_by_text("The host does not answer just now").first).to_be_visible()
        story.picture("cannot-launch")
    finally:
        os.kill(libvirtd, signal.SIGCONT)
    assert story.product.rows("SELECT 1 FROM machines_machine WHERE name = 'not-now'") == []
    page.goto(f"{story.product.url}/machines/{machine}/")
    story.wait_for_screen()
    story.picture("host-is-back")
    delete(story, machine)
