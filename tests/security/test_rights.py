"""Rows 16 and 27: nobody raises their own rights by what they send, and nothing that is typed becomes configuration."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import Membership, Project, User
from portal.api.operations import OPERATIONS
from portal.errors import InvalidError
from portal.images.models import ImageVersion
from portal.machines import services
from portal.machines.models import Flavour, Machine
from tests.portal.api.conftest import MakeProgram, program

__all__ = ["program"]

# What would make somebody more than they are, wherever it might be taken over from what was sent.
OFFICE = {
    "is_staff": True,
    "is_superuser": True,
    "is_active": True,
    "role": "owner",
    "owner": 1,
    "user": 1,
    "scope": "write",
    "max_machines": 999,
    "quota": {"machines": 999},
    "status": "ready",
    "holds_quota": False,
    "host": str(uuid4()),
}


def standing() -> list[Any]:
    """Who is what, and how much each project may have."""
    people = User.objects.order_by("pk").values_list("pk", "is_staff", "is_superuser", "is_active", "username")
    roles = Membership.objects.order_by("pk").values_list("user", "project", "role")
    return [*people, *roles, *Project.objects.order_by("pk").values_list("pk", "max_machines", "max_vcpus")]


@pytest.mark.parametrize("cast", ["bob", "vera", "charlie"])
def test_nobody_becomes_more_by_fields_that_nobody_asked_for(
    request: pytest.FixtureRequest, cast: str, machine: Machine, alice: User, operator: User, program: MakeProgram
) -> None:
    """Row 16, at every operation of the API that takes a body: unknown fields are refused, and known ones judged."""
    person: User = request.getfixturevalue(cast)
    mine = program(person)
    before = standing()
    targets = {"machines": machine.pk, "projects": machine.project_id, "projects/members": alice.memberships.get().pk}
    for known in OPERATIONS:
        base = known.path.partition("/{")[0]
        if known.changes and "{disk}" not in known.path and "uuid:card" not in known.path:
            key = str(targets.get(base, uuid4()))
            path = known.path.replace("{uuid:pk}", key).replace("{int:pk}", key).replace("{uuid:link}", str(uuid4()))
            answer = mine.send(known.method, path, OFFICE)
            assert answer.status_code < 500, (known.name, answer.content)
    assert standing() == before


@pytest.mark.parametrize("path", ["accounts:keys", "accounts:password", "accounts:tokens"])
def test_nor_by_a_form(client: Client, bob: User, path: str) -> None:
    client.force_login(bob)
    before = standing()
    client.post(reverse(path), {name: str(value) for name, value in OFFICE.items()})
    assert standing() == before


def test_an_owner_is_no_operator(machine: Machine, alice: User, operator: User, program: MakeProgram) -> None:
    """Row 16: who owns a project neither removes nor changes who runs the hosts."""
    member = Membership.objects.create(user=operator, project=machine.project, role="viewer")
    mine = program(alice)
    assert mine.send("PUT", f"projects/members/{member.pk}/role", {"role": "owner"}).status_code < 500
    operator.refresh_from_db()
    assert operator.is_staff and operator.is_active
    for path in ("hosts", "overview", "sessions", "audit"):
        assert mine.get(path).status_code == 404, path
    assert Client().get("/admin/").status_code == 302


SPOILT = ["a\nb", "a\rb", "a\0b", "a\tb", "a\x1bb", "a\u2028b", "a\u202eb"]
SPOILT += ["a\nhost-record=evil,10.0.0.1", "-a", "a b", ""]


@pytest.mark.parametrize("name", SPOILT)
def test_a_name_is_one_word_of_a_host(
    project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, machine: Machine, name: str
) -> None:
    """Row 27: what reaches a DHCP server, a DNS server or a shell's prompt by way of a machine's name."""
    with pytest.raises(InvalidError):
        services.request_machine(
            project, actor=alice, image_version=image_version, flavour=flavour, name=name, login_user="alice"
        )
    with pytest.raises(InvalidError):
        services.request_machine(
            project, actor=alice, image_version=image_version, flavour=flavour, name="lamp", login_user=name
        )
    assert Machine.objects.count() == 1
