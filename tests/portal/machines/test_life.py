"""Hibernating, another size, names and labels, passwords and keys: what is claimed, counted, refused and shown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.errors import ConflictError, ForbiddenError, InvalidError, NoCapacityError, QuotaExceededError
from portal.events import models as happened
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.lib.secrets import seal, unseal
from portal.machines import access, editing, hibernation, resizing, services, sizes
from portal.machines.models import Flavour, Machine, MachineLabel
from portal.machines.sizes import When
from portal.machines.states import PowerState, Status, Task

pytestmark = pytest.mark.django_db

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice@laptop"


@pytest.fixture
def counted(machine: Machine) -> Machine:
    """The machine as `request_machine` would have counted it."""
    held = machine.amount
    Project.objects.update(
        used_machines=1, used_vcpus=held.vcpus, used_memory_mib=held.memory_mib, used_disk_gib=held.disk_gib
    )
    Host.objects.update(reserved_vcpus=held.vcpus, reserved_memory_mib=held.memory_mib, reserved_disk_gib=held.disk_gib)
    Machine.objects.update(room_vcpus=4, room_memory_mib=1024)
    machine.refresh_from_db()
    return machine


def flavour_of(vcpus: int, memory_mib: int, name: str = "other") -> Flavour:
    return Flavour.objects.create(name=name, title=name.title(), vcpus=vcpus, memory_mib=memory_mib, disk_gib=99)


def used(project: Project) -> tuple[int, int, int, int]:
    project.refresh_from_db()
    host = Host.objects.get()
    reserved = (host.reserved_vcpus, host.reserved_memory_mib, host.reserved_disk_gib)
    found = (project.used_machines, project.used_vcpus, project.used_memory_mib, project.used_disk_gib)
    assert reserved == found[1:], "project and host count differently"
    return found


# --- hibernating ------------------------------------------------------------------------------------------------------


def test_saved_memory_counts_as_disk_until_it_is_gone(counted: Machine, alice: User, project: Project) -> None:
    hibernation.request_hibernate(counted, actor=alice)
    assert used(project) == (1, 1, 1024, 11)
    hibernation.record_hibernated(counted)
    counted.refresh_from_db()
    assert counted.is_hibernated
    assert (counted.power_state, counted.task, counted.console_socket) == (PowerState.SHUT_OFF, Task.NONE, "")
    for _ in range(2):
        hibernation.record_saved_gone(counted.pk)
    assert used(project) == (1, 1, 1024, 10)


def test_without_disk_in_the_quota_it_is_not_hibernated_and_nothing_is_claimed(counted: Machine, alice: User) -> None:
    Project.objects.update(max_disk_gib=10)
    with pytest.raises(QuotaExceededError):
        hibernation.request_hibernate(counted, actor=alice)
    counted.refresh_from_db()
    assert (counted.task, counted.saved_gib) == (Task.NONE, 0)
    assert not Job.objects.exists()


def test_hibernating_that_fails_gives_the_disk_back_once(counted: Machine, alice: User, project: Project) -> None:
    hibernation.request_hibernate(counted, actor=alice)
    for _ in range(2):
        hibernation.record_not_hibernated(counted, message="The disk is full.")
    assert used(project) == (1, 1, 1024, 10)
    counted.refresh_from_db()
    assert (counted.task, counted.error_message) == (Task.NONE, "The disk is full.")


@pytest.mark.parametrize("task", [Task.STOPPING, Task.RESIZING, Task.DELETING])
def test_what_is_busy_is_not_hibernated(counted: Machine, alice: User, task: Task) -> None:
    Machine.objects.update(task=task, task_since=timezone.now())
    with pytest.raises(ConflictError, match="busy"):
        hibernation.request_hibernate(counted, actor=alice)


def test_a_power_cut_may_interrupt_hibernating(counted: Machine, alice: User) -> None:
    job = hibernation.request_hibernate(counted, actor=alice)
    services.request_force_off(counted, actor=alice)
    job.refresh_from_db()
    assert job.cancel_requested


def test_news_that_is_older_than_the_hibernation_says_nothing_about_it(counted: Machine) -> None:
    Machine.objects.update(saved_at=timezone.now(), power_state=PowerState.SHUT_OFF)
    assert not hibernation.record_saved_gone(counted.pk, known_at=timezone.now() - dt.timedelta(seconds=9))
    assert hibernation.record_saved_gone(counted.pk, known_at=timezone.now() + dt.timedelta(seconds=1))


def test_only_what_is_hibernated_is_forgotten(counted: Machine, alice: User) -> None:
    with pytest.raises(ConflictError, match="not hibernated"):
        hibernation.request_discard(counted, actor=alice)


def test_a_hibernated_machine_is_shown_as_such_and_can_be_woken(
    counted: Machine, alice: User, as_user: Callable[[User], Client]
) -> None:
    Machine.objects.update(saved_at=timezone.now(), power_state=PowerState.SHUT_OFF, console_socket="")
    page = as_user(alice).get(reverse("machines:detail", args=[counted.pk])).content.decode()
    assert "It is hibernated" in page
    assert "Wake" in page
    assert reverse("machines:discard", args=[counted.pk]) in page
    assert reverse("machines:resize", args=[counted.pk]) not in page
    only = as_user(alice).get(reverse("machines:list"), {"status": "hibernated"}).content.decode()
    assert counted.name in only
    assert counted.name not in as_user(alice).get(reverse("machines:list"), {"status": "off"}).content.decode()


# --- another size -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vcpus", "memory_mib", "expected"),
    [
        (2, 1024, (When.NOW, When.SAME)),
        (4, 2048, (When.NOW, When.NEXT_START)),
        (5, 1024, (When.NEXT_START, When.SAME)),
        (1, 512, (When.SAME, When.NEXT_START)),
    ],
)
def test_the_form_says_what_comes_at_once_and_what_with_the_next_start(
    counted: Machine, vcpus: int, memory_mib: int, expected: tuple[When, When]
) -> None:
    flavour = flavour_of(vcpus, memory_mib)
    choice = next(choice for choice in sizes.choices_for(counted) if choice.flavour == flavour)
    assert (choice.vcpus, choice.memory) == expected
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    off = next(one for one in sizes.choices_for(Machine.objects.get()) if one.flavour == flavour)
    assert When.NOW not in {off.vcpus, off.memory}


def test_memory_comes_at_once_only_where_the_operator_trusts_the_guests(settings: object) -> None:
    assert sizes.room_of(1, 1024) == (4, 1024)
    settings.GUEST_MEMORY_ROOM = 2.0  # type: ignore[attr-defined]  # pytest-django's own
    assert sizes.room_of(3, 1024) == (6, 2048)
    assert sizes.room_of(64, 1024)[0] == 64


def test_until_a_size_is_there_the_larger_of_both_counts(counted: Machine, alice: User, project: Project) -> None:
    resizing.request_resize(counted, actor=alice, flavour=flavour_of(2, 512))
    assert used(project) == (1, 2, 1024, 10)
    counted.refresh_from_db()
    assert (counted.vcpus, counted.wanted_vcpus, counted.task) == (1, 2, Task.RESIZING)
    resizing.record_live(counted, vcpus=2)
    resizing.record_resized(counted)
    counted.refresh_from_db()
    assert counted.waits_for_restart, "a running guest has not given its memory up"
    assert used(project) == (1, 2, 1024, 10)
    services.record_power_state(counted.pk, PowerState.SHUT_OFF, at=timezone.now() + dt.timedelta(seconds=1))
    counted.refresh_from_db()
    assert (counted.vcpus, counted.memory_mib, counted.wanted_vcpus) == (2, 512, None)
    assert counted.flavour is not None
    assert counted.flavour.name == "other"
    assert used(project) == (1, 2, 512, 10)


def test_a_resize_that_fails_gives_back_what_it_took_once(counted: Machine, alice: User, project: Project) -> None:
    resizing.request_resize(counted, actor=alice, flavour=flavour_of(4, 4096))
    assert used(project) == (1, 4, 4096, 10)
    for _ in range(2):
        resizing.record_resize_failed(counted, message="No.")
    assert used(project) == (1, 1, 1024, 10)
    counted.refresh_from_db()
    assert (counted.task, counted.wanted_vcpus, counted.vcpus) == (Task.NONE, None, 1)


def test_deleted_while_it_is_resized_everything_is_given_back_once(
    counted: Machine, alice: User, project: Project
) -> None:
    before = Machine.objects.get(pk=counted.pk)
    job = resizing.request_resize(counted, actor=alice, flavour=flavour_of(4, 4096))
    services.request_delete(counted, actor=alice)
    job.refresh_from_db()
    assert job.cancel_requested
    services.release_resources(before)  # By a worker that read the row before the other size was asked for.
    resizing.record_resize_failed(counted)
    services.release_resources(counted)
    assert used(project) == (0, 0, 0, 0)


def test_what_waits_for_a_start_can_be_taken_back_by_choosing_the_size_that_is_there(
    counted: Machine, alice: User, project: Project, flavour: Flavour
) -> None:
    resizing.request_resize(counted, actor=alice, flavour=flavour_of(1, 4096))
    resizing.record_resized(counted)
    assert used(project) == (1, 1, 4096, 10)
    resizing.request_resize(Machine.objects.get(), actor=alice, flavour=flavour)
    assert used(project) == (1, 1, 1024, 10)
    resizing.record_resized(Machine.objects.get())
    assert not Machine.objects.get().waits_for_restart


def test_a_size_that_fits_neither_quota_nor_host_is_refused_and_nothing_is_claimed(
    counted: Machine, alice: User, project: Project
) -> None:
    with pytest.raises(QuotaExceededError):
        resizing.request_resize(counted, actor=alice, flavour=flavour_of(7, 1024, "too-many"))
    Host.objects.update(memory_mib=3000)
    with pytest.raises(NoCapacityError):
        resizing.request_resize(counted, actor=alice, flavour=flavour_of(1, 4096, "too-much"))
    assert used(project) == (1, 1, 1024, 10)
    assert (Machine.objects.get().task, Job.objects.count()) == (Task.NONE, 0)


def test_what_cannot_be_resized_says_why(counted: Machine, alice: User, flavour: Flavour) -> None:
    larger = flavour_of(2, 1024)
    with pytest.raises(InvalidError, match="has this size"):
        resizing.request_resize(counted, actor=alice, flavour=flavour)
    with pytest.raises(InvalidError, match="at least 512"):
        resizing.request_resize(counted, actor=alice, flavour=flavour_of(1, 256, "tiny"))
    Machine.objects.update(saved_at=timezone.now(), power_state=PowerState.SHUT_OFF)
    with pytest.raises(ConflictError, match="hibernated"):
        resizing.request_resize(Machine.objects.get(), actor=alice, flavour=larger)
    Machine.objects.update(saved_at=None, keeps_definition=True)
    with pytest.raises(ConflictError, match="Somebody else"):
        resizing.request_resize(Machine.objects.get(), actor=alice, flavour=larger)


def test_the_page_for_another_size_refuses_in_its_own_words(
    counted: Machine, alice: User, as_user: Callable[[User], Client]
) -> None:
    client, address = as_user(alice), reverse("machines:resize", args=[counted.pk])
    large = flavour_of(2, 1024, "large")
    flavour_of(7, 1024, "beyond")
    page = client.get(address).content.decode()
    assert "At once, while it runs." in page
    assert "More than the project&#x27;s quota has left" in page
    assert client.post(address, {}).status_code == 422
    assert client.post(address, {"flavour": large.pk}).status_code == 302
    assert Machine.objects.get().task == Task.RESIZING


# --- name, description, labels, protection ----------------------------------------------------------------------------


def edit(machine: Machine, actor: User, **values: object) -> Machine:
    wanted = {"name": machine.name, "description": "", "labels": [], "protected": False, **values}
    return editing.update_machine(machine, actor=actor, **wanted)  # type: ignore[arg-type]  # the tests' own words


def test_what_is_changed_is_written_down_and_what_is_so_already_is_not(machine: Machine, alice: User) -> None:
    for _ in range(2):
        edit(machine, alice, name="lamp", description=" Light. ", labels=["web", "a:b"], protected=True)
    machine.refresh_from_db()
    assert (machine.name, machine.description, machine.protected) == ("lamp", "Light.", True)
    assert list(machine.labels.values_list("name", flat=True)) == ["a:b", "web"]
    event = Event.objects.get(action="machine.changed")
    assert event.detail["before"] == {"name": "beacon", "labels": [], "protected": False}
    told = happened.Event.objects.get(kind="machine.changed")
    assert (told.subject_name, told.actor_name) == ("lamp", "alice")
    assert told.data == {"changed": ["description", "labels", "name", "protected"]}


def test_a_name_is_taken_by_what_lies_in_the_bin_as_well(machine: Machine, alice: User) -> None:
    other = Machine.objects.get(pk=machine.pk)
    other.pk, other.mac, other.name, other.status = None, "52:54:00:00:00:09", "gone", Status.BINNED
    other.request_key = Machine().request_key
    other.id = Machine().id
    other.save(force_insert=True)
    with pytest.raises(ConflictError, match="in its bin"):
        edit(machine, alice, name="gone")


@pytest.mark.parametrize("labels", [["Web"], ["a b"], ["-x"], ["x" * 41], [f"l{number}" for number in range(13)]])
def test_labels_that_are_none_are_refused(machine: Machine, alice: User, labels: list[str]) -> None:
    with pytest.raises(InvalidError):
        edit(machine, alice, labels=labels)
    assert not MachineLabel.objects.exists()


def test_the_list_is_filtered_by_a_label_and_shows_it(
    machine: Machine, alice: User, as_user: Callable[[User], Client]
) -> None:
    edit(machine, alice, labels=["web"], protected=True)
    client = as_user(alice)
    page = client.get(reverse("machines:list"), {"label": "web"}).content.decode()
    assert "machine-card" in page
    assert "Protected from deletion" in page
    assert "machine-card" not in client.get(reverse("machines:list"), {"label": "mail"}).content.decode()


def test_a_protected_machine_is_not_deleted_by_anybody(machine: Machine, alice: User, operator: User) -> None:
    edit(machine, alice, protected=True)
    machine.refresh_from_db()
    for actor in (alice, operator):
        with pytest.raises(ConflictError, match="protected"):
            services.request_delete(machine, actor=actor)
    assert Machine.objects.get().task == Task.NONE


# --- passwords and keys -----------------------------------------------------------------------------------------------


def test_a_new_password_waits_sealed_and_is_in_no_job_or_audit_row(machine: Machine, bob: User) -> None:
    job = access.request_password(machine, actor=bob)
    machine.refresh_from_db()
    password = unseal(machine.next_password)
    assert len(password) >= 14
    everywhere = [repr(row) for row in (*Job.objects.values(), *Event.objects.values(), *job.steps.values())]
    assert all(password not in text for text in everywhere)
    access.record_password_set(machine, sealed=machine.next_password)
    access.record_access_ended(machine)
    machine.refresh_from_db()
    assert (unseal(machine.login_password), machine.next_password, machine.task) == (password, "", Task.NONE)


def test_a_password_that_could_not_be_set_is_forgotten_and_the_old_one_stays(machine: Machine, bob: User) -> None:
    Machine.objects.update(login_password=seal("the-first"))
    access.request_password(machine, actor=bob)
    access.record_access_ended(machine, message="The guest agent does not answer.")
    machine.refresh_from_db()
    assert (unseal(machine.login_password), machine.next_password) == ("the-first", "")
    assert "agent" in machine.error_message


def test_a_viewer_resets_no_password_and_adds_no_key(machine: Machine, vera: User) -> None:
    with pytest.raises(ForbiddenError):
        access.request_password(machine, actor=vera)
    with pytest.raises(ForbiddenError):
        access.request_ssh_key(machine, actor=vera, public_key=KEY)


@pytest.mark.parametrize(
    "key", ["", "no key", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "ssh-ed25519 AAAA\nx", "x" * 9000]
)
def test_what_is_no_public_key_is_refused(machine: Machine, alice: User, key: str) -> None:
    with pytest.raises(InvalidError):
        access.request_ssh_key(machine, actor=alice, public_key=key)


def test_a_machine_that_is_off_or_was_found_is_not_asked_inside(machine: Machine, alice: User) -> None:
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    with pytest.raises(ConflictError):
        access.request_password(machine, actor=alice)
    machine.login_user = ""
    with pytest.raises(ConflictError, match="not known"):
        access.request_ssh_key(machine, actor=alice, public_key=KEY)


def test_the_password_is_shown_with_when_it_was_set(
    machine: Machine, alice: User, as_user: Callable[[User], Client]
) -> None:
    Machine.objects.update(login_password=seal("a-new-word"), password_changed_at=timezone.now())
    answer = as_user(alice).post(reverse("machines:secret", args=[machine.pk]))
    assert "a-new-word" in answer.content.decode()
    assert "Set by the portal" in answer.content.decode()
