"""What one transaction tells open tabs: a message for each group, and nothing of what was rolled back."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from portal.lib import live

pytestmark = pytest.mark.django_db

Messages = list[tuple[str, list[str], bool]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Messages]:
    """Each time something was sent."""
    sent: list[Messages] = []
    monkeypatch.setattr(live, "_publish", sent.append)
    return sent


def test_what_is_said_in_parts_is_sent_at_once(sent: list[Messages], django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        live.publish_on_commit(["operators", "user.1"], ["pool:1", "pools"])
        live.publish_on_commit(["operators"], ["pools", "events:1"])
        live.publish_on_commit(["user.1"], ["served:1"], now=True)
    assert sent == [
        [
            ("operators", ["pool:1", "pools", "events:1"], False),
            ("user.1", ["pool:1", "pools"], False),
            ("user.1", ["served:1"], True),
        ]
    ]


def test_what_a_part_said_that_ended_well_is_sent_with_what_comes_after_it(
    sent: list[Messages], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        with transaction.atomic():
            live.publish_on_commit(["operators"], ["jobs"])
        live.publish_on_commit(["operators"], ["machines"])
    assert sent == [[("operators", ["jobs", "machines"], False)]]


def test_what_was_rolled_back_is_not_told(sent: list[Messages], django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        _fails("never:1")
        live.publish_on_commit(["operators"], ["jobs"])
        _fails("never:2")
        live.publish_on_commit(["operators"], ["machines"])
    assert sent == [[("operators", ["jobs", "machines"], False)]]


def _fails(topic: str) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        live.publish_on_commit(["operators"], [topic])
        raise RuntimeError


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_it_is_sent_now(sent: list[Messages]) -> None:
    live.publish_on_commit(["operators"], ["jobs"])
    live.publish_on_commit(["operators"], ["machines"])
    assert sent == [[("operators", ["jobs"], False)], [("operators", ["machines"], False)]]
