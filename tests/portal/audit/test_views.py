"""The audit trail as operators read it."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from portal.accounts.models import Project, User
from portal.audit import services as audit
from portal.audit.words import ACTIONS, AREAS
from tests.support.xss import CORPUS, faults


@pytest.fixture(autouse=True)
def events(project: Project, alice: User, operator: User) -> None:
    audit.record(operator, "project.created", project, project=project, detail={"machines": 3}, request_ip="192.0.2.1")
    audit.record(
        operator,
        "project.quota",
        project,
        detail={"before": {"machines": 3, "vcpus": 1}, "after": {"machines": 5, "vcpus": 1}},
    )
    audit.record(alice, "member.role", project, detail={"person": "bob", "before": "member", "after": "owner"})
    audit.record(None, "image.registered", project)


def rows(client: Client, query: str = "") -> list[str]:
    return [line.event.action for line in client.get(f"/audit/{query}").context["lines"]]


@pytest.mark.parametrize("cast", ["alice", "bob", "vera", "charlie"])
def test_it_is_not_there_for_others(client: Client, request: pytest.FixtureRequest, cast: str) -> None:
    client.force_login(request.getfixturevalue(cast))
    assert client.get("/audit/").status_code == 404


def test_it_is_read_only(client: Client, operator: User) -> None:
    client.force_login(operator)
    assert client.post("/audit/").status_code == 405


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["image.registered", "member.role", "project.quota", "project.created"]),
        ("?area=project", ["project.quota", "project.created"]),
        ("?q=alice", ["member.role"]),
        ("?q=192.0.2.1", ["project.created"]),
        ("?q=192.0.2", []),
        ("?q=lighthouse&area=member", ["member.role"]),
        ("?q=%00", ["image.registered", "member.role", "project.quota", "project.created"]),
        ("?area=proj", []),
        ("?page=99", ["image.registered", "member.role", "project.quota", "project.created"]),
        ("?page=none", ["image.registered", "member.role", "project.quota", "project.created"]),
    ],
)
def test_it_can_be_searched_and_filtered(client: Client, operator: User, query: str, found: list[str]) -> None:
    client.force_login(operator)
    assert rows(client, query) == found


def test_changes_are_told_as_before_and_after(client: Client, operator: User) -> None:
    client.force_login(operator)
    page = client.get("/audit/").content.decode()
    assert "machines: 3 → 5" in page
    assert "vcpus: 1" not in page
    assert "bob (member → owner)" in page
    assert "the portal" in page


@pytest.mark.parametrize("text", CORPUS)
def test_what_people_typed_is_text_never_markup(client: Client, operator: User, project: Project, text: str) -> None:
    operator.username = project.name = text
    audit.record(operator, text[:60], project, detail={text: text, "person": text})
    client.force_login(operator)
    assert faults(client.get("/audit/").content.decode()) == []


def test_the_number_of_queries_does_not_grow(client: Client, operator: User, project: Project) -> None:
    client.force_login(operator)

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get("/audit/")
        return len(queries)

    few = cost()
    for number in range(50):
        other = Project.objects.create(name=f"p{number}")
        audit.record(operator, "project.created", other, project=other)
    assert cost() == few


@pytest.mark.parametrize(("query", "words"), [("", "Lighthouse"), ("?q=nothing-like-it", "Nothing matches")])
def test_the_part_that_filters_swap_is_there_with_rows_and_without(
    client: Client, operator: User, query: str, words: str
) -> None:
    client.force_login(operator)
    page = client.get(f"/audit/{query}").content.decode()
    part = page[page.index('<section id="audit-list"') :]
    assert words in part[: part.index("</section>")]
    assert 'hx-select="#audit-list"' in page


def test_many_events_are_pages_that_keep_the_filter(client: Client, operator: User, project: Project) -> None:
    for _number in range(101):
        audit.record(operator, "project.quota", project)
    client.force_login(operator)
    page = client.get("/audit/?area=project").content.decode()
    assert 'href="?area=project&amp;page=2"' in page
    assert len(rows(client, "?area=project&page=2")) == 3


def test_every_area_has_actions_and_every_action_an_area() -> None:
    assert {action.split(".")[0] for action in ACTIONS} == set(AREAS)
