"""Projects as pages: the role matrix, the last owner, the quota, and what is written down."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.audit.models import Event
from portal.images.models import ImageVersion
from portal.machines.models import Flavour, Machine

HTMX = {"HX-Request": "true"}
LIST = reverse("accounts:projects")
NEW = reverse("accounts:project-new")
LIMITS = {"max_machines": 4, "max_vcpus": 8, "max_memory_gib": "6.5", "max_disk_gib": 90}
NASTY = "<script>alert(1)</script>"


def of(project: Project) -> str:
    return reverse("accounts:project", args=[project.pk])


def people(project: Project) -> str:
    return reverse("accounts:project-people", args=[project.pk])


def quota(project: Project) -> str:
    return reverse("accounts:project-quota", args=[project.pk])


def role_of(member: User) -> str:
    return reverse("accounts:member-role", args=[member.memberships.get().pk])


def removal_of(member: User) -> str:
    return reverse("accounts:member-remove", args=[member.memberships.get().pk])


def page(client: Client, path: str, **headers: str) -> str:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.fixture
def sign_in(client: Client, request: pytest.FixtureRequest) -> Callable[[str], Client]:
    def as_person(name: str) -> Client:
        client.force_login(request.getfixturevalue(name))
        return client

    return as_person


# --- the list -----------------------------------------------------------------------------------------------------


def test_people_see_their_own_projects(client: Client, alice: User, charlie: User, operator: User) -> None:
    client.force_login(alice)
    assert "Lighthouse" in page(client, LIST)
    assert "Elsewhere" not in page(client, LIST)
    client.force_login(operator)
    assert "Elsewhere" in page(client, LIST)
    assert "Elsewhere" not in page(client, f"{LIST}?q=light")


def test_the_list_shows_what_is_used_and_what_is_free(client: Client, project: Project, alice: User) -> None:
    Project.objects.update(used_machines=1, used_vcpus=6, used_memory_mib=2048, used_disk_gib=50)
    client.force_login(alice)
    text = page(client, LIST)
    assert "1 of 3 used" in text
    assert "2 GiB of 6 GiB used" in text
    assert "4 GiB free" in text
    assert "none free" in text
    assert "Owner" in text


def test_the_live_list_is_the_part_that_changed(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert "<html" not in page(client, LIST, **HTMX)


def test_without_projects_the_list_says_whom_to_ask(client: Client, make_user: Callable[..., User]) -> None:
    client.force_login(make_user("lone"))
    assert "You are in no project yet" in page(client, LIST)


# --- the page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["alice", "operator"])
def test_owners_and_operators_may_manage(
    sign_in: Callable[[str], Client], project: Project, alice: User, bob: User, who: str
) -> None:
    text = page(sign_in(who), of(project))
    assert people(project) in text
    assert role_of(bob) in text
    assert removal_of(bob) in text


@pytest.mark.parametrize("who", ["bob", "vera"])
def test_others_look_and_change_nothing(
    sign_in: Callable[[str], Client], project: Project, alice: User, bob: User, who: str
) -> None:
    client = sign_in(who)
    text = page(client, of(project))
    assert "alice" in text
    assert people(project) not in text
    assert role_of(bob) not in text
    before = set(Membership.objects.values_list("user", "role"))
    assert client.post(people(project), {"person": "vera", "role": "owner"}).status_code == 403
    assert client.post(role_of(bob), {"role": "owner"}).status_code == 403
    assert client.get(removal_of(alice)).status_code == 403
    assert client.post(removal_of(alice)).status_code == 403
    assert set(Membership.objects.values_list("user", "role")) == before
    assert not Event.objects.exists()


def test_the_page_names_the_machines_that_use_the_quota(
    client: Client, project: Project, machine: Machine, alice: User
) -> None:
    client.force_login(alice)
    text = page(client, of(project))
    assert reverse("machines:detail", args=[machine.pk]) in text
    Machine.objects.update(holds_quota=False)
    assert "the whole quota is free" in page(client, of(project))


def test_what_people_typed_is_text_never_markup(client: Client, project: Project, alice: User, bob: User) -> None:
    Project.objects.update(name=NASTY, description=NASTY)
    User.objects.filter(pk=bob.pk).update(first_name=NASTY)
    client.force_login(alice)
    client.post(people(project), {"person": NASTY, "role": Role.VIEWER})
    for path in (LIST, of(project), removal_of(bob)):
        text = page(client, path)
        assert NASTY not in text
        assert "&lt;script&gt;" in text


def test_the_number_of_queries_does_not_grow(
    client: Client,
    project: Project,
    alice: User,
    machine: Machine,
    flavour: Flavour,
    image_version: ImageVersion,
    make_user: Callable[..., User],
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    for number in range(12):
        Membership.objects.create(project=project, user=make_user(f"u{number}"), role=Role.MEMBER)
        other = Project.objects.create(name=f"Project {number}")
        Membership.objects.create(project=other, user=alice, role=Role.MEMBER)
        machine.pk, machine.request_key = Machine().pk, Machine().request_key
        machine.name, machine.mac, machine._state.adding = f"m{number}", f"52:54:00:00:01:{number:02x}", True
        machine.save()
    client.force_login(alice)
    with django_assert_max_num_queries(7):
        page(client, LIST)
    with django_assert_max_num_queries(12):
        page(client, of(project))


# --- members ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nora", "NORA", "nora@example.org", " Nora@Example.org "])
def test_an_owner_adds_someone_by_name_or_address(
    client: Client, project: Project, alice: User, make_user: Callable[..., User], name: str
) -> None:
    nora = make_user("nora")
    client.force_login(alice)
    assert client.post(people(project), {"person": name, "role": Role.VIEWER}).status_code == 302
    assert nora.memberships.get().role == Role.VIEWER
    event = Event.objects.get()
    assert (event.action, event.actor, event.project) == ("member.added", alice, project)
    assert event.detail == {"person": "nora", "role": "viewer"}


@pytest.mark.parametrize("name", ["nobody", "bob", "", "alice\x00"])
def test_who_cannot_be_added_is_said_at_the_field(
    client: Client, project: Project, alice: User, bob: User, name: str
) -> None:
    client.force_login(alice)
    answer = client.post(people(project), {"person": name, "role": Role.OWNER})
    assert answer.status_code in {409, 422}
    assert answer.context["member_form"].errors.keys() == {"person"}
    assert bob.memberships.get().role == Role.MEMBER
    assert not Event.objects.exists()


def test_an_owner_changes_a_role_and_it_is_written_down(
    client: Client, project: Project, alice: User, bob: User
) -> None:
    client.force_login(alice)
    assert client.post(role_of(bob), {"role": Role.OWNER}).status_code == 302
    assert bob.memberships.get().role == Role.OWNER
    event = Event.objects.get()
    assert (event.action, event.detail["before"], event.detail["after"]) == ("member.role", "member", "owner")
    assert client.post(role_of(bob), {"role": "emperor"}).status_code == 422
    assert Event.objects.count() == 1


def test_removing_says_first_what_it_means(
    client: Client, project: Project, alice: User, bob: User, machine: Machine
) -> None:
    Machine.objects.update(owner=bob)
    client.force_login(alice)
    for text in (page(client, removal_of(bob)), page(client, removal_of(bob), **HTMX)):
        assert "bob no longer sees the project" in text
        assert "1 machine of theirs stays in the project" in text
    assert client.post(removal_of(bob)).status_code == 302
    assert not bob.memberships.exists()
    assert Machine.objects.get().owner == bob
    event = Event.objects.get()
    assert (event.action, event.detail) == ("member.removed", {"person": "bob", "role": "member"})


def test_the_last_owner_stays(client: Client, project: Project, alice: User, bob: User) -> None:
    client.force_login(alice)
    text = page(client, of(project))
    assert role_of(alice) not in text
    assert removal_of(alice) not in text
    for path, values in ((role_of(alice), {"role": Role.VIEWER}), (removal_of(alice), {})):
        answer = client.post(path, values)
        assert answer.status_code == 409
        assert "alice is the last owner of this project" in answer.content.decode()
    assert alice.memberships.get().role == Role.OWNER
    assert not Event.objects.exists()


def test_an_owner_who_cannot_sign_in_is_none(client: Client, project: Project, alice: User, bob: User) -> None:
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    client.force_login(alice)
    assert "cannot sign in" in page(client, of(project))
    assert client.post(role_of(alice), {"role": Role.MEMBER}).status_code == 409


def test_an_owner_who_leaves_sees_the_project_no_more(client: Client, project: Project, alice: User, bob: User) -> None:
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    client.force_login(alice)
    assert "You no longer see the project" in page(client, removal_of(alice))
    assert client.post(removal_of(alice))["Location"] == LIST
    assert client.get(of(project)).status_code == 404


# --- what operators do --------------------------------------------------------------------------------------------


def test_an_operator_creates_a_project_with_its_owner(client: Client, operator: User, alice: User) -> None:
    client.force_login(operator)
    answer = client.post(NEW, {"name": " Observatory ", "description": "Stars", "owner": "alice", **LIMITS})
    made = Project.objects.get(name="Observatory")
    assert answer["Location"] == of(made)
    assert (made.max_machines, made.max_vcpus, made.max_memory_mib, made.max_disk_gib) == (4, 8, 6656, 90)
    assert made.memberships.get().user == alice
    assert set(Event.objects.values_list("action", flat=True)) == {"project.created", "member.added"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "Lighthouse"),
        ("max_vcpus", -1),
        ("max_disk_gib", 2**31),
        ("max_memory_gib", "a"),
        ("owner", "x"),
    ],
)
def test_a_project_that_cannot_be_is_refused_at_the_field(
    client: Client, operator: User, project: Project, field: str, value: object
) -> None:
    client.force_login(operator)
    answer = client.post(NEW, {"name": "Observatory", "owner": "", **LIMITS, field: value})
    assert answer.status_code == 422
    assert answer.context["form"].errors.keys() == {field}
    assert Project.objects.count() == 1


def test_an_operator_changes_the_quota(client: Client, operator: User, project: Project) -> None:
    client.force_login(operator)
    assert quota(project) in page(client, of(project))
    assert client.post(quota(project), LIMITS).status_code == 302
    project.refresh_from_db()
    assert project.max_memory_mib == 6656
    event = Event.objects.get()
    assert event.action == "project.quota"
    assert event.detail["before"]["machines"] == 3
    assert event.detail["after"]["machines"] == 4


def test_a_quota_that_cannot_be_is_refused_with_the_form_open(client: Client, operator: User, project: Project) -> None:
    client.force_login(operator)
    answer = client.post(quota(project), {**LIMITS, "max_vcpus": "-3"})
    assert answer.status_code == 422
    assert 'id="quota-change" open' in answer.content.decode()
    assert not Event.objects.exists()


@pytest.mark.parametrize("who", ["alice", "bob", "vera", "charlie"])
def test_nobody_else_creates_projects_or_changes_quotas(
    sign_in: Callable[[str], Client], project: Project, who: str
) -> None:
    client = sign_in(who)
    before = list(Project.objects.order_by("pk").values())
    assert client.get(NEW).status_code == 404
    assert client.post(NEW, {"name": "Mine", **LIMITS}).status_code == 404
    assert client.post(quota(project), LIMITS).status_code == 404
    assert NEW not in page(client, LIST)
    assert list(Project.objects.order_by("pk").values()) == before
