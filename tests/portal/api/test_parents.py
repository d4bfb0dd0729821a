"""Running copies by the API: kept ready, listed, tried again; and how a machine was made."""

from __future__ import annotations

import pytest

from portal.accounts.models import User
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion
from portal.jobs.models import Job
from portal.machines.models import Flavour, Machine
from portal.parents import services, tending
from portal.parents.models import Parent, ParentWish
from portal.parents.states import State
from tests.portal.api.conftest import MakeProgram

pytestmark = pytest.mark.django_db


def test_one_is_kept_ready_shown_tried_again_and_no_longer(
    program: MakeProgram, operator: User, image: Image, image_version: ImageVersion, flavour: Flavour, host: Host
) -> None:
    olga = program(operator)
    asked = {"image": str(image.pk), "flavour": flavour.name}
    made = olga.send("POST", "parent-wishes", asked)
    assert made.status_code == 201
    assert olga.send("POST", "parent-wishes", asked).json()["id"] == made.json()["id"]
    assert [one["image"]["name"] for one in olga.get("parent-wishes").json()["items"]] == [image.title]
    tending.tend()
    [shown] = olga.get("parents").json()["items"]
    assert (shown["state"], shown["host"]["name"], shown["version"], shown["forks"]) == ("wanted", "local", 1, 0)
    parent = Parent.objects.get()
    services.record_failed(parent, message="It did not start.")
    Job.objects.update(status="failed")
    shown = olga.get(f"parents/{parent.pk}").json()
    assert (shown["state"], shown["reason"], shown["failures"]) == ("failed", "It did not start.", 1)
    assert olga.get("parents?state=ready").json()["items"] == []
    assert olga.send("POST", f"parents/{parent.pk}/retry").json()["state"] == "wanted"
    Parent.objects.update(state=State.READY)
    assert olga.send("POST", f"parents/{parent.pk}/retry").status_code == 409
    assert olga.send("DELETE", f"parent-wishes/{made.json()['id']}").status_code == 204
    assert not ParentWish.objects.exists()


def test_what_cannot_be_kept_is_refused_at_its_field(
    program: MakeProgram, operator: User, image: Image, image_version: ImageVersion, flavour: Flavour
) -> None:
    olga = program(operator)
    refused = olga.send("POST", "parent-wishes", {"image": str(image.pk), "flavour": "huge"})
    assert (refused.status_code, "flavour" in refused.content.decode()) == (422, True)
    Image.objects.update(has_agent=False)
    refused = olga.send("POST", "parent-wishes", {"image": str(image.pk), "flavour": flavour.name})
    assert (refused.status_code, "image" in refused.content.decode()) == (422, True)


def test_they_are_for_operators(program: MakeProgram, alice: User, image: Image, image_version: ImageVersion) -> None:
    mine = program(alice)
    for path in ("parents", "parent-wishes"):
        assert mine.get(path).status_code == 404
    assert mine.send("POST", "parent-wishes", {"image": str(image.pk), "flavour": "small"}).status_code == 404


def test_a_machine_tells_how_it_was_made(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine = program(alice)
    shown = mine.get(f"machines/{machine.pk}").json()
    assert (shown["made_by"], shown["made_by_reason"]) == ("", "")
    Machine.objects.update(made_by="restore", made_by_reason="QEMU refused its memory.")
    shown = mine.get(f"machines/{machine.pk}").json()
    assert (shown["made_by"], shown["made_by_reason"]) == ("restore", "QEMU refused its memory.")
