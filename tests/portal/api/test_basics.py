"""The thinnest way through: a token, a machine, a job."""

from __future__ import annotations

from portal.accounts.models import User
from portal.audit.models import Event
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines.models import Flavour, Machine
from tests.portal.api.conftest import MakeProgram


def test_a_token_tells_whose_it_is(program: MakeProgram, alice: User) -> None:
    answer = program(alice).get("me")
    assert answer.status_code == 200, answer.content
    assert answer.json()["username"] == "alice"
    assert answer.json()["token"]["hint"].startswith("casement_")


def test_a_machine_is_stopped_by_a_job_that_can_be_asked_for(
    program: MakeProgram, alice: User, machine: Machine
) -> None:
    answer = program(alice).post(f"machines/{machine.pk}/stop")
    assert answer.status_code == 202, answer.content
    job = Job.objects.get()
    assert answer["Location"] == f"/api/v1/jobs/{job.pk}"
    assert answer.json()["id"] == str(job.pk)
    shown = program(alice).get(f"jobs/{job.pk}").json()
    assert (shown["kind"], shown["status"], shown["finished_at"]) == ("machine.stop", "queued", None)
    assert [step["name"] for step in shown["steps"]] == ["ask_shut_down", "wait_off"]
    machine.refresh_from_db()
    assert machine.task == "stopping"
    assert Event.objects.filter(action="machine.stop", actor=alice).exists()


def test_a_machine_is_launched(
    program: MakeProgram, alice: User, machine: Machine, image_version: ImageVersion, flavour: Flavour
) -> None:
    body = {"project": str(machine.project_id), "image": str(image_version.image_id), "flavour": "small"}
    answer = program(alice).post("machines", body)
    assert answer.status_code == 202, answer.content
    made = Machine.objects.get(pk=answer.json()["target"]["id"])
    assert (made.name, made.login_user, made.owner) == ("server-1", "alice", alice)
