"""A person signs in and is on a desktop; comes back from elsewhere; signs out and finds it new, with their files.

Everything on the way is real: the desktop image, the parent that desktops are forked from, the broker, the browser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import UUID

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.conftest import ARTEFACTS
from tests.e2e.story import Story
from tests.e2e.studio import pool_with_a_parent
from tests.support.product import Product, new_context, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.real, pytest.mark.timeout(2700)]

SitDown = Callable[[str], Story]
PEOPLE = ("ann", "ben", "cyd")
SESSION = re.compile(r"/desktops/session/[0-9a-f-]{36}/")


@pytest.fixture
def passwords(story: Story) -> dict[str, str]:
    """Three people, whom the operator lets in to the portal as one does."""
    made = {}
    for name in PEOPLE:
        made[name] = f"{name} waits for a desktop, 1 of 3"  # The same again in a home that is kept.
        if story.product.rows("SELECT id FROM accounts_user WHERE username = ?", name):
            continue
        story.page.goto(f"{story.product.url}/admin/accounts/user/add/")
        story.page.fill("input[name=username]", name)
        story.page.fill("input[name=password1]", made[name])
        story.page.fill("input[name=password2]", made[name])
        story.page.get_by_role("button", name="Save", exact=True).click()
        story.page.wait_for_url(re.compile(r"/admin/accounts/user/\d+/"))
    return made


@pytest.fixture
def sit_down(
    browser: Browser, stage: Product, passwords: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[SitDown]:
    """A browser of its own in which the person has just signed in; wherever that leads is where they are."""
    contexts = []
    stories: list[Story] = []
    failed_before = request.session.testsfailed

    def begin(name: str) -> Story:
        contexts.append(new_context(browser, width=1280, height=860))
        page = contexts[-1].new_page()
        told = Story(page, stage, ARTEFACTS, f"test_pool_{name}_{len(contexts)}")
        stories.append(told)
        page.goto(f"{stage.url}/")
        page.fill("input[name=username]", name)
        page.fill("input[name=password]", passwords[name])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "login" not in url)
        return told

    yield begin
    if request.session.testsfailed > failed_before:
        for told in stories:
            told.picture("failed")
    for context in contexts:
        context.close()


def machine_of(person: Story, name: str) -> UUID:
    """Of their running session."""
    rows = person.product.rows(
        "SELECT s.machine_id FROM pools_session s JOIN accounts_user u ON u.id = s.person_id"
        " WHERE u.username = ? AND s.state != 'ended'",
        name,
    )
    assert len(rows) == 1, rows
    return UUID(str(rows[0][0]))


def made_by(person: Story, machine: UUID) -> tuple[str, str]:
    ((how, reason),) = person.product.rows(
        "SELECT made_by, made_by_reason FROM machines_machine WHERE id = ?", machine.hex
    )
    return str(how), str(reason)


def is_on_a_desktop(person: Story, *, seconds: float = 300) -> None:
    person.page.wait_for_url(SESSION, timeout=seconds * 1000)
    person.wait_for_screen(seconds=seconds)
    wait_for("the desktop is on the screen", lambda: person.colours_on_screen() > 300, seconds=seconds)


def let_in(story: Story, pool: UUID) -> None:
    page = story.page
    for person in PEOPLE:
        page.goto(f"{story.product.url}/pools/{pool}/edit/")
        page.fill("input[name=who]", person)
        page.get_by_role("button", name="Let in").click()
        expect(page.locator("#people")).to_contain_text(person)
    page.goto(f"{story.product.url}/pools/{pool}/")


def spare_is_there(story: Story, *, seconds: float) -> None:
    sql = "SELECT count(*) FROM pools_desktop WHERE state = 'spare'"
    wait_for("a desktop is free", lambda: story.product.rows(sql) == [(1,)], seconds=seconds)


def test_straight_to_a_desktop_and_back_to_it_and_a_line_for_those_who_wait(story: Story, sit_down: SitDown) -> None:
    let_in(story, pool_with_a_parent(story))
    spare_is_there(story, seconds=900)
    story.picture("pool-with-a-spare")

    # No click after the sign-in.
    ann = sit_down("ann")
    is_on_a_desktop(ann)
    ann.picture("straight-to-the-screen")
    first = machine_of(ann, "ann")
    files_are_open(ann, first)
    works_in(ann, first)

    # Another device: it asks, and the first one is told.
    again = sit_down("ann")
    expect(again.page.get_by_role("heading", name="is open on another device")).to_be_visible()
    again.picture("second-device")
    again.press("Take it over")
    is_on_a_desktop(again)
    assert machine_of(again, "ann") == first
    expect(ann.page.get_by_text("Your desktop is open on another device now")).to_be_visible()
    ann.picture("taken-over")

    # The pool has one desktop, and three people.
    ben = sit_down("ben")
    expect(ben.page.get_by_text("You are next.")).to_be_visible()
    cyd = sit_down("cyd")
    expect(cyd.page.get_by_text("1 person is before you.")).to_be_visible()
    cyd.picture("waiting-room")
    signs_out(again)
    is_on_a_desktop(ben, seconds=600)
    second = machine_of(ben, "ben")
    assert second != first
    assert made_by(ben, second) == ("fork", "")
    expect(cyd.page.get_by_text("You are next.")).to_be_visible()
    cyd.press("Leave the line")
    ben.picture("from-the-waiting-room")
    assert ben.in_guest(second, "cat", "/var/lib/casement/files/proof") == ""
    signs_out(ben)

    # New, but for her files.
    spare_is_there(story, seconds=600)
    back = sit_down("ann")
    is_on_a_desktop(back)
    third = machine_of(back, "ann")
    assert third not in (first, second)
    files_are_open(back, third)
    assert back.in_guest(third, "cat", "/var/lib/casement/files/proof") == "typed-into-my-files"
    assert back.in_guest(third, "sh", "-c", "ls -A /home/*/left-behind; true") == ""
    back.picture("new-desktop-old-files")
    signs_out(back)
    story.page.reload()
    story.picture("pool-after-all")
    empties(story)
    files_are_deleted(story)
    for machine in (first, second, third):
        is_gone(story, machine)
        story.assert_nothing_left(machine)


def signs_out(person: Story) -> None:
    person.page.locator("[data-console-handle]").click()
    person.press("Sign out")
    expect(person.page.get_by_role("heading", name="You are signed out")).to_be_visible()


def files_are_open(person: Story, machine: UUID) -> None:
    person.wait_in_guest(machine, "/var/lib/casement/files", "findmnt", "-n", "/var/lib/casement/files", seconds=300)


def works_in(person: Story, machine: UUID) -> None:
    """Type into a terminal of the desktop: one line for what stays, one for what does not."""
    person.page.locator("[data-console-stage] canvas").click()
    person.page.keyboard.press("Control+Alt+t")
    wait_for("a terminal opens", lambda: person.in_guest(machine, "pgrep", "-x", "bash"), seconds=300)
    wait_for("its window is there", lambda: person.share_of_screen("r + g + b < 10") > 0.15, seconds=300)

    def is_there() -> bool:
        # QEMU keeps sixteen strokes for a guest that is busy, and drops what comes then.
        person.page.keyboard.press("Control+c")
        person.type_line("echo typed-into-my-files > ~/Files/proof; touch ~/left-behind")
        with suppress(AssertionError):
            person.wait_in_guest(machine, "typed-into-my-files", "cat", "/var/lib/casement/files/proof", seconds=60)
            return True
        return False

    assert any(is_there() for _ in range(4))
    person.picture("typed")


def empties(story: Story) -> None:
    story.page.get_by_role("link", name="Edit").first.click()
    story.page.get_by_text("Empty…").click()
    story.press("Empty the pool")
    wait_for(
        "it is empty",
        lambda: story.product.rows("SELECT count(*) FROM pools_desktop WHERE state != 'retired'") == [(0,)],
        seconds=300,
    )


def files_are_deleted(story: Story) -> None:
    """By the operator: who is not coming back has no need of them."""
    page = story.page
    left = "SELECT count(*) FROM volumes_volume WHERE status != 'deleted' AND name LIKE 'files %'"
    for (pk,) in story.product.rows("SELECT id FROM profiles_profile"):
        page.goto(f"{story.product.url}/files/{UUID(str(pk))}/delete/")
        page.get_by_role("button", name="Delete them").click()
        page.wait_for_url(re.compile(r"/files/all/"))
    wait_for("all files are gone", lambda: story.product.rows(left) == [(0,)], seconds=300)


def is_gone(story: Story, machine: UUID) -> None:
    sql = "SELECT status FROM machines_machine WHERE id = ?"
    wait_for("it is gone", lambda: story.product.rows(sql, machine.hex) == [("deleted",)], seconds=300)
