"""Volumes, disks and network cards through the API; the rules themselves are tried in tests/portal/volumes."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.machines import cards, disks
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import Task
from portal.volumes import services
from portal.volumes.models import Volume
from portal.volumes.states import Status
from tests.portal.api.conftest import MakeProgram, Program


@pytest.fixture
def volume(project: Project, host: Host) -> Volume:
    return Volume.objects.create(project=project, name="data", host=host, size_gib=1, status=Status.AVAILABLE)


@pytest.fixture
def attachment(machine: Machine, volume: Volume) -> Attachment:
    Volume.objects.update(status=Status.IN_USE)
    return Attachment.objects.create(machine=machine, volume=volume)


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["field"]


# --- volumes ------------------------------------------------------------------------------------------------------


def test_a_volumes_whole_life(program: MakeProgram, alice: User, project: Project, host: Host) -> None:
    mine = program(alice)
    made = mine.post("volumes", {"project": str(project.pk), "size_gib": 2}, Idempotency_Key="one")
    assert (made.status_code, made.json()["kind"]) == (202, "volume.create"), made.content
    path = f"volumes/{made.json()['target']['id']}"
    assert (
        mine.post("volumes", {"project": str(project.pk), "size_gib": 2}, Idempotency_Key="one").json() == made.json()
    )
    shown = mine.get(path)
    assert (shown.json()["name"], shown.json()["status"], shown.json()["task"]) == ("disk-1", "creating", "creating")
    assert shown.json()["job"] == made.json()["id"]
    assert mine.post(f"{path}/grow", {"size_gib": 3}).status_code == 409
    services.record_created(Volume.objects.get())
    Job.objects.all().delete()
    assert mine.post(f"{path}/grow", {"size_gib": 3}, If_Match=shown["ETag"]).status_code == 412
    assert refused(mine.post(f"{path}/grow", {"size_gib": 2})) == (422, "size_gib")
    grown = mine.post(f"{path}/grow", {"size_gib": 3}, If_Match=mine.get(path)["ETag"])
    assert (grown.status_code, grown.json()["kind"]) == (202, "volume.grow"), grown.content
    assert mine.get(path).json()["wanted_gib"] == 3
    services.record_grown(Volume.objects.get())
    Job.objects.all().delete()
    assert mine.get(path).json()["size_gib"] == 3
    assert mine.send("DELETE", path).json()["kind"] == "volume.delete"
    services.record_deleted(Volume.objects.get())
    assert mine.get(path).status_code == 404
    assert mine.get("volumes").json()["items"] == []


def test_a_name_that_is_taken_is_refused_and_another_chosen(
    program: MakeProgram, alice: User, vera: User, project: Project, volume: Volume
) -> None:
    wanted = {"project": str(project.pk), "size_gib": 1, "name": "data"}
    assert refused(program(alice).post("volumes", wanted)) == (409, "name")
    assert program(vera).post("volumes", wanted | {"name": "other"}).status_code == 403
    assert refused(program(alice).post("volumes", wanted | {"size_gib": 0})) == (422, "size_gib")
    assert Volume.objects.count() == 1


def test_volumes_are_listed_by_what_they_are_and_who_has_them(
    program: MakeProgram, alice: User, charlie: User, operator: User, machine: Machine, attachment: Attachment
) -> None:
    far = Host.objects.create(name="far", uri="fake://far", pool_dir="/nowhere", network_mode="nat")
    for name, host, status in (("here", machine.host, Status.AVAILABLE), ("there", far, Status.AVAILABLE)):
        Volume.objects.create(project=machine.project, name=name, host=host, size_gib=1, status=status)
    mine = program(alice)

    def names(query: str, asker: Program = mine) -> list[str]:
        return sorted(one["name"] for one in asker.get(f"volumes?{query}").json()["items"])

    assert names("") == ["data", "here", "there"]
    assert names("q=HER") == ["here", "there"]
    assert names("name=her") == []
    assert names("name=here") == ["here"]
    assert names("status=in_use") == ["data"]
    assert names(f"project={machine.project_id}&sort=-name&limit=1") == ["there"]
    assert names(f"project={uuid4()}") == []
    assert names(f"machine={machine.pk}") == ["data"]
    assert names(f"free_for={machine.pk}") == ["here"]
    assert names("", program(charlie)) == []
    assert program(charlie).get(f"volumes?free_for={machine.pk}").status_code == 404
    shown = mine.get(f"volumes/{attachment.volume_id}").json()
    held = {"machine": {"id": str(machine.pk), "name": "beacon"}, "disk": str(attachment.pk)}
    assert shown["attached"] == held | {"delete_with_machine": False}
    assert shown["host"] is None
    assert program(operator).get(f"volumes/{attachment.volume_id}").json()["host"]["name"] == machine.host.name


# --- disks of machines --------------------------------------------------------------------------------------------


def test_a_volume_is_attached_and_detached(
    program: MakeProgram, alice: User, vera: User, machine: Machine, volume: Volume
) -> None:
    mine = program(alice)
    path = f"machines/{machine.pk}/disks"
    etag = mine.get(path)["ETag"]
    wanted = {"volume": str(volume.pk), "delete_with_machine": True}
    assert program(vera).post(path, wanted).status_code == 403
    asked = mine.post(path, wanted, If_Match=etag)
    assert (asked.status_code, asked.json()["kind"]) == (202, "disk.attach"), asked.content
    root, data = mine.get(path).json()["items"]
    assert (root["id"], root["volume"], root["is_first"], root["delete_with_machine"]) == ("root", None, True, True)
    assert (data["name"], data["task"], data["delete_with_machine"]) == ("data", "adding", True)
    assert data["volume"] == str(volume.pk) and data["serial"] == volume.serial
    disks.record_attached(machine)
    Job.objects.all().delete()
    assert mine.send("DELETE", f"{path}/{data['id']}", If_Match=etag).status_code == 412
    assert mine.send("DELETE", f"{path}/root").status_code == 422
    assert mine.send("DELETE", f"{path}/nothing").status_code == 404
    assert mine.send("DELETE", f"{path}/{data['id']}").json()["kind"] == "disk.detach"
    assert [one["task"] for one in mine.get(path).json()["items"]] == [None, "removing"], "it is there until it is gone"
    disks.record_detached(machine)
    assert [one["id"] for one in mine.get(path).json()["items"]] == ["root"]
    assert mine.get(f"volumes/{volume.pk}").json()["status"] == "available"


def test_a_new_disk_is_made_and_attached_by_one_request(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine = program(alice)
    path = f"machines/{machine.pk}/disks"
    assert refused(mine.post(path, {})) == (422, "volume")
    assert refused(mine.post(path, {"volume": str(uuid4()), "size_gib": 1})) == (422, "volume")
    asked = mine.post(path, {"size_gib": 2})
    assert (asked.status_code, asked.json()["kind"]) == (202, "disk.attach"), asked.content
    [_root, made] = mine.get(path).json()["items"]
    assert (made["name"], made["size_gib"]) == ("disk-1", 2)


def test_a_volume_of_another_project_is_none(
    program: MakeProgram, alice: User, charlie: User, machine: Machine, volume: Volume
) -> None:
    Volume.objects.update(project=charlie.memberships.get().project)
    asked = program(alice).post(f"machines/{machine.pk}/disks", {"volume": str(volume.pk)})
    assert asked.status_code == 404
    assert not Attachment.objects.exists()


def test_a_disk_grows_and_is_limited(
    program: MakeProgram, alice: User, machine: Machine, attachment: Attachment
) -> None:
    mine = program(alice)
    path = f"machines/{machine.pk}/disks"
    for disk, size_gib in ((str(attachment.pk), 5), ("root", 20)):
        asked = mine.post(f"{path}/{disk}/grow", {"size_gib": size_gib})
        assert (asked.status_code, asked.json()["kind"]) == (202, "disk.grow"), asked.content
        disks.record_grown(machine)
        limited = mine.send("PUT", f"{path}/{disk}/limits", {"iops": 500, "mib_per_s": 20})
        assert (limited.status_code, limited.json()["kind"]) == (202, "disk.limits"), limited.content
        disks.record_limited(machine)
        Job.objects.all().delete()
    found = [(one["size_gib"], one["iops"], one["mib_per_s"]) for one in mine.get(path).json()["items"]]
    assert found == [(20, 500, 20), (5, 500, 20)]
    assert refused(mine.post(f"{path}/root/grow", {"size_gib": 20})) == (422, "size_gib")
    assert mine.send("PUT", f"{path}/root/limits", {"iops": -1}).status_code == 422
    assert mine.send("PUT", f"{path}/root/limits", {}).status_code == 202
    assert mine.get(path).json()["items"][0]["iops"] == 0


def test_which_disk_is_first_and_which_goes_with_the_machine(
    program: MakeProgram, alice: User, machine: Machine, attachment: Attachment
) -> None:
    mine = program(alice)
    path = f"machines/{machine.pk}/disks"
    first = mine.post(f"{path}/{attachment.pk}/first", If_Match=mine.get(path)["ETag"])
    assert [one["is_first"] for one in first.json()["items"]] == [False, True], first.content
    assert first["ETag"] == mine.get(path)["ETag"], "what came with the answer lets the next change in"
    goes = mine.send("PATCH", f"{path}/{attachment.pk}", {"delete_with_machine": True}, If_Match=first["ETag"])
    assert goes.json()["items"][1]["delete_with_machine"] is True, goes.content
    assert mine.send("PATCH", f"{path}/root", {"delete_with_machine": False}).status_code == 422
    assert mine.post(f"{path}/root/first").json()["items"][0]["is_first"] is True


# --- network cards ------------------------------------------------------------------------------------------------


def test_a_card_is_added_and_removed_and_shows_its_addresses(
    program: MakeProgram, alice: User, vera: User, machine: Machine
) -> None:
    mine = program(alice)
    path = f"machines/{machine.pk}/cards"
    assert program(vera).post(path).status_code == 403
    assert mine.post(path, If_Match=mine.get(path)["ETag"]).json()["kind"] == "card.add"
    cards.record_added(machine)
    Job.objects.all().delete()
    card = NetworkCard.objects.get()
    NetworkCard.objects.update(addresses=["10.0.0.9"])
    Machine.objects.update(addresses=["10.0.0.8", "10.0.0.9"])
    first, second = mine.get(path).json()["items"]
    assert first == {"id": None, "mac": machine.mac, "addresses": ["10.0.0.8"], "task": None}
    assert second == {"id": str(card.pk), "mac": card.mac, "addresses": ["10.0.0.9"], "task": None}
    assert mine.send("DELETE", f"{path}/{uuid4()}").status_code == 404
    assert mine.send("DELETE", f"{path}/{card.pk}").json()["kind"] == "card.remove"
    assert mine.get(path).json()["items"][1]["task"] == "removing"


# --- what goes with a machine -------------------------------------------------------------------------------------


@pytest.fixture
def two(machine: Machine, attachment: Attachment) -> tuple[Attachment, Attachment]:
    """The first stays with what was said of it, the second goes."""
    other = Volume.objects.create(
        project=machine.project, name="logs", host=machine.host, size_gib=1, status=Status.IN_USE
    )
    return attachment, Attachment.objects.create(machine=machine, volume=other, delete_with_machine=True)


@pytest.mark.parametrize(
    ("query", "goes"),
    [("", [False, True]), ("keep_volumes=true", [False, False]), ("volume={0}", [True, False])],
)
def test_it_is_chosen_which_volumes_go_with_a_machine(
    program: MakeProgram,
    alice: User,
    machine: Machine,
    two: tuple[Attachment, Attachment],
    query: str,
    goes: list[bool],
) -> None:
    query = query.format(*(one.volume_id for one in two))
    job = program(alice).send("DELETE", f"machines/{machine.pk}?{query}")
    assert (job.status_code, job.json()["kind"]) == (202, "machine.delete"), job.content
    assert [Attachment.objects.get(pk=one.pk).delete_with_machine for one in two] == goes


def test_a_choice_that_cannot_be_is_refused(
    program: MakeProgram, alice: User, machine: Machine, two: tuple[Attachment, Attachment]
) -> None:
    mine, path, volume = program(alice), f"machines/{machine.pk}", two[0].volume_id
    assert refused(mine.send("DELETE", f"{path}?volume={uuid4()}")) == (422, "volume")
    assert refused(mine.send("DELETE", f"{path}?volume={volume}&keep_volumes=true")) == (422, "keep_volumes")
    Project.objects.update(bin_days=7)
    assert refused(mine.send("DELETE", f"{path}?volume={volume}")) == (422, "volume")
    machine.refresh_from_db()
    assert machine.task == Task.NONE
    assert mine.send("DELETE", f"{path}?volume={volume}&purge=true").json()["kind"] == "machine.delete"
