"""Queries that are built once ask for what they are asked for, each time anew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.lib import prepared

pytestmark = pytest.mark.django_db


@prepared.rows
def _names(name: str, after: dt.datetime) -> QuerySet[Project, tuple[UUID, str, dt.datetime]]:
    wanted = Project.objects.filter(Q(name=name) | Q(name="always"), created_at__gt=after)
    return wanted.order_by("name").values_list("pk", "name", "created_at")


@prepared.rows
def _of_members(user: int) -> QuerySet[Project, str]:
    return Project.objects.filter(memberships__user=user).values_list("name", flat=True)


@prepared.update
def _rename(project: UUID, name: str) -> tuple[QuerySet[Project], dict[str, object]]:
    return Project.objects.filter(pk=project).order_by("name"), {"name": name, "max_machines": 7}


def _long_ago() -> dt.datetime:
    return timezone.now() - dt.timedelta(days=1)


def test_it_finds_what_django_finds_and_as_django_has_it() -> None:
    made = [Project.objects.create(name=name) for name in ("one", "two", "always")]
    for name in ("one", "two", "nobody"):
        plain = Project.objects.filter(name__in=[name, "always"]).order_by("name")
        assert _names(name, _long_ago()) == list(plain.values_list("pk", "name", "created_at"))
    assert _names("one", made[-1].created_at) == []


def test_relations_are_followed(make_user: Callable[..., User]) -> None:
    one, other = make_user("one"), make_user("other")
    project = Project.objects.create(name="theirs")
    project.memberships.create(user=one, role="member")
    assert "theirs" in _of_members(one.pk)
    assert "theirs" not in _of_members(other.pk)


def test_an_update_changes_these_rows_and_says_how_many() -> None:
    one, other = (Project.objects.create(name=name) for name in ("one", "other"))
    assert _rename(one.pk, "% of ' it") == 1
    assert _rename(uuid4(), "nothing") == 0
    assert Project.objects.get(pk=one.pk).name == "% of ' it"
    assert (Project.objects.get(pk=one.pk).max_machines, Project.objects.get(pk=other.pk).name) == (7, "other")


def test_it_is_one_query_and_built_once() -> None:
    built = []

    @prepared.rows
    def counted(name: str) -> QuerySet[Project, str]:
        built.append(name)
        return Project.objects.filter(name=name).values_list("name", flat=True)

    Project.objects.create(name="there")
    with CaptureQueriesContext(connection) as queries:
        assert counted("there") == ["there"]
        at_first = len(built)
        assert [counted("gone"), counted("there")] == [[], ["there"]]
    assert len(queries) == 3
    assert len(built) == at_first


def test_nothing_is_asked_for_that_is_not_there() -> None:
    """SQL answers `= NULL` with nothing at all, and nobody would notice."""
    with pytest.raises(TypeError, match="not there"):
        _of_members(None)  # type: ignore[arg-type] # what is tried


def test_a_time_that_would_stand_still_is_refused() -> None:
    @prepared.rows
    def stuck(name: str) -> QuerySet[Project, str]:
        return Project.objects.filter(name=name, created_at__gt=timezone.now()).values_list("name", flat=True)

    with pytest.raises(TypeError, match="not among its arguments"):
        stuck("x")


@pytest.mark.django_db(transaction=True)
def test_rows_are_locked_in_a_transaction_only() -> None:
    @prepared.rows
    def locked(name: str) -> QuerySet[Project, str]:
        return Project.objects.select_for_update().filter(name=name).values_list("name", flat=True)

    with transaction.atomic():
        assert locked("nobody") == []
    if connection.features.has_select_for_update:
        with pytest.raises(transaction.TransactionManagementError):
            locked("nobody")


@pytest.mark.django_db(transaction=True)
def test_threads_get_their_own_answers() -> None:
    for number in range(20):
        Project.objects.create(name=f"p{number}")

    def ask(number: int) -> Any:
        try:
            return [row[1] for row in _names(f"p{number}", _long_ago())]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(20))) == [[f"p{number}"] for number in range(20)]
