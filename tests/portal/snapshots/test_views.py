"""The pages of a machine's snapshots: what they say, who may do what, and what the forms do."""

from __future__ import annotations

import json

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import User
from portal.jobs.models import Job
from portal.machines.models import Machine
from portal.machines.states import PowerState, Task
from portal.snapshots.models import Snapshot, SnapshotSchedule, SnapshotVolume
from portal.snapshots.states import Status
from portal.volumes.models import Volume
from tests.portal.test_every_url import snapshot_of
from tests.support.xss import CORPUS, faults

HTMX = {"HX-Request": "true", "Accept": "application/json"}


@pytest.fixture
def snapshot(machine: Machine, alice: User) -> Snapshot:
    return snapshot_of(machine, alice)


def place(machine: Machine) -> str:
    return reverse("snapshots:machine", args=[machine.pk])


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_machines_page_has_a_place_for_them_that_fills_itself(
    client: Client, alice: User, machine: Machine
) -> None:
    client.force_login(alice)
    page = text(client, reverse("machines:detail", args=[machine.pk]))
    assert f'hx-get="{place(machine)}"' in page
    part = client.get(place(machine), headers=HTMX).content.decode()
    assert part.lstrip().startswith("<section") and "None yet" in part


def test_without_any_it_says_what_they_are_for_and_offers_the_first(
    client: Client, alice: User, vera: User, machine: Machine
) -> None:
    client.force_login(alice)
    page = text(client, place(machine))
    assert "None yet" in page and "Take it" in page and "With its memory" in page
    client.force_login(vera)
    page = text(client, place(machine))
    assert "None yet" in page and "Take it" not in page and "Take them by themselves" not in page


def test_a_machine_that_is_off_or_hibernated_is_offered_what_it_can_have(
    client: Client, alice: User, machine: Machine
) -> None:
    client.force_login(alice)
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    page = text(client, place(machine))
    assert "Take it" in page and "With its memory" not in page and "It is off" in page
    Machine.objects.update(saved_at=timezone.now())
    page = text(client, place(machine))
    assert "Take it" not in page and "It is hibernated" in page
    Machine.objects.update(saved_at=None, power_state=PowerState.UNKNOWN)
    assert "Its host does not answer" in text(client, place(machine))


def test_each_says_what_is_in_it_and_where_the_machine_is(
    client: Client, alice: User, machine: Machine, snapshot: Snapshot
) -> None:
    volume = Volume.objects.create(project=machine.project, name="data", host=machine.host, size_gib=1)
    SnapshotVolume.objects.create(snapshot=snapshot, volume=volume, size_gib=1)
    client.force_login(alice)
    for values, words in (
        ({"was_running": False}, "taken while it was off"),
        ({"was_running": True}, "kept its file systems still"),
        ({"quiesced": False}, "as after a power cut"),
        ({"with_memory": True, "memory_bytes": 512 << 20}, "disks and memory (512"),
        ({"status": Status.CREATING, "task": "taking"}, "being taken"),
    ):
        Snapshot.objects.update(**values)
        page = text(client, place(machine))
        assert words in page and "data" in page, words
    assert "You are here" in page
    Snapshot.objects.update(is_current=False)
    assert "You are here" in text(client, place(machine)), "it is at the beginning"


def test_buttons_are_there_for_who_may_press_them(
    client: Client, alice: User, vera: User, machine: Machine, snapshot: Snapshot
) -> None:
    restore = reverse("snapshots:restore", args=[snapshot.pk])
    client.force_login(vera)
    assert restore not in text(client, place(machine))
    assert client.get(restore).status_code == 403
    client.force_login(alice)
    page = text(client, place(machine))
    assert restore in page and "Delete this snapshot" in page
    Machine.objects.update(task=Task.STOPPING)
    page = text(client, place(machine))
    assert restore not in page and "Delete this snapshot" not in page


def test_taking_one_answers_at_once_with_and_without_scripts(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    take = reverse("snapshots:machine-take", args=[machine.pk])
    answer = client.post(take, {"name": "before", "with_memory": "yes"}, headers=HTMX)
    assert answer.status_code == 204
    assert json.loads(answer["HX-Trigger"])["casement:changed"]["topics"] == [f"machine:{machine.pk}"]
    made = Snapshot.objects.get()
    assert (made.name, made.with_memory, made.status, made.held_gib) == ("before", True, Status.CREATING, 1)
    assert client.post(take, {"name": "before"})["Location"] == place(machine)
    assert Job.objects.get().name == "snapshot.take"
    assert "being taken" in text(client, place(machine))


def test_a_name_that_nobody_could_read_is_refused(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    take = reverse("snapshots:machine-take", args=[machine.pk])
    assert client.post(take, {"name": "<b>"}, headers=HTMX).status_code == 422
    assert client.post(take, {"name": "x" * 64}, headers=HTMX).status_code == 422
    assert not Snapshot.objects.exists()


def test_the_page_before_a_restore_says_what_will_be_lost(
    client: Client, alice: User, machine: Machine, snapshot: Snapshot
) -> None:
    client.force_login(alice)
    path = reverse("snapshots:restore", args=[snapshot.pk])
    page = text(client, path)
    assert "Everything that was written to its disks since then is lost." in page
    assert "Its power is cut first" in page and 'name="take_first"' in page and "It is off then." in page
    answer = client.post(path, {"take_first": "yes"})
    assert answer["Location"] == reverse("machines:detail", args=[machine.pk])
    assert {one.name: one.task for one in Snapshot.objects.all()} == {
        "before the storm": "restoring",
        "before restoring before the storm": "taking",
    }
    Job.objects.all().delete()
    answer = client.post(path, {})
    assert answer.status_code == 422 and "busy" in answer.content.decode()


def test_what_cannot_be_restored_says_so_and_has_no_button(
    client: Client, alice: User, machine: Machine, snapshot: Snapshot
) -> None:
    volume = Volume.objects.create(
        project=machine.project, name="data", host=machine.host, size_gib=1, status="deleted", holds_quota=False
    )
    SnapshotVolume.objects.create(snapshot=snapshot, volume=volume, size_gib=1)
    client.force_login(alice)
    path = reverse("snapshots:restore", args=[snapshot.pk])
    page = text(client, path)
    assert "has been deleted, so it cannot be restored" in page and "disabled" in page
    assert client.post(path, {}).status_code == 422
    machine.refresh_from_db()
    assert machine.task == Task.NONE


def test_a_schedule_is_set_shown_and_stopped(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    path = reverse("snapshots:machine-schedule", args=[machine.pk])
    weekly = {"every": "week", "at": "04:30", "weekday": "6", "keep": "4"}
    assert client.post(path, weekly, headers=HTMX).status_code == 204
    made = SnapshotSchedule.objects.get()
    assert (made.every, made.hour, made.minute, made.weekday, made.keep) == ("week", 4, 30, 6, 4)
    SnapshotSchedule.objects.update(problem="beacon is busy.")
    page = text(client, place(machine))
    assert "Every week" in page and "the newest 4 are kept" in page and "Not yet: beacon is busy." in page
    for wrong in ({"every": "year"}, {"at": "25:00"}, {"keep": "0"}, {"weekday": "8"}):
        assert client.post(path, {**weekly, **wrong}, headers=HTMX).status_code == 422, wrong
    stop = reverse("snapshots:machine-unschedule", args=[machine.pk])
    assert client.post(stop, {"every": "week"}, headers=HTMX).status_code == 204
    assert client.post(stop, {"every": "week"}, headers=HTMX).status_code == 404


@pytest.mark.parametrize("hostile", CORPUS)
def test_what_people_typed_is_text(
    client: Client, alice: User, machine: Machine, snapshot: Snapshot, hostile: str
) -> None:
    Snapshot.objects.update(name=hostile[:63], description=hostile)
    client.force_login(alice)
    for path in (place(machine), reverse("snapshots:restore", args=[snapshot.pk])):
        assert faults(text(client, path)) == [], path


def test_the_projects_page_says_what_their_memory_takes(client: Client, alice: User, snapshot: Snapshot) -> None:
    client.force_login(alice)
    path = reverse("accounts:project", args=[snapshot.machine.project_id])
    assert "The memory of" not in text(client, path)
    Snapshot.objects.update(held_gib=3)
    page = text(client, path)
    assert "The memory of 1 snapshot" in page and "takes 3 GiB of disk" in page


def test_a_machine_in_rescue_says_when_its_snapshots_can_be_had(
    client: Client, alice: User, machine: Machine, snapshot: Snapshot
) -> None:
    Machine.objects.update(rescue_version=machine.image_version)
    client.force_login(alice)
    page = text(client, place(machine))
    assert "It runs from a rescue system" in page and "Take it" not in page and "Delete this snapshot" not in page
    answer = client.post(reverse("snapshots:machine-take", args=[machine.pk]), {"name": "x"}, headers=HTMX)
    assert (answer.status_code, Snapshot.objects.count()) == (409, 1)
