"""Writes about projects, members and keys, below the pages: who may, what is written down, who hears of it."""

import threading
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from portal.accounts import events, services
from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.accounts.quota import Amount
from portal.audit import services as audit
from portal.audit.models import Event
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, PortalError

LIMITS = Amount(machines=2, vcpus=4, memory_mib=2048, disk_gib=20)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHkRxR6e8nEwaQj1oE0P4J3dkGbq1xHkLQvZk1m2m3m4 alice@laptop"


@pytest.fixture
def rejoined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The groups whose tabs were told to join anew."""
    told: list[str] = []
    monkeypatch.setattr(events, "_rejoin", told.append)
    return told


def actions() -> list[str]:
    return list(Event.objects.order_by("pk").values_list("action", flat=True))


@pytest.mark.parametrize("cast", ["alice", "bob", "vera", "charlie"])
def test_only_operators_make_projects_and_set_quotas(
    request: pytest.FixtureRequest, project: Project, cast: str
) -> None:
    actor = request.getfixturevalue(cast)
    with pytest.raises(ForbiddenError):
        services.create_project("Mine", actor=actor, limits=LIMITS)
    with pytest.raises(ForbiddenError):
        services.update_quota(project, actor=actor, limits=LIMITS)
    assert actions() == []


def test_an_operator_who_may_not_sign_in_any_more_does_nothing(project: Project, operator: User) -> None:
    operator.is_active = False
    with pytest.raises(ForbiddenError):
        services.update_quota(project, actor=operator, limits=LIMITS)


@pytest.mark.parametrize("value", [-1, 2**31, 2**63])
@pytest.mark.parametrize("name", ["machines", "vcpus", "memory_mib", "disk_gib"])
def test_a_quota_is_a_number_that_the_database_holds(project: Project, operator: User, name: str, value: int) -> None:
    wrong = Amount(**{"machines": 1, "vcpus": 1, "memory_mib": 1, "disk_gib": 1, name: value})
    with pytest.raises(InvalidError) as caught:
        services.update_quota(project, actor=operator, limits=wrong)
    assert caught.value.field == f"max_{name}"
    assert actions() == []


def test_a_quota_may_be_nothing_and_less_than_is_used(project: Project, operator: User) -> None:
    Project.objects.update(used_machines=2)
    services.update_quota(project, actor=operator, limits=Amount(0, 0, 0, 0))
    project.refresh_from_db()
    assert (project.max_machines, project.used_machines) == (0, 2)
    assert Event.objects.get().detail["before"]["machines"] == 3


def test_a_refused_project_leaves_nothing(operator: User, project: Project, alice: User) -> None:
    with pytest.raises(ConflictError):
        services.create_project(project.name, actor=operator, limits=LIMITS, owner=alice)
    assert Project.objects.filter(name=project.name).count() == 1
    assert actions() == []


@pytest.mark.parametrize("cast", ["bob", "vera", "charlie"])
def test_only_owners_and_operators_manage_members(
    request: pytest.FixtureRequest, project: Project, alice: User, cast: str
) -> None:
    actor, hers = request.getfixturevalue(cast), alice.memberships.get()
    for attempt in (
        lambda: services.add_member(project, actor=actor, person="alice", role=Role.OWNER),
        lambda: services.change_role(hers, actor=actor, role=Role.VIEWER),
        lambda: services.remove_member(hers, actor=actor),
    ):
        with pytest.raises(ForbiddenError):
            attempt()
    assert actions() == []


def test_every_change_of_membership_is_written_down_and_heard_by_open_tabs(
    project: Project,
    alice: User,
    charlie: User,
    rejoined: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        membership = services.add_member(project, actor=alice, person="CHARLIE@example.org", role=Role.VIEWER)
        services.change_role(membership, actor=alice, role=Role.MEMBER)
        services.change_role(membership, actor=alice, role=Role.MEMBER)
        services.remove_member(membership, actor=alice)
    assert actions() == ["member.added", "member.role", "member.removed"]
    assert set(Event.objects.values_list("project", flat=True)) == {project.pk}
    assert rejoined == [f"user.{charlie.pk}"] * 3


def test_the_last_owner_stays_whatever_operators_want(project: Project, alice: User, bob: User, operator: User) -> None:
    hers = alice.memberships.get()
    with pytest.raises(ConflictError):
        services.change_role(hers, actor=operator, role=Role.MEMBER)
    with pytest.raises(ConflictError):
        services.remove_member(hers, actor=operator)
    services.change_role(bob.memberships.get(), actor=operator, role=Role.OWNER)
    services.remove_member(hers, actor=alice)
    assert project.memberships.filter(role=Role.OWNER).get().user == bob


def test_a_membership_that_has_just_gone_is_not_found(alice: User, bob: User) -> None:
    his = bob.memberships.get()
    services.remove_member(his, actor=alice)
    with pytest.raises(NotFoundError):
        services.change_role(his, actor=alice, role=Role.OWNER)


def test_a_name_goes_before_an_address_that_reads_the_same(project: Project, alice: User, charlie: User) -> None:
    """Someone who takes another's address as user name is not added in their place."""
    User.objects.create_user("charlie@example.org", "other@example.org")
    membership = services.add_member(project, actor=alice, person="charlie@example.org", role=Role.VIEWER)
    assert membership.user.username == "charlie@example.org"


@pytest.mark.django_db(transaction=True)
def test_two_owners_who_leave_at_the_same_moment_leave_one(project: Project, alice: User, bob: User) -> None:
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    barrier, refused = threading.Barrier(2), []

    def leave(user: User) -> None:
        membership = user.memberships.get()
        barrier.wait()
        try:
            services.remove_member(membership, actor=user)
        except PortalError as error:
            refused.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=leave, args=(user,)) for user in (alice, bob)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["conflict"]
    assert project.memberships.filter(role=Role.OWNER).count() == 1


def test_people_manage_their_own_keys_only(alice: User, bob: User, operator: User) -> None:
    key = services.add_key(alice, actor=alice, public_key=f"\ufeff{KEY}\r\n")
    assert (key.name, key.public_key) == ("alice@laptop", KEY)
    for actor in (bob, operator):
        with pytest.raises(ForbiddenError):
            services.add_key(alice, actor=actor, public_key=KEY)
        with pytest.raises(ForbiddenError):
            services.delete_key(key, actor=actor)
    services.delete_key(key, actor=alice)
    assert actions() == ["key.added", "key.deleted"]


def test_an_audit_row_goes_with_what_it_tells_of(
    project: Project, alice: User, charlie: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the row cannot be written, nothing is done."""

    def broken(*_args: Any, **_names: Any) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(audit, "record", broken)
    with pytest.raises(RuntimeError), transaction.atomic():
        services.add_member(project, actor=alice, person="charlie", role=Role.MEMBER)
    assert not charlie.memberships.filter(project=project).exists()
