"""Deployments by the API: a class from its list to its end."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from portal.accounts.models import Project, User
from portal.console.models import ScreenNotice
from portal.deployments.models import Deployment
from portal.deployments.services import Plan
from portal.machines.models import Machine
from portal.machines.states import PowerState
from tests.portal.api.conftest import MakeProgram
from tests.portal.deployments.conftest import dana, deployment, emil, plan, room, run_all

__all__ = ["dana", "deployment", "emil", "plan", "room"]


@pytest.fixture
def body(room: Project, plan: Plan) -> dict[str, object]:
    return {"project": str(room.pk), "flavour": plan.flavour.name, "people": ["dana", "Mia"]}


def test_from_a_list_to_links_and_its_end(
    body: dict[str, object], plan: Plan, alice: User, dana: User, emil: User, program: MakeProgram
) -> None:
    me = program(alice)
    told = me.post("deployments/check", {**body, "table": "name;e-mail\nE;emil@example.org"}).json()
    assert [(one["person"], one["account"]) for one in told["people"]] == [
        ("dana", "dana"),
        ("Mia", None),
        ("emil@example.org", "emil"),
    ]
    assert (told["machines"], told["fitting"], told["shortfalls"]) == (3, 3, [])
    assert not Machine.objects.exists()
    wanted = {**body, "name": "Chemistry", "image": str(plan.image_version.image_id), "desktops_are_called": "lab"}
    made = me.post("deployments", wanted, Idempotency_Key="one")
    assert made.status_code == 201, made.content
    again = me.post("deployments", wanted, Idempotency_Key="one")
    assert again.json() == made.json() and Deployment.objects.count() == 1
    run_all(Deployment.objects.get())
    pk = made.json()["id"]
    seats = me.get(f"deployments/{pk}/seats").json()["items"]
    assert [(one["person"], one["account"], one["machine"]["name"]) for one in seats] == [
        ("dana", "dana", "lab-1"),
        ("Mia", None, "lab-2"),
    ]
    added = me.post(f"deployments/{pk}/people", {"people": ["Mia", "Noah"]})
    assert [one["person"] for one in added.json()["items"]] == ["Noah"]
    links = me.post(f"deployments/{pk}/links", {"lifetime_s": 3600}).json()["links"]
    assert [one["person"] for one in links] == ["Mia", "Noah"]
    browser, path = Client(), "/" + links[0]["url"].split("/", 3)[3]
    assert browser.post(path).status_code == 302
    assert me.send("DELETE", f"seats/{links[0]['seat']}/link").status_code == 204
    assert Client().get(path).status_code == 404
    assert me.post(f"deployments/{pk}/message", {"text": "Hello", "seats": [seats[0]["id"]]}).json() == {"desktops": 1}
    assert ScreenNotice.objects.get().text == "Hello"
    stepped = me.post(f"seats/{seats[0]['id']}/step-in", {"mode": "control"}).json()
    assert stepped == {"machine": seats[0]["machine"]["id"], "mode": "control"}
    stopped = me.post(f"deployments/{pk}/act", {"action": "stop", "seats": [seats[0]["id"]]})
    assert stopped.status_code == 201 and [one["name"] for one in stopped.json()["items"]] == ["lab-1"]
    gone = me.send("DELETE", f"deployments/{pk}")
    assert (gone.status_code, gone.json()["gone"], len(gone.json()["desktops"]["items"])) == (202, True, 3)
    assert me.get(f"deployments/{pk}").status_code == 404


def test_a_reset_is_a_batch_like_any_other(deployment: Deployment, alice: User, program: MakeProgram) -> None:
    me = program(alice)
    batch = me.post(f"deployments/{deployment.pk}/act", {"action": "reset"}).json()
    assert batch["action"] == "rebuild" and len(batch["items"]) == 4
    assert me.get(f"batches/{batch['id']}").json()["action"] == "rebuild"


def test_a_group_is_for_its_members_and_operators(
    body: dict[str, object], alice: User, dana: User, operator: User, program: MakeProgram
) -> None:
    Group.objects.create(name="10b").user_set.add(dana)
    answer = program(alice).post("deployments/check", {**body, "people": [], "group": "10b"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "group")
    told = program(operator).post("deployments/check", {**body, "people": [], "group": "10b"}).json()
    assert [one["account"] for one in told["people"]] == ["dana"]


def test_ones_own_desktops(deployment: Deployment, dana: User, emil: User, program: MakeProgram) -> None:
    me = program(dana)
    [own] = me.get("seats").json()["items"]
    assert own["person"] == "dana" and own["machine"]["name"] == "lab-1"
    assert me.get(f"seats/{own['id']}").status_code == 404, "the list and its page are the teacher's"
    Machine.objects.filter(name="lab-1").update(power_state=PowerState.SHUT_OFF, console_socket="")
    assert program(emil).post(f"seats/{own['id']}/start").status_code == 404
    assert me.post(f"seats/{own['id']}/start").status_code == 202
    assert program(dana, project=None, scope="read").post(f"seats/{own['id']}/start").status_code == 403


def test_a_token_for_one_project_has_no_desktop_of_another(
    deployment: Deployment, charlie: User, program: MakeProgram
) -> None:
    deployment.seats.filter(label="Mia").update(person=charlie)
    assert len(program(charlie).get("seats").json()["items"]) == 1
    elsewhere = charlie.memberships.get().project
    assert program(charlie, project=elsewhere).get("seats").json()["items"] == []
