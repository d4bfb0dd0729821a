"""What people ask of disks and volumes at the same moment: every order ends well, and hosts and rows agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from portal.accounts.models import Project, User
from portal.errors import PortalError
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE
from portal.machines import cards, disks, services
from portal.machines.models import Attachment, Machine
from portal.machines.states import Status
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.support.agreement import disagreements
from tests.support.together import at_once
from tests.workers.support import work_on

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = range(3)
Make = Callable[[str], Machine]


@pytest.fixture
def volume(project: Project, alice: User, host: Host) -> Volume:
    made = volumes.request_volume(project, actor=alice, name="data", size_gib=2, host=host)
    work_off()
    made.refresh_from_db()
    return made


def work_off() -> None:
    """Let workers end everything that was asked for, the oldest first."""
    while job := Job.objects.filter(status__in=ACTIVE).order_by("created_at").first():
        work_on(job)


def told(ask: Callable[[], object]) -> Callable[[], str]:
    """The code of the refusal, or "done"."""

    def one() -> str:
        try:
            ask()
        except PortalError as error:
            return error.code
        return "done"

    return one


def attached(machine: Machine, volume: Volume, alice: User) -> str:
    work_on(disks.request_attach(machine, actor=alice, volume=volume))
    machine.refresh_from_db()
    return str(Attachment.objects.get(volume=volume).pk)


@pytest.mark.parametrize("_round", ROUNDS)
def test_of_two_machines_that_want_a_volume_one_gets_it(make: Make, volume: Volume, alice: User, _round: int) -> None:
    machines = [make("first"), make("second")]
    answers = at_once(
        [told(lambda one=one: disks.request_attach(one, actor=alice, volume=volume)) for one in machines]  # type: ignore[misc]  # the default binds the loop's value
    )
    assert sorted(answers) == ["conflict", "done"]
    work_off()
    assert Attachment.objects.filter(volume=volume).count() == 1
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_attached_and_deleted_at_once_it_is_the_one_or_the_other(
    make: Make, volume: Volume, alice: User, _round: int
) -> None:
    machine = make("first")
    answers = at_once(
        [
            told(lambda: disks.request_attach(machine, actor=alice, volume=volume)),
            told(lambda: volumes.request_delete(volume, actor=alice)),
        ]
    )
    assert sorted(answers) in (["conflict", "done"], ["done", "not-found"]), answers
    work_off()
    volume.refresh_from_db()
    assert volume.status == (VolumeStatus.IN_USE if answers[0] == "done" else VolumeStatus.DELETED)
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
@pytest.mark.parametrize("goes_too", [True, False])
def test_detached_while_its_machine_is_deleted_the_volume_ends_as_was_said(
    make: Make, volume: Volume, alice: User, goes_too: bool, _round: int
) -> None:
    machine = make("first")
    disk = attached(machine, volume, alice)
    chosen = [volume.pk] if goes_too else []
    detached, deleted = at_once(
        [
            told(lambda: disks.request_detach(machine, actor=alice, disk=disk)),
            told(lambda: services.request_delete(machine, actor=alice, delete_volumes=chosen)),
        ]
    )
    assert deleted == "done"
    assert detached in {"done", "conflict"}
    work_off()
    machine.refresh_from_db()
    volume.refresh_from_db()
    assert machine.status == Status.DELETED
    assert volume.status == (VolumeStatus.DELETED if goes_too else VolumeStatus.AVAILABLE)
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_grown_while_it_is_detached_one_happens_and_the_other_is_told_why(
    make: Make, volume: Volume, alice: User, project: Project, _round: int
) -> None:
    machine = make("first")
    disk = attached(machine, volume, alice)
    answers = at_once(
        [
            told(lambda: disks.request_grow(machine, actor=alice, disk=disk, size_gib=5)),
            told(lambda: disks.request_detach(machine, actor=alice, disk=disk)),
        ]
    )
    assert sorted(answers) == ["conflict", "done"]
    work_off()
    volume.refresh_from_db()
    grown = answers[0] == "done"
    assert (volume.size_gib, volume.status) == ((5, VolumeStatus.IN_USE) if grown else (2, VolumeStatus.AVAILABLE))
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_the_last_of_the_quota_is_taken_once(
    make: Make, project: Project, alice: User, host: Host, _round: int
) -> None:
    """Volumes, new disks and growing all take from the same limit (F36)."""
    machines = [make("first"), make("second")]
    Project.objects.update(max_disk_gib=25)  # 20 are the machines' own.
    wishes: list[Callable[[], object]] = [
        lambda number=number: volumes.request_volume(project, actor=alice, name=f"disk {number}", size_gib=3)  # type: ignore[misc]  # the default binds the loop's value
        for number in range(6)
    ]
    wishes.append(lambda: disks.request_new_disk(machines[0], actor=alice, name="new", size_gib=3))
    wishes.append(lambda: disks.request_grow(machines[1], actor=alice, disk=disks.ROOT, size_gib=13))
    answers = at_once([told(wish) for wish in wishes])
    assert sorted(answers) == ["done", *["quota-exceeded"] * 7]
    work_off()
    project.refresh_from_db()
    assert project.used_disk_gib == 23
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_a_card_asked_for_many_times_at_once_comes_once(make: Make, alice: User, _round: int) -> None:
    machine = make("first")
    answers = at_once([told(lambda: cards.request_card(machine, actor=alice))] * 4)
    assert set(answers) == {"done"}
    work_off()
    assert machine.cards.count() == 1
    assert disagreements() == []
