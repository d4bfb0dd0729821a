"""A pool of desktops that are forked, made once as an operator makes one; whichever story comes first waits for it."""

from __future__ import annotations

import re
import secrets
from typing import Any
from uuid import UUID

from playwright.sync_api import Page

from tests.e2e.story import Story
from tests.support.product import wait_for

TITLE = "Studio"


def pool_with_a_parent(story: Story) -> UUID:
    """The pool. One of its desktops may be free, and there is something to fork the next one from."""
    story.wait_for_image("debian-12-desktop", seconds=1500)
    pools = "SELECT id FROM pools_pool WHERE title = ? AND enabled"
    if not story.product.rows(pools, TITLE):
        _make(story)
    wait_for("there is something to fork from", lambda: _parents(story), seconds=1200)
    ((pk,),) = story.product.rows(pools, TITLE)
    return UUID(str(pk))


def parent_in_use(story: Story) -> tuple[UUID, int, int]:
    """Its key, processors and memory in MiB."""
    ((pk, vcpus, memory_mib),) = _parents(story)
    return UUID(str(pk)), int(vcpus), int(memory_mib)


def _parents(story: Story) -> list[tuple[Any, ...]]:
    return story.product.rows("SELECT id, vcpus, memory_mib FROM parents_parent WHERE state = 'ready'")


def _make(story: Story) -> None:
    page = story.page
    page.goto(f"{story.product.url}/pools/new/")
    page.fill("input[name=title]", TITLE)
    page.fill("input[name=name]", f"{TITLE.lower()}-{secrets.token_hex(2)}")
    page.select_option("select[name=image_version]", label=_option(page, "image_version", "desktop"))
    page.select_option("select[name=flavour]", label=_option(page, "flavour", "Medium"))
    page.fill("input[name=minimum]", "0")
    page.fill("input[name=maximum]", "1")
    page.fill("input[name=spare]", "1")
    story.picture("new-pool")
    page.get_by_role("button", name="Create pool").click()
    page.wait_for_url(re.compile(r"/pools/[0-9a-f-]{36}/$"))


def _option(page: Page, field: str, word: str) -> str:
    labels = page.locator(f"select[name={field}] option").all_inner_texts()
    return next(label for label in labels if word.lower() in label.lower())
