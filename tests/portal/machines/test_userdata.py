"""A person's cloud-config: read as YAML, put right or refused with the line, merged behind ours, hidden from others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from portal.accounts.models import User
from portal.errors import InvalidError
from portal.images.models import ImageVersion
from portal.lib.secrets import unseal
from portal.machines import userdata
from portal.machines.models import Flavour, Machine
from workers.hypervisor import cloud_init

GOOD = "#cloud-config\npackages:\n  - htop\n"


def seed(text: str) -> dict[str, Any]:
    made = cloud_init.seed(
        instance_id=UUID(int=1),
        hostname="beacon",
        user="alice",
        password_hash=None,
        ssh_keys=(),
        mac="52:54:00:00:00:01",
        desktop=True,
        extra=userdata.parsed(userdata.checked(text, login_user="alice")),
    )
    assert made.user_data.startswith("#cloud-config\n")
    loaded: dict[str, Any] = yaml.safe_load(made.user_data)
    return loaded


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        "\n\n" + GOOD,
        "\ufeff\r\n" + GOOD.replace("\n", "\r\n") + "\r\n\r\n",
    ],
)
def test_marks_and_line_ends_that_would_have_it_ignored_are_put_right(text: str) -> None:
    """F21."""
    assert userdata.checked(text, login_user="alice") == GOOD


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho x\n", "first line"),
        ("packages: [htop]\n", "first line"),
        ("## template: jinja\n#cloud-config\n", "first line"),
        ("#include\nhttp://example.org/\n", "first line"),
        ("#cloud-config\nusers:\n\t- a\n", "Line 3, column 1"),
        ("#cloud-config\na: b: c\n", "Line 2"),
        ("#cloud-config\n- a\n", "name: value"),
        ("#cloud-config\n1: a\n", "name: value"),
        ("#cloud-config\na: &x [1]\nb: [*x, *x]\n", "Line 2: anchors"),
        ("#cloud-config\na: " + "[" * 5000, "YAML"),
        ("#cloud-config\na: 2024-99-99\n", "YAML"),
        ("#cloud-config\na: \x07\n", "YAML"),
        ("#cloud-config\na: !!python/object/apply:os.system [id]\n", "YAML"),
        ("#cloud-config\nhostname: other\n", "hostname"),
        ("#cloud-config\nssh_keys: {}\n", "ssh_keys"),
        ("#cloud-config\nusers: alice\n", "list"),
        ("#cloud-config\nusers: [{name: alice, passwd: x}]\n", "alice"),
        ("#cloud-config\nusers: [alice]\n", "alice"),
        ("#cloud-config\na: " + "x" * userdata.MOST_BYTES, "too long"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(InvalidError, match=words) as caught:
        userdata.checked(text, login_user="alice")
    assert caught.value.field == "user_data"


@given(st.text(max_size=300))
def test_whatever_is_typed_is_taken_or_refused(text: str) -> None:
    try:
        kept = userdata.checked("#cloud-config\n" + text, login_user="alice")
    except InvalidError:
        return
    assert userdata.checked(kept, login_user="alice") == kept


def test_lists_come_behind_ours_and_the_machines_own_user_stays_first() -> None:
    data = seed(GOOD + "users: [default, {name: carol}]\nwrite_files: [{path: /a, content: b}]\n")
    assert [user if isinstance(user, str) else user["name"] for user in data["users"]] == ["alice", "default", "carol"]
    assert [entry["path"] for entry in data["write_files"]][1:] == ["/a"]
    assert data["packages"] == ["htop"]
    assert (data["hostname"], data["disable_root"]) == ("beacon", True)


def test_our_defaults_give_way_and_our_identity_does_not() -> None:
    assert seed("#cloud-config\npackage_update: true\n")["package_update"] is True
    assert seed("")["package_update"] is False
    ours: dict[str, Any] = {"hostname": "beacon", "users": [{"name": "alice"}]}
    for theirs in ({"hostname": "x"}, {"users": [{"name": "alice"}]}):
        with pytest.raises(cloud_init.InvalidSeedError):
            cloud_init.merged(ours, theirs)


# --- pages ------------------------------------------------------------------------------------------------------------


def _form(version: ImageVersion, flavour: Flavour, user: User, text: str) -> dict[str, object]:
    project = user.memberships.get().project
    known = {"project": project.pk, "image": version.image_id, "flavour": flavour.pk, "name": "lamp"}
    return {**known, "login_user": "alice", "ssh_key": "", "request_key": uuid4(), "user_data": text}


@pytest.mark.django_db
def test_it_is_sealed_and_shown_to_those_who_may_work_on_the_machine(
    image_version: ImageVersion,
    flavour: Flavour,
    host: object,
    alice: User,
    vera: User,
    as_user: Callable[[User], Client],
) -> None:
    secret = GOOD + "  - a-secret-package\n"
    answer = as_user(alice).post(reverse("machines:new"), _form(image_version, flavour, alice, secret))
    assert answer.status_code == 302, answer.content.decode()[:500]
    machine = Machine.objects.get()
    assert "a-secret-package" not in machine.user_data
    assert unseal(machine.user_data) == secret
    address = reverse("machines:user-data", args=[machine.pk])
    assert "a-secret-package" in as_user(alice).post(address).content.decode()
    assert as_user(vera).post(address).status_code == 403
    for person in (alice, vera):
        page = as_user(person).get(reverse("machines:detail", args=[machine.pk])).content.decode()
        assert "a-secret-package" not in page
        assert (address in page) == (person == alice)


@pytest.mark.django_db
def test_the_page_for_a_new_machine_says_what_is_wrong_at_the_field(
    image_version: ImageVersion, flavour: Flavour, host: object, alice: User, as_user: Callable[[User], Client]
) -> None:
    form = _form(image_version, flavour, alice, "#cloud-config\nusers:\n\t- a\n")
    answer = as_user(alice).post(reverse("machines:new"), form)
    assert answer.status_code == 422
    page = answer.content.decode()
    assert "Line 3, column 1" in page
    assert '<details class="more card" id="more" open>' in page
    assert not Machine.objects.exists()
