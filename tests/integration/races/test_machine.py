"""What people ask of one machine at the same moment: every order ends well, and each answer says which it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE
from portal.machines import services
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status, Task
from tests.support.agreement import disagreements
from tests.support.together import at_once
from tests.workers.support import assert_nothing_left, work_on, write_image

pytestmark = pytest.mark.django_db(transaction=True)

JSON = {"Accept": "application/json", "HX-Request": "true"}
ROUNDS = range(5)
DONE, CONFLICT, GONE = 204, 409, 404


@pytest.fixture
def asked(project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: Host) -> Machine:
    """A machine that no worker has begun to build."""
    write_image(image_version)
    return services.request_machine(
        project, actor=alice, image_version=image_version, flavour=flavour, name="raced", login_user="alice"
    )


@pytest.fixture
def running(asked: Machine) -> Machine:
    """Really built, on its host in memory."""
    work_on(Job.objects.get(target_id=asked.pk))
    asked.refresh_from_db()
    assert (asked.status, asked.power_state) == (Status.READY, PowerState.RUNNING)
    return asked


@pytest.fixture
def stopped(running: Machine, alice: User) -> Machine:
    work_on(services.request_stop(running, actor=alice))
    running.refresh_from_db()
    assert (running.task, running.power_state) == (Task.NONE, PowerState.SHUT_OFF)
    return running


def press(machine: Machine, user: User, buttons: Sequence[str]) -> list[tuple[int, str]]:
    """Press these buttons at the same moment, each in a browser of its own: status and text of each answer."""

    def one(button: str) -> tuple[int, str]:
        client = Client()
        client.force_login(user)
        answer = client.post(reverse(f"machines:{button}", args=[machine.pk]), headers=JSON)
        return answer.status_code, answer.json()["message"] if answer.content else ""

    return at_once([lambda button=button: one(button) for button in buttons])  # type: ignore[misc]  # the default binds the loop's value


def work_off(machine: Machine) -> None:
    """Let workers end everything that was asked for, the oldest first."""
    for job in Job.objects.filter(target_id=machine.pk, status__in=ACTIVE).order_by("created_at"):
        work_on(job)


def events(machine: Machine, action: str) -> int:
    return Event.objects.filter(target_id=str(machine.pk), action=action).count()


@pytest.mark.parametrize("_round", ROUNDS)
@pytest.mark.parametrize(
    ("state", "button", "action", "power"),
    [
        ("stopped", "start", "machine.start", PowerState.RUNNING),
        ("running", "stop", "machine.stop", PowerState.SHUT_OFF),
        ("running", "force-off", "machine.force_off", PowerState.SHUT_OFF),
        ("running", "reboot", "machine.reboot", PowerState.RUNNING),
        ("running", "reset", "machine.reset", PowerState.RUNNING),
    ],
)
def test_the_same_button_pressed_many_times_at_once_is_one_job(
    request: pytest.FixtureRequest, alice: User, state: str, button: str, action: str, power: PowerState, _round: int
) -> None:
    machine: Machine = request.getfixturevalue(state)
    earlier = events(machine, action)
    told = press(machine, alice, [button] * 4)
    assert {status for status, _ in told} == {DONE}, told
    assert Job.objects.filter(target_id=machine.pk, name=action, status__in=ACTIVE).count() == 1
    assert events(machine, action) == earlier + 1
    work_off(machine)
    machine.refresh_from_db()
    assert (machine.status, machine.task, machine.power_state) == (Status.READY, Task.NONE, power)


@pytest.mark.parametrize("_round", ROUNDS)
@pytest.mark.parametrize("state", ["asked", "running", "stopped"])
def test_deleted_many_times_at_once_it_is_deleted_once(
    request: pytest.FixtureRequest, alice: User, state: str, _round: int
) -> None:
    machine: Machine = request.getfixturevalue(state)
    told = press(machine, alice, ["delete"] * 4)
    assert {status for status, _ in told} == {DONE}, told
    assert Job.objects.filter(target_id=machine.pk, name="machine.delete").count() == 1
    assert events(machine, "machine.delete") == 1
    work_off(machine)
    machine.refresh_from_db()
    assert machine.status == Status.DELETED
    assert_nothing_left(machine)
    assert {status for status, _ in press(machine, alice, ["delete"] * 2)} == {GONE}


@pytest.mark.parametrize("_round", ROUNDS)
@pytest.mark.parametrize(
    ("state", "button"), [("stopped", "start"), ("running", "stop"), ("running", "reset"), ("running", "force-off")]
)
def test_a_button_and_delete_at_once_end_deleted_and_say_who_was_first(
    request: pytest.FixtureRequest, alice: User, state: str, button: str, _round: int
) -> None:
    """Delete always wins. The other was first (and is stopped), or is told that the machine is being deleted."""
    machine: Machine = request.getfixturevalue(state)
    (status, text), (deleted, _) = press(machine, alice, [button, "delete"])
    assert deleted == DONE
    assert status in {DONE, CONFLICT}, (status, text)
    if status == CONFLICT:
        assert "is busy: deleting" in text
    work_off(machine)
    machine.refresh_from_db()
    assert (machine.status, machine.task) == (Status.DELETED, Task.NONE)
    assert_nothing_left(machine)


@pytest.mark.parametrize("button", ["start", "stop", "reboot", "reset", "force-off"])
def test_while_it_is_built_a_button_is_refused_and_says_so(asked: Machine, alice: User, button: str) -> None:
    for status, text in press(asked, alice, [button] * 2):
        assert status == CONFLICT
        assert "is busy: building" in text
    work_off(asked)
    asked.refresh_from_db()
    assert (asked.status, asked.power_state) == (Status.READY, PowerState.RUNNING)


@pytest.mark.parametrize("_round", ROUNDS)
def test_of_stop_and_restart_at_once_one_happens_and_the_other_is_told_why(
    running: Machine, alice: User, _round: int
) -> None:
    told = press(running, alice, ["stop", "reboot"])
    assert Counter(status for status, _ in told) == {DONE: 1, CONFLICT: 1}, told
    refused = next(text for status, text in told if status == CONFLICT)
    assert "is busy: shutting down" in refused or "is busy: restarting" in refused
    work_off(running)
    running.refresh_from_db()
    stopped_first = told[0][0] == DONE
    assert running.power_state == (PowerState.SHUT_OFF if stopped_first else PowerState.RUNNING)


@pytest.mark.parametrize("_round", ROUNDS)
def test_the_plug_may_be_pulled_while_the_power_button_is_pressed(running: Machine, alice: User, _round: int) -> None:
    (stop, text), (force, _) = press(running, alice, ["stop", "force-off"])
    assert force == DONE
    assert stop == DONE or (stop == CONFLICT and "is busy: forcing off" in text)
    work_off(running)
    running.refresh_from_db()
    assert (running.task, running.power_state) == (Task.NONE, PowerState.SHUT_OFF)


@pytest.mark.parametrize("_round", ROUNDS)
def test_a_failed_machine_retried_many_times_at_once_is_built_once(
    asked: Machine, alice: User, project: Project, _round: int
) -> None:
    services.record_build_failed(asked, message="No room.")
    Job.objects.filter(target_id=asked.pk).delete()
    told = press(asked, alice, ["retry"] * 4)
    assert {status for status, _ in told} == {DONE}, told
    assert Job.objects.filter(target_id=asked.pk).count() == 1
    project.refresh_from_db()
    assert project.used_machines == 1
    assert Host.objects.get().reserved_vcpus == 1


@pytest.mark.parametrize("_round", ROUNDS)
@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("running", ["hibernate", "stop"]),
        ("running", ["hibernate", "force-off", "delete"]),
        ("running", ["pause", "reboot", "password"]),
        ("stopped", ["start", "delete"]),
    ],
)
def test_of_what_excludes_the_other_one_is_done_and_all_agrees(
    request: pytest.FixtureRequest, alice: User, state: str, buttons: list[str], _round: int
) -> None:
    machine: Machine = request.getfixturevalue(state)
    told = press(machine, alice, buttons)
    assert {status for status, _ in told} <= {DONE, CONFLICT, GONE}, told
    work_off(machine)
    work_off(machine)
    machine.refresh_from_db()
    assert machine.task == Task.NONE
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_resized_many_times_at_once_and_deleted_nothing_is_counted_twice(
    running: Machine, alice: User, _round: int
) -> None:
    """F36 with sizes: each of them fits alone, and not all together."""
    sizes = [
        Flavour.objects.create(name=f"size-{vcpus}", title="Size", vcpus=vcpus, memory_mib=2048, disk_gib=10)
        for vcpus in (2, 4, 6)
    ]

    def resize(flavour: Flavour) -> int:
        client = Client()
        client.force_login(alice)
        return client.post(reverse("machines:resize", args=[running.pk]), {"flavour": flavour.pk}).status_code

    def delete() -> int:
        return press(running, alice, ["delete"])[0][0]

    answers = at_once([*(lambda size=size: resize(size) for size in sizes), delete])
    assert set(answers) <= {302, 404, 422, DONE}, answers
    assert disagreements_but_jobs() == []
    work_off(running)
    work_off(running)
    running.refresh_from_db()
    assert running.status == Status.DELETED
    assert_nothing_left(running)


def disagreements_but_jobs() -> list[str]:
    """While work is under way: what is counted agrees with what is held all the same."""
    return [text for text in disagreements() if " counts " in text or " has promised " in text]
