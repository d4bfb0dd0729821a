"""The pages of volumes, and of a machine's disks and cards: who sees what, and what the forms do."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import PowerState, Task
from portal.volumes.models import Volume
from portal.volumes.states import Status
from tests.support.xss import CORPUS, faults

LIST = reverse("volumes:list")
NEW = reverse("volumes:new")
HTMX = {"HX-Request": "true", "Accept": "application/json"}


@pytest.fixture
def volume(project: Project, host: Host) -> Volume:
    return Volume.objects.create(project=project, name="data", host=host, size_gib=1, status=Status.AVAILABLE)


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def of(view: str, row: Volume | Machine) -> str:
    return reverse(view, args=[row.pk])


def test_an_empty_list_says_what_to_do(client: Client, alice: User, vera: User) -> None:
    client.force_login(alice)
    page = text(client, LIST)
    assert "No volumes yet" in page and NEW in page
    client.force_login(vera)
    page = text(client, LIST)
    assert "No volumes yet" in page and NEW not in page


def test_each_sees_the_volumes_of_their_projects(client: Client, volume: Volume, vera: User, charlie: User) -> None:
    client.force_login(vera)
    assert "data" in text(client, LIST)
    assert "No volume matches" in text(client, LIST + "?q=other")
    assert "No volume matches" in text(client, LIST + "?status=in_use")
    client.force_login(charlie)
    assert of("volumes:detail", volume) not in text(client, LIST)


def test_a_new_volume_is_asked_for_and_errors_stand_at_the_field(
    client: Client, alice: User, project: Project, host: Host
) -> None:
    client.force_login(alice)
    assert 'value="disk-1"' in text(client, NEW)
    form = {"project": project.pk, "name": "data", "size_gib": "61", "request_key": uuid4()}
    refused = client.post(NEW, form)
    assert refused.status_code == 422
    assert "no room for this disk" in refused.content.decode()
    assert client.post(NEW, {**form, "size_gib": "0"}).status_code == 422
    assert client.post(NEW, {**form, "size_gib": "2", "name": "<b>"}).status_code == 422
    made = client.post(NEW, {**form, "size_gib": "2"})
    assert made["Location"] == of("volumes:detail", Volume.objects.get())
    assert "Being made" in text(client, made["Location"])


def test_the_projects_page_says_what_its_volumes_take(
    client: Client, alice: User, project: Project, volume: Volume
) -> None:
    client.force_login(alice)
    page = text(client, reverse("accounts:project", args=[project.pk]))
    assert "1 volume<" in page and "with 1 GiB of disk" in page
    assert "the whole quota is free" not in page


def test_nobody_without_a_project_makes_a_volume(client: Client, vera: User) -> None:
    client.force_login(vera)
    assert "No project to make a volume in" in text(client, NEW)
    assert client.post(NEW).status_code == 403


def test_a_viewer_finds_no_button(client: Client, volume: Volume, machine: Machine, vera: User, alice: User) -> None:
    for person, there in ((alice, True), (vera, False)):
        client.force_login(person)
        page = text(client, of("volumes:detail", volume))
        assert (of("volumes:grow", volume) in page) == (of("volumes:delete", volume) in page) == there
        page = text(client, of("machines:detail", machine))
        assert "Root disk" in page and machine.mac in page
        assert (of("machines:disk-new", machine) in page) == (of("machines:card-add", machine) in page) == there


@pytest.mark.parametrize("name", CORPUS)
def test_names_are_text(client: Client, volume: Volume, machine: Machine, alice: User, name: str) -> None:
    """Whatever got past the check on what is typed."""
    Volume.objects.update(name=name[:63], status=Status.IN_USE, error_message=name)
    Attachment.objects.create(machine=machine, volume=volume)
    client.force_login(alice)
    for path in (
        LIST,
        of("volumes:detail", volume),
        of("machines:detail", machine),
        of("machines:confirm-delete", machine),
    ):
        assert faults(text(client, path)) == []


def test_the_machines_page_shows_its_disks_and_cards(
    client: Client, volume: Volume, machine: Machine, alice: User
) -> None:
    Volume.objects.update(status=Status.IN_USE)
    Attachment.objects.create(machine=machine, volume=volume, iops=500, bytes_per_s=20 << 20, boot=1)
    NetworkCard.objects.create(machine=machine, mac="52:54:00:00:00:77", addresses=["10.213.0.99"])
    client.force_login(alice)
    page = text(client, of("machines:detail", machine))
    for words in ("500 operations/s", "20 MiB/s", "starts from it", volume.serial, "52:54:00:00:00:77", "10.213.0.99"):
        assert words in page, words
    assert "Make it larger" not in text(client, of("volumes:detail", volume)), "it grows by way of the machine"
    Machine.objects.update(task=Task.DETACHING)
    page = text(client, of("machines:detail", machine))
    assert of("machines:disk-detach", machine) not in page
    Machine.objects.update(task="", power_state=PowerState.PAUSED)
    assert "can be changed while the machine runs" in text(client, of("machines:detail", machine))


def test_volumes_on_other_hosts_are_not_offered_and_it_is_said(
    client: Client, volume: Volume, machine: Machine, alice: User
) -> None:
    client.force_login(alice)
    page = text(client, of("machines:detail", machine))
    assert f'value="{volume.pk}"' in page and "lies on another host" not in page
    Volume.objects.update(host=Host.objects.create(name="far", uri="fake://far", pool_dir="/x"))
    page = text(client, of("machines:detail", machine))
    assert f'value="{volume.pk}"' not in page and "1 free volume of the project lies on another host" in page


def test_a_button_is_answered_at_once_and_refused_in_words(
    client: Client, volume: Volume, machine: Machine, alice: User
) -> None:
    client.force_login(alice)
    path = of("machines:disk-attach", machine)
    assert client.post(path, {"volume": volume.pk}, headers=HTMX).status_code == 204
    assert Job.objects.get().name == "disk.attach"
    refused = client.post(of("machines:disk-grow", machine), {"disk": "root", "size_gib": "20"}, headers=HTMX)
    assert refused.status_code == 409
    assert "attaching a disk" in refused.json()["message"]


@pytest.mark.parametrize("size", ["", "-1", "1.5", "1e3", "٣", "9" * 30, "ten"])
def test_what_is_no_number_is_refused(client: Client, machine: Machine, alice: User, size: str) -> None:
    client.force_login(alice)
    answer = client.post(of("machines:disk-grow", machine), {"disk": "root", "size_gib": size}, headers=HTMX)
    assert answer.status_code == 422
    assert not Job.objects.exists()


def test_deleting_a_machine_asks_what_becomes_of_its_volumes(
    client: Client, volume: Volume, machine: Machine, alice: User, project: Project, host: Host
) -> None:
    other = Volume.objects.create(project=project, name="scratch", host=host, size_gib=1, status=Status.IN_USE)
    Volume.objects.update(status=Status.IN_USE)
    Attachment.objects.create(machine=machine, volume=volume)
    Attachment.objects.create(machine=machine, volume=other, delete_with_machine=True)
    client.force_login(alice)
    page = text(client, of("machines:confirm-delete", machine))
    assert "Delete data (1 GiB) too" in page and page.count("checked") == 1
    form = {"volumes_asked": "yes", "delete_volume": [str(volume.pk), "rubbish", str(uuid4())]}
    client.post(of("machines:delete", machine), form)
    kept = dict(Attachment.objects.values_list("volume__name", "delete_with_machine"))
    assert kept == {"data": True, "scratch": False}


def test_where_there_is_a_bin_the_choice_is_for_those_who_may_delete_past_it(
    client: Client, volume: Volume, machine: Machine, alice: User, bob: User, project: Project, host: Host
) -> None:
    Project.objects.update(bin_days=7)
    other = Volume.objects.create(project=project, name="scratch", host=host, size_gib=1)
    Volume.objects.update(status=Status.IN_USE)
    Attachment.objects.create(machine=machine, volume=volume)
    Attachment.objects.create(machine=machine, volume=other, delete_with_machine=True)
    confirm, delete = of("machines:confirm-delete", machine), of("machines:delete", machine)
    client.force_login(bob)
    page = text(client, confirm)
    assert "Its volumes stay attached" in page and "delete_volume" not in page
    client.force_login(alice)
    page = text(client, confirm)
    assert "Delete data (1 GiB) too" in page and page.count("checked") == 1
    form = {"volumes_asked": "yes", "delete_volume": [str(volume.pk)]}
    client.post(delete, form)
    assert Job.objects.get().name == "machine.bin"
    kept = dict(Attachment.objects.values_list("volume__name", "delete_with_machine"))
    assert kept == {"data": False, "scratch": True}, "it was not deleted for good"
    Machine.objects.update(task="")
    Job.objects.all().delete()
    client.post(delete, form | {"purge": "yes"})
    assert Job.objects.get().name == "machine.delete"
    kept = dict(Attachment.objects.values_list("volume__name", "delete_with_machine"))
    assert kept == {"data": True, "scratch": False}


def test_the_bin_says_what_becomes_of_volumes_and_they_say_where_they_are(
    client: Client, volume: Volume, machine: Machine, alice: User, project: Project, host: Host
) -> None:
    other = Volume.objects.create(project=project, name="scratch", host=host, size_gib=1)
    Volume.objects.update(status=Status.IN_USE)
    Attachment.objects.create(machine=machine, volume=volume)
    Attachment.objects.create(machine=machine, volume=other, delete_with_machine=True)
    Machine.objects.update(status="binned", power_state=PowerState.SHUT_OFF)
    client.force_login(alice)
    page = text(client, of("machines:bin-purge", machine))
    assert "data (1 GiB) stays" in page and "scratch (1 GiB) is deleted too" in page
    assert "delete_volume" not in page
    assert "it is in the bin" in text(client, of("volumes:detail", volume))
    assert "(in the bin)" in text(client, LIST)


def test_the_page_of_a_hibernated_machine_offers_no_change_of_its_devices(
    client: Client, volume: Volume, machine: Machine, alice: User
) -> None:
    client.force_login(alice)
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    page = text(client, of("machines:detail", machine))
    assert of("machines:disk-attach", machine) in page and of("machines:card-add", machine) in page
    Machine.objects.update(saved_at=timezone.now())
    page = text(client, of("machines:detail", machine))
    assert of("machines:disk-attach", machine) not in page and of("machines:card-add", machine) not in page
    assert "It is hibernated" in page
    answer = client.post(of("machines:disk-attach", machine), {"volume": volume.pk}, headers=HTMX)
    assert answer.status_code == 409 and "is hibernated" in answer.json()["message"]
