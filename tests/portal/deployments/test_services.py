"""Making a deployment, its people, its links; what is asked of all its desktops."""

from __future__ import annotations

import datetime as dt
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.console.models import ScreenNotice
from portal.console.notices import forget_old, notice_on
from portal.deployments import access, acting
from portal.deployments.forecast import forecast
from portal.deployments.lists import entries_of
from portal.deployments.models import Deployment, Seat
from portal.deployments.selectors import counts_of, panes_of, seats_of
from portal.deployments.services import Plan, add_people, forget, make_deployment, remove_seat
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, QuotaExceededError
from portal.images.models import ImageVersion
from portal.images.services import request_delete_version
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines.models import Flavour, Grant, Machine
from portal.machines.states import PowerState, Status, Task
from tests.portal.deployments.conftest import NAMES, run_all, seat_of

WEEK = dt.timedelta(weeks=1)


def seats(deployment: Deployment) -> list[Seat]:
    return list(seats_of(deployment))


def test_each_gets_a_desktop_and_its_person_the_grant(deployment: Deployment, dana: User, emil: User) -> None:
    found = seats(deployment)
    assert [(seat.label, seat.machine.name if seat.machine else "") for seat in found] == [
        ("dana", "lab-1"),
        ("emil@example.org", "lab-2"),
        ("Mia", "lab-3"),
        ("Noah", "lab-4"),
    ]
    grants = set(Grant.objects.values_list("machine__name", "user__username", "until"))
    assert grants == {("lab-1", "dana", None), ("lab-2", "emil", None)}
    assert Job.objects.filter(name=JobName.MACHINE_CREATE).count() == 4
    deployment.project.refresh_from_db()
    assert deployment.project.used_machines == 4


def test_the_same_request_makes_one(room: Project, plan: Plan, alice: User) -> None:
    key = uuid4()
    made = [
        make_deployment(room, actor=alice, plan=plan, people=entries_of(["mia"]), whole=True, request_key=key)
        for _ in range(2)
    ]
    assert made[0].pk == made[1].pk
    assert Machine.objects.count() == 1
    with pytest.raises(ConflictError, match="named Chemistry"):
        make_deployment(room, actor=alice, plan=plan, people=entries_of(["noah"]), whole=True)


def test_it_is_for_owners_of_the_project(room: Project, plan: Plan, bob: User, vera: User, charlie: User) -> None:
    for actor in (bob, vera, charlie):
        with pytest.raises(ForbiddenError):
            make_deployment(room, actor=actor, plan=plan, people=entries_of(["mia"]), whole=True)
    assert not Deployment.objects.exists() and not Machine.objects.exists()


def test_without_room_all_or_nothing_is_nothing(project: Project, plan: Plan, alice: User, host: object) -> None:
    with pytest.raises(QuotaExceededError, match="Room for 3 of 4 desktops, so none was made"):
        make_deployment(project, actor=alice, plan=plan, people=entries_of(NAMES), whole=True)
    assert not Deployment.objects.exists() and not Machine.objects.exists() and not Job.objects.exists()
    project.refresh_from_db()
    assert project.used_machines == 0


def test_as_far_as_there_is_room_the_rest_says_why(project: Project, plan: Plan, alice: User, host: object) -> None:
    made = make_deployment(project, actor=alice, plan=plan, people=entries_of(NAMES), whole=False)
    found = seats(made)
    assert [bool(seat.machine) for seat in found] == [True, True, True, False]
    assert "quota" in found[3].refusal
    assert counts_of(made).none == 1
    # There is room later: start gives them theirs.
    Project.objects.filter(pk=project.pk).update(max_machines=10, max_vcpus=20, max_memory_mib=20480, max_disk_gib=200)
    acting.act(made, "start", seats(made), actor=alice, request_id=uuid4())
    found = seats(made)
    assert found[3].machine is not None and found[3].refusal == ""


def test_what_it_takes_is_told_before(project: Project, flavour: Flavour) -> None:
    told = forecast(project, flavour, 5)
    assert (told.fitting, told.fits, told.amount.disk_gib) == (3, False, 50)
    assert any("machines" in line for line in told.shortfalls)
    assert forecast(project, flavour, 3).fits


def test_names_and_numbers_are_checked(room: Project, plan: Plan, alice: User) -> None:
    for wrong, field in (
        ({"name": " "}, "name"),
        ({"prefix": "Lab!"}, "prefix"),
        ({"prefix": ""}, "prefix"),
        ({"name": "x" * 101}, "name"),
    ):
        values = {name: getattr(plan, name) for name in ("name", "prefix", "image_version", "flavour")} | wrong
        with pytest.raises(InvalidError) as caught:
            make_deployment(room, actor=alice, plan=Plan(**values), people=entries_of(["mia"]), whole=True)
        assert caught.value.field == field
    with pytest.raises(InvalidError):
        make_deployment(room, actor=alice, plan=plan, people=[], whole=True)


def test_a_name_that_machines_have_already_is_said_at_the_prefix(
    room: Project, plan: Plan, alice: User, machine: Machine
) -> None:
    Machine.objects.filter(pk=machine.pk).update(name="lab-1")
    with pytest.raises(ConflictError) as caught:
        make_deployment(room, actor=alice, plan=plan, people=entries_of(["mia"]), whole=True)
    assert caught.value.field == "prefix"


def test_people_are_added_once_and_numbers_are_not_used_again(deployment: Deployment, alice: User, dana: User) -> None:
    remove_seat(seat_of(deployment, "Mia"), actor=alice)
    new = add_people(deployment, actor=alice, people=entries_of(["Olli", "DANA", "dana@example.org"]), whole=True)
    assert [(seat.label, seat.number) for seat in new] == [("Olli", 5)]
    assert add_people(deployment, actor=alice, people=entries_of(["olli"]), whole=True) == []


def test_who_is_removed_has_nothing_left(deployment: Deployment, alice: User, dana: User) -> None:
    [link] = access.make_links(deployment, [seat_of(deployment, "Mia")], actor=alice, lifetime=WEEK)
    guest = link.seat.guest
    assert guest is not None
    for label in ("dana", "Mia"):
        seat = seat_of(deployment, label)
        job = remove_seat(seat, actor=alice)
        assert job is not None and job.name == JobName.MACHINE_DELETE
        assert not Grant.objects.filter(machine=seat.machine_id).exists()
        with pytest.raises(NotFoundError):
            remove_seat(seat, actor=alice)
    assert not User.objects.filter(pk=guest.pk).exists()
    assert User.objects.filter(pk=dana.pk).exists()
    with pytest.raises(NotFoundError):
        access.seat_of_link(link.token)


def test_a_protected_desktop_keeps_its_person(deployment: Deployment, alice: User, dana: User) -> None:
    seat = seat_of(deployment, "dana")
    Machine.objects.filter(seat=seat).update(protected=True)
    with pytest.raises(ConflictError):
        remove_seat(seat, actor=alice)
    assert Grant.objects.filter(machine=seat.machine_id, user=dana).exists()
    batch, is_gone = acting.delete_all(deployment, seats(deployment), actor=alice, request_id=uuid4())
    assert not is_gone
    assert [item.refusal != "" for item in batch.items.order_by("machine__name")] == [True, False, False, False]
    assert [left.label for left in seats(deployment)] == ["dana"]
    Machine.objects.filter(seat=seat).update(protected=False)
    _batch, is_gone = acting.delete_all(deployment, seats(deployment), actor=alice, request_id=uuid4())
    assert is_gone and not Deployment.objects.exists()
    assert Machine.objects.filter(task=Task.DELETING).count() == 4


def test_it_stays_while_anybody_is_on_the_list(deployment: Deployment, alice: User) -> None:
    assert forget(deployment, actor=alice) is False
    assert Deployment.objects.exists()


def test_start_and_stop_leave_alone_what_is_right(deployment: Deployment, alice: User) -> None:
    off = seat_of(deployment, "Mia")
    Machine.objects.filter(seat=off).update(power_state=PowerState.SHUT_OFF, console_socket="")
    started = acting.act(deployment, "start", seats(deployment), actor=alice, request_id=uuid4())
    assert [item.machine_id for item in started.items.all()] == [off.machine_id]
    stopped = acting.act(deployment, "stop", seats(deployment), actor=alice, request_id=uuid4())
    by_name = {item.machine.name: item for item in stopped.items.all()}
    assert set(by_name) == {"lab-1", "lab-2", "lab-3", "lab-4"}
    # One is busy starting: it says so, and stops no other.
    assert by_name["lab-3"].refusal and not by_name["lab-1"].refusal
    assert by_name["lab-1"].job is not None and by_name["lab-1"].job.name == JobName.MACHINE_STOP


def test_the_same_request_for_all_is_one(deployment: Deployment, alice: User) -> None:
    key = uuid4()
    first = acting.act(deployment, "stop", seats(deployment), actor=alice, request_id=key)
    again = acting.act(deployment, "stop", seats(deployment), actor=alice, request_id=key)
    assert first.pk == again.pk
    assert Job.objects.filter(name=JobName.MACHINE_STOP).count() == 4


def test_reset_makes_each_anew_from_the_image(deployment: Deployment, alice: User, flavour: Flavour) -> None:
    failed, gone = seat_of(deployment, "Mia"), seat_of(deployment, "Noah")
    Machine.objects.filter(seat=failed).update(status=Status.ERROR, power_state=PowerState.SHUT_OFF)
    Machine.objects.filter(seat=failed).update(holds_quota=False)
    Machine.objects.filter(seat=gone).update(status=Status.DELETED, holds_quota=False)
    batch = acting.act(deployment, "reset", seats(deployment), actor=alice, request_id=uuid4())
    names = {item.machine.name: JobName(item.job.name) for item in batch.items.select_related("job") if item.job}
    assert names == {
        "lab-1": JobName.MACHINE_REBUILD,
        "lab-2": JobName.MACHINE_REBUILD,
        "lab-3": JobName.MACHINE_CREATE,
    }
    assert Machine.objects.get(name="lab-1").next_version == deployment.image_version
    anew = seat_of(deployment, "Noah")
    assert anew.machine_id != gone.machine_id and anew.machine is not None and anew.machine.name == "lab-4"


def test_who_may_what(deployment: Deployment, bob: User, vera: User, charlie: User) -> None:
    all_seats = seats(deployment)
    for actor, words in ((bob, ()), (vera, acting.ACTS), (charlie, acting.ACTS)):
        for word in words:
            with pytest.raises(ForbiddenError):
                acting.act(deployment, word, all_seats, actor=actor, request_id=uuid4())
    for actor in (bob, vera, charlie):
        with pytest.raises(ForbiddenError):
            add_people(deployment, actor=actor, people=entries_of(["x"]), whole=True)
        with pytest.raises(ForbiddenError):
            access.make_links(deployment, all_seats, actor=actor, lifetime=WEEK)
        with pytest.raises(ForbiddenError):
            access.revoke_link(all_seats[2], actor=actor)
    for actor in (vera, charlie):
        with pytest.raises(ForbiddenError):
            acting.tell(deployment, all_seats, actor=actor, text="hi")
        with pytest.raises(ForbiddenError):
            acting.step_in(all_seats[0], actor=actor, control=True)
        with pytest.raises(ForbiddenError):
            remove_seat(all_seats[0], actor=actor)
    with pytest.raises(ForbiddenError):
        acting.step_in(all_seats[0], actor=charlie, control=False)
    acting.step_in(all_seats[0], actor=vera, control=False)
    assert Event.objects.get(action="deployment.step_in").detail == {"person": "dana", "mode": "view"}


def test_a_message_stands_on_each_screen_until_the_next(deployment: Deployment, alice: User) -> None:
    for text in ("We go on at nine.", "  Now.  "):
        assert acting.tell(deployment, seats(deployment), actor=alice, text=text) == 4
    machine = seat_of(deployment, "dana").machine
    assert machine is not None
    notice = notice_on(machine)
    assert notice is not None and (notice.text, notice.by_name) == ("Now.", "alice")
    ScreenNotice.objects.update(posted_at=timezone.now() - dt.timedelta(hours=2))
    assert notice_on(machine) is None
    assert forget_old() == 4
    acting.tell(deployment, seats(deployment), actor=alice, text="Hello")
    acting.tell(deployment, seats(deployment), actor=alice, text="")
    assert not ScreenNotice.objects.exists()
    with pytest.raises(InvalidError):
        acting.tell(deployment, seats(deployment), actor=alice, text="x" * 501)


def test_links_are_for_those_without_an_account(deployment: Deployment, alice: User) -> None:
    links = access.make_links(deployment, seats(deployment), actor=alice, lifetime=WEEK)
    assert [link.seat.label for link in links] == ["Mia", "Noah"]
    assert len({link.token for link in links}) == 2
    for link in links:
        assert len(link.token) >= 43  # 256 bits
        assert access.seat_of_link(link.token).pk == link.seat.pk
        stored = repr(list(Seat.objects.filter(pk=link.seat.pk).values()) + list(Event.objects.values()))
        assert link.token not in stored
    grants = Grant.objects.filter(user__guest_until__isnull=False)
    assert {grant.machine.name for grant in grants} == {"lab-3", "lab-4"}
    assert all(grant.until is not None for grant in grants)
    with pytest.raises(ConflictError, match="have an account"):
        access.make_links(deployment, [seat_of(deployment, "dana")], actor=alice, lifetime=WEEK)
    for wrong in (dt.timedelta(0), dt.timedelta(days=367)):
        with pytest.raises(InvalidError):
            access.make_links(deployment, seats(deployment), actor=alice, lifetime=wrong)


def test_a_new_link_ends_the_old_one_and_a_revoked_one_is_none(deployment: Deployment, alice: User) -> None:
    mia = [seat_of(deployment, "Mia")]
    [old] = access.make_links(deployment, mia, actor=alice, lifetime=WEEK)
    [new] = access.make_links(deployment, [seat_of(deployment, "Mia")], actor=alice, lifetime=WEEK)
    with pytest.raises(NotFoundError):
        access.seat_of_link(old.token)
    assert access.seat_of_link(new.token).label == "Mia"
    access.revoke_link(seat_of(deployment, "Mia"), actor=alice)
    access.revoke_link(seat_of(deployment, "Mia"), actor=alice)
    assert Event.objects.filter(action="deployment.unlink").count() == 1
    with pytest.raises(NotFoundError):
        access.seat_of_link(new.token)
    assert not Grant.objects.filter(machine=mia[0].machine_id).exists()
    Seat.objects.filter(label="Mia").update(link_expires_at=timezone.now())
    # One that has expired is none either.
    [last] = access.make_links(deployment, [seat_of(deployment, "Mia")], actor=alice, lifetime=WEEK)
    Seat.objects.filter(label="Mia").update(link_expires_at=timezone.now())
    with pytest.raises(NotFoundError):
        access.seat_of_link(last.token)


def test_a_link_outlives_a_desktop_that_is_made_anew(deployment: Deployment, alice: User) -> None:
    [link] = access.make_links(deployment, [seat_of(deployment, "Mia")], actor=alice, lifetime=WEEK)
    Machine.objects.filter(seat=link.seat).update(status=Status.DELETED, holds_quota=False)
    acting.act(deployment, "start", [seat_of(deployment, "Mia")], actor=alice, request_id=uuid4())
    seat = seat_of(deployment, "Mia")
    assert seat.machine_id != link.seat.machine_id
    assert Grant.objects.filter(machine=seat.machine_id, user=seat.guest, until=seat.link_expires_at).exists()


def test_own_start_is_for_the_person_alone(deployment: Deployment, dana: User, emil: User, alice: User) -> None:
    seat = seat_of(deployment, "dana")
    Machine.objects.filter(seat=seat).update(power_state=PowerState.SHUT_OFF, console_socket="")
    for other in (emil, alice):
        with pytest.raises(ForbiddenError):
            acting.start_own(seat_of(deployment, "dana"), actor=other)
    assert acting.start_own(seat_of(deployment, "dana"), actor=dana).name == JobName.MACHINE_START


def test_an_image_that_desktops_are_made_of_stays(
    deployment: Deployment, alice: User, operator: User, image_version: ImageVersion
) -> None:
    Machine.objects.update(status=Status.DELETED)
    with pytest.raises(ConflictError, match="deployment"):
        request_delete_version(image_version, actor=operator)


def test_the_wall_says_who_is_at_which_screen(deployment: Deployment, alice: User, dana: User) -> None:
    seat = seat_of(deployment, "dana")
    for user in (dana, alice, alice):
        seat.machine.console_sessions.create(  # type: ignore[union-attr]  # it has one
            user=user, user_name=user.username, machine_name="lab-1", mode="view"
        )
    [first, *others] = panes_of(alice, seats(deployment))
    assert first.is_here and [one.name for one in first.others] == ["alice"]
    assert not any(pane.here for pane in others)
    assert [one.seat.pk for one in panes_of(alice, seats_of(deployment, state="watched"))] == [seat.pk]
    run_all(deployment)
    assert {state: seats_of(deployment, state=state).count() for state in ("running", "off", "none", "busy")} == {
        "running": 4,
        "off": 0,
        "none": 0,
        "busy": 0,
    }
    assert [one.label for one in seats_of(deployment, search="EMIL")] == ["emil@example.org"]
