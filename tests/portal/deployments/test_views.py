"""Deployments as pages: what a teacher sees and presses."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.console.models import ConsoleSession, ScreenNotice
from portal.deployments.models import Deployment
from portal.deployments.services import Plan
from portal.jobs.models import Job
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from tests.portal.deployments.conftest import seat_of

NEW = "/deployments/new/"


@pytest.fixture
def form(room: Project, plan: Plan) -> dict[str, Any]:
    return {
        "project": str(room.pk),
        "name": "Physics",
        "called": "lab",
        "image": str(plan.image_version.image_id),
        "flavour": str(plan.flavour.pk),
        "people": "dana\nMia",
        "whole": "yes",
        "request_key": "6c1c1a52-0a0e-4c5e-9a53-7b5f1d3c2a10",
    }


@pytest.fixture
def teacher(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def page(deployment: Deployment, name: str = "detail") -> str:
    return reverse(f"deployments:{name}", args=[deployment.pk])


def test_first_it_is_told_who_is_meant_and_nothing_is_made(
    teacher: Client, form: dict[str, Any], dana: User, emil: User, alice: User
) -> None:
    Group.objects.create(name="10b").user_set.add(alice, emil)
    file = SimpleUploadedFile("10b.csv", 'Name;Mark\nNoah;1\n"Marple; Jane";2\n'.encode("utf-8-sig"))
    group = Group.objects.get().pk
    answer = teacher.post(NEW, {**form, "step": "check", "file": file, "group": group})
    text = answer.content.decode()
    assert answer.status_code == 200 and "Make 6 desktops" in text and "There is room for all" in text
    assert not Deployment.objects.exists() and not Machine.objects.exists()
    # What was uploaded stands in the list now; as it stands there it is made.
    listed = answer.context["form"]["people"].value()
    assert listed.splitlines() == ["dana", "Mia", "Noah", '"Marple; Jane"', "alice", "emil"]
    made = teacher.post(NEW, {**form, "people": listed, "step": "make"})
    assert made.status_code == 302
    assert list(Deployment.objects.get().seats.values_list("label", flat=True)) == [
        *("dana", "Mia", "Noah", "Marple; Jane", "alice", "emil")
    ]


def test_what_does_not_fit_is_said_and_refused_or_made_in_part(
    teacher: Client, form: dict[str, Any], room: Project, dana: User
) -> None:
    Project.objects.filter(pk=room.pk).update(max_machines=1)
    told = teacher.post(NEW, {**form, "step": "check"}).content.decode()
    assert "There is room for 1 of 2." in told
    refused = teacher.post(NEW, {**form, "step": "make"})
    assert refused.status_code == 422 and "Room for 1 of 2 desktops, so none was made" in refused.content.decode()
    assert not Deployment.objects.exists()
    made = teacher.post(NEW, {**form, "whole": "no", "step": "make"})
    assert made.status_code == 302
    wall = teacher.get(made["Location"]).content.decode()
    assert "1 without a desktop" in wall and "The quota of project Lighthouse has no room" in wall


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"people": ""}, "Name at least one person."),
        ({"people": '"mia'}, "a quotation mark is open"),
        ({"file": SimpleUploadedFile("x.csv", b"\xff\xd8\xff")}, "no text in UTF-8"),
        ({"called": "no good"}, "valid"),
        ({"name": ""}, "required"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    teacher: Client, form: dict[str, Any], wrong: dict[str, Any], words: str
) -> None:
    answer = teacher.post(NEW, {**form, **wrong, "step": "make"})
    assert answer.status_code == 422 and words in answer.content.decode()
    assert not Deployment.objects.exists()


def test_who_owns_no_project_cannot_make_one(client: Client, bob: User, form: dict[str, Any]) -> None:
    client.force_login(bob)
    assert "No project to make desktops in" in client.get(NEW).content.decode()
    assert client.post(NEW, {**form, "step": "make"}).status_code == 403
    assert "New deployment" not in client.get("/deployments/").content.decode()


def test_the_wall_shows_each_in_its_state(teacher: Client, deployment: Deployment, dana: User) -> None:
    off: dict[str, Any] = {"power_state": PowerState.SHUT_OFF, "console_socket": ""}
    Machine.objects.filter(seat__label="Mia").update(**off, status=Status.BUILDING, task=Task.BUILDING)
    Machine.objects.filter(seat__label="Noah").update(**off, status=Status.ERROR, error_message="Storage is full.")
    Machine.objects.filter(seat__label="emil@example.org").update(status=Status.DELETED)
    Job.objects.filter(target_id=seat_of(deployment, "Mia").machine_id or "").update(status="running")
    machine = seat_of(deployment, "dana").machine
    ConsoleSession.objects.create(user=dana, user_name="dana", machine=machine, mode="control")
    text = teacher.get(page(deployment)).content.decode()
    for words in ("at the screen", "Building", "Storage is full.", "It was deleted. Start makes a new one.", "no link"):
        assert words in text, words
    for words in ("1 running", "1 busy", "1 failed", "1 without a desktop", "4 people"):
        assert words in text, words
    part = teacher.get(page(deployment) + "?state=failed", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part and "Storage is full." in part and "dana" not in part
    assert "Nobody matches" in teacher.get(page(deployment) + "?q=nobody").content.decode()


def test_a_viewer_sees_the_wall_and_no_buttons(client: Client, deployment: Deployment, vera: User) -> None:
    client.force_login(vera)
    text = client.get(page(deployment)).content.decode()
    assert "Watch" in text
    for words in ("Reset…", "Shut down", "Control", "Message to all", "Add people", "Delete this deployment", "Links"):
        assert words not in text, words
    seat = seat_of(deployment, "dana")
    step = reverse("deployments:seat-step", args=[seat.pk])
    assert client.post(step, {"mode": "control"}).status_code == 403
    assert client.post(step, {"mode": "view"})["Location"].endswith("/screen/?watch=1")


@pytest.mark.parametrize(("days", "words"), [(0, "the project has no bin"), (7, "bin for 7 days")])
def test_what_loses_something_is_asked_once_more(
    teacher: Client, deployment: Deployment, days: int, words: str
) -> None:
    Project.objects.update(bin_days=days)
    seat = seat_of(deployment, "Mia")
    before = Job.objects.count()
    reset = teacher.post(page(deployment, "act"), {"action": "reset"}).content.decode()
    assert "Everything that these people saved on their desktops is lost" in reset and "Reset: 4 desktops?" in reset
    one = teacher.post(page(deployment, "act"), {"action": "remove", "seat": str(seat.pk)}).content.decode()
    assert words in one and "Mia" in one and "Noah" not in one
    assert words in teacher.get(page(deployment, "delete")).content.decode()
    assert Job.objects.count() == before and deployment.seats.count() == 4
    done = teacher.post(page(deployment, "act"), {"action": "remove", "seat": str(seat.pk), "sure": "yes"})
    assert done["Location"] == page(deployment) and deployment.seats.count() == 3


def test_refusals_are_read_one_by_one(teacher: Client, deployment: Deployment) -> None:
    Machine.objects.filter(seat__label="Mia").update(task=Task.REBOOTING)
    answer = teacher.post(page(deployment, "act"), {"action": "stop"}, follow=True)
    assert answer.redirect_chain[0][0].startswith("/machines/many/")
    assert "lab-3 is busy" in answer.content.decode()
    answer = teacher.post(page(deployment, "act"), {"action": "reset", "sure": "yes"}, follow=True)
    assert "Reset from the image" in answer.content.decode()


@pytest.mark.parametrize("wrong", [{"action": "explode"}, {"action": "stop", "request_key": "x"}])
def test_what_cannot_be_asked_is_refused(teacher: Client, deployment: Deployment, wrong: dict[str, str]) -> None:
    assert teacher.post(page(deployment, "act"), wrong).status_code == 422


def test_a_seat_of_another_deployment_is_not_asked_along(
    teacher: Client, deployment: Deployment, room: Project, plan: Plan
) -> None:
    other = Deployment.objects.create(
        project=room, name="Other", prefix="o", image_version=plan.image_version, flavour=plan.flavour
    )
    seat = other.seats.create(number=1, label="Zoe")
    for named in (str(seat.pk), "nonsense"):
        assert teacher.post(page(deployment, "act"), {"action": "stop", "seat": named}).status_code == 404
    assert not Job.objects.filter(name="machine.stop").exists()


def test_a_message_and_its_end(teacher: Client, deployment: Deployment) -> None:
    assert teacher.post(page(deployment, "message"), {"text": " "}).status_code == 422
    assert teacher.post(page(deployment, "message"), {"text": "x" * 501}).status_code == 422
    teacher.post(page(deployment, "message"), {"text": "<b>Now</b>"})
    machine = seat_of(deployment, "dana").machine
    panel = teacher.get(f"/machines/{machine.pk if machine else ''}/screen/people/").content.decode()
    assert 'data-notice="&lt;b&gt;Now&lt;/b&gt;" data-notice-by="alice"' in panel
    teacher.post(page(deployment, "message"), {"away": "yes"})
    assert not ScreenNotice.objects.exists()


def test_stepping_in_is_written_down_and_told(
    client: Client, teacher: Client, deployment: Deployment, dana: User
) -> None:
    seat = seat_of(deployment, "dana")
    step = reverse("deployments:seat-step", args=[seat.pk])
    assert teacher.post(step, {"mode": "view"})["Location"] == f"/machines/{seat.machine_id}/screen/?watch=1"
    assert teacher.post(step, {"mode": "control"})["Location"] == f"/machines/{seat.machine_id}/screen/?take=1"
    assert Event.objects.filter(action="deployment.step_in").count() == 2
    alice = User.objects.get(username="alice")
    for user, mode in ((dana, "control"), (alice, "view")):
        ConsoleSession.objects.create(user=user, user_name=user.username, machine=seat.machine, mode=mode)
    client.force_login(dana)
    panel = client.get(f"/machines/{seat.machine_id}/screen/people/").content.decode()
    assert 'data-watching="alice"' in panel
    client.force_login(alice)
    assert 'data-watching=""' in client.get(f"/machines/{seat.machine_id}/screen/people/").content.decode()


def test_links_stand_on_one_page_once(teacher: Client, deployment: Deployment) -> None:
    deployment.seats.filter(label="Mia").update(label='=HYPERLINK("x")')
    made = teacher.post(page(deployment, "links"), {"lifetime": "1d"})
    table = made.context["table"].splitlines()
    assert len(table) == 2 and table[0].startswith('"\'=HYPERLINK(""x"")",http://testserver/deployments/shared/')
    assert "no-store" in made["Cache-Control"]
    later = teacher.get(page(deployment, "links")).content.decode()
    assert "shared/" not in later and "The link works until" in later
    assert teacher.post(page(deployment, "links"), {"lifetime": "9y"}).status_code == 422
    dana = seat_of(deployment, "dana")
    assert teacher.post(page(deployment, "links"), {"lifetime": "1d", "seat": str(dana.pk)}).status_code == 409


def test_people_are_added_on_their_page(teacher: Client, deployment: Deployment) -> None:
    assert "There is room for" in teacher.get(page(deployment, "people")).content.decode()
    answer = teacher.post(page(deployment, "people"), {"people": "Mia\nZoe", "whole": "yes"}, follow=True)
    assert "1 person was added." in answer.content.decode()
    again = teacher.post(page(deployment, "people"), {"people": "Zoe", "whole": "yes"}, follow=True)
    assert "All of them have a desktop here already." in again.content.decode()
    Project.objects.update(max_machines=5)
    full = teacher.post(page(deployment, "people"), {"people": "Kim", "whole": "yes"})
    assert full.status_code == 422 and "none was made" in full.content.decode()
