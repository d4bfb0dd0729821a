"""What cannot be done is refused in words, where the person looks, and nothing is left behind."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.story import Story

pytestmark = [pytest.mark.e2e, pytest.mark.real, pytest.mark.timeout(1200)]

VMDK = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/passwd" 0\n'


def test_a_disk_that_points_at_a_file_of_the_host_is_refused_on_its_page(story: Story, tmp_path: Path) -> None:
    page = story.page
    disk = tmp_path / "harmless.qcow2"
    disk.write_bytes(VMDK * 20)
    page.goto(f"{story.product.url}/images/upload/")
    page.set_input_files("input[type=file]", disk)
    page.fill("input[name=title]", "Trojan <b>horse</b>")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url(re.compile(r"/images/[0-9a-f-]{36}/"))
    expect(page.get_by_text("only the description of a VMware disk").first).to_be_visible(timeout=300_000)
    expect(page.locator("h1")).to_have_text("Trojan <b>horse</b>")
    story.picture("refused")
    folders = (story.product.home / "uploads", story.product.home / "images")
    assert [path for folder in folders for path in folder.glob("*.upload")] == []


def test_an_empty_file_is_refused_at_the_field(story: Story, tmp_path: Path) -> None:
    page = story.page
    (tmp_path / "empty.qcow2").touch()
    page.goto(f"{story.product.url}/images/upload/")
    page.set_input_files("input[type=file]", tmp_path / "empty.qcow2")
    page.fill("input[name=title]", "Nothing")
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-field=file]")).to_contain_text("empty")
    story.picture("empty")


def set_quota(story: Story, machines: str) -> str:
    """As an operator does on the project's page; what it was before."""
    page = story.page
    page.goto(f"{story.product.url}/projects/")
    page.get_by_role("link", name="Default").first.click()
    page.locator("#quota-change summary").click()
    before = page.input_value("input[name=max_machines]")
    page.fill("input[name=max_machines]", machines)
    # Whoever goes on before it is answered may go without.
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        page.get_by_role("button", name="Change the quota").click()
    return before


def test_above_the_quota_the_form_says_so_before_and_after_pressing(story: Story) -> None:
    story.wait_for_image("debian-12-server", seconds=900)
    before = set_quota(story, "0")
    try:
        refused_by_the_quota(story)
    finally:
        set_quota(story, before)


def refused_by_the_quota(story: Story) -> None:
    page = story.page
    page.goto(f"{story.product.url}/machines/new/")
    expect(page.locator("[data-launch]")).to_be_disabled()
    expect(page.locator("label.size", has_text="Medium")).to_contain_text("quota")
    story.picture("does-not-fit")
    # Who sends the form all the same, or was faster than the page, reads it again.
    names = {"csrfmiddlewaretoken", "request_key", "project"}
    fields = {name: page.input_value(f"#new-machine [name={name}]") for name in names}
    fields["image"] = str(page.locator("label.tile", has_text="server").locator("input").get_attribute("value"))
    fields["flavour"] = str(page.locator("label.size", has_text="Medium").locator("input").get_attribute("value"))
    address = f"{story.product.url}/machines/new/"
    form: dict[str, str | float | bool] = {**fields, "name": "one-too-many", "login_user": "admin"}
    answer = page.request.post(address, form=form, headers={"Referer": address})
    assert "no room for this machine" in answer.text()
    assert story.product.rows("SELECT count(*) FROM machines_machine WHERE name = 'one-too-many'") == [(0,)]


def test_a_name_that_no_machine_can_have_is_refused_at_the_field(story: Story) -> None:
    page = story.page
    story.wait_for_image("debian-12-server", seconds=900)
    page.goto(f"{story.product.url}/machines/new/")
    page.locator("label.tile", has_text="Debian 12 server").click()
    page.fill("input[name=name]", "<script>alert(1)</script>")
    page.evaluate("document.querySelector('#new-machine').noValidate = true")
    page.click("[data-launch]")
    expect(page.get_by_text("lower-case letters", exact=False).first).to_be_visible()
    assert page.input_value("input[name=name]") == "<script>alert(1)</script>"
    story.picture("name")
