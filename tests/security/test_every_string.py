"""Rows 12 and 13: whatever stands in any text of any row, on every page there is it is text.

Values are put past all checks into every column that holds text, also into those that only the portal or a host writes:
what cannot be typed today may be tomorrow. Columns and pages that are added later are in here at once.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import models
from django.test import Client
from django.utils import timezone

from portal.accounts.models import ApiToken, SshKey, User
from portal.console import serial_log
from portal.console.models import ConsoleLink, ScreenBan
from portal.hosts.models import Difference, DifferenceKind
from portal.machines.models import Attachment, BatchItem, Machine, MachineLabel, NetworkCard
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.portal.test_every_url import ALL, Target, path_of, target
from tests.support.redis import redis_db, redis_url
from tests.support.xss import CORPUS, faults, what_would_run

__all__ = ["redis_db", "redis_url", "target"]

LONG = "".join(CORPUS)
# Cut off anywhere, a text may still open an element: these are whole ones for columns that hold little.
SHORT = ('"><img src=x onerror=alert(1)>', '"><b onclick=x>', '"><b on1=>', "<b on=>")
# Columns that are no text for anybody: keys by which rows find each other, and what is sealed or hashed.
NOT_TEXT = {
    "accounts.User": {"password"},
    "accounts.ApiToken": {"token_hash"},
    "events.Webhook": {"secret", "old_secret", "kinds"},
    "images.Image": {"recipe"},
    "jobs.Job": {"queue", "lease_owner", "target_type"},
    "events.Delivery": {"lease_owner"},
    "hosts.Host": {"uri"},
    "machines.Machine": {"console_secret", "next_password", "login_password", "console_socket", "serial_socket"},
    "machines.Batch": {"action"},
    "console.ConsoleLink": {"token_hash"},
    "console.ConsoleSession": {"browser"},
    # The short name is a part of addresses, and nothing else gets into it.
    "pools.Pool": {"name", "time_zone"},
    "pools.Place": {"browser"},
    "api.Answered": {"key", "fingerprint", "body"},
}


def _texts(model: type[models.Model]) -> Iterator[models.Field[Any, Any]]:
    left_out = NOT_TEXT.get(model._meta.label, set())
    for field in model._meta.concrete_fields:
        holds_text = isinstance(field, models.CharField | models.TextField | models.JSONField)
        if holds_text and not field.choices and field.name not in left_out and not field.primary_key:
            yield field


def _nasty(field: models.Field[Any, Any], number: int) -> object:
    if isinstance(field, models.JSONField):
        return [LONG] if field.default is list else dict.fromkeys(("error", "host", "machine", "disk", LONG), LONG)
    # Many must differ from those beside them.
    room = (field.max_length or 10_000) - len(str(number))
    return next((f"{one}{number}" for one in (LONG, *SHORT) if len(one) <= room), str(number))


def _spoil_everything() -> None:
    for model in apps.get_models():
        fields = list(_texts(model)) if model.__module__.startswith("portal.") else []
        for number, row in enumerate(model._default_manager.all() if fields else ()):
            values = {field.name: _nasty(field, number) for field in fields}
            model._default_manager.filter(pk=row.pk).update(**values)


@pytest.fixture
def spoiled(target: Target, machine: Machine, alice: User, operator: User, redis_db: str) -> Target:
    """A row of everything that pages show, and nothing in it that is not nasty."""
    SshKey.objects.create(user=alice, name="k", public_key="ssh-ed25519 AAAA")
    ApiToken.objects.create(
        user=alice, name="t", token_hash="0" * 64, hint="h", expires_at=timezone.now() + dt.timedelta(days=1)
    )
    MachineLabel.objects.create(machine=machine, name="web")
    NetworkCard.objects.create(machine=machine, mac="52:54:00:00:00:09", addresses=["10.0.0.1"])
    volume = Volume.objects.create(
        project=machine.project, name="in-use", host=machine.host, size_gib=1, status=VolumeStatus.IN_USE
    )
    Attachment.objects.create(machine=machine, volume=volume)
    BatchItem.objects.create(batch=target("machines:many-result"), machine=machine, refusal="no")  # type: ignore[misc]  # it is a batch
    for kind in DifferenceKind.values:
        Difference.objects.create(host=machine.host, kind=kind, object_id=machine.pk, name="n")
    for index, until in enumerate((timezone.now(), timezone.now() + dt.timedelta(days=1))):
        ScreenBan.objects.create(machine=machine, user=(alice, operator)[index], until=until, by_name="b")
    ConsoleLink.objects.create(
        machine=machine, mode="view", token_hash="1" * 64, expires_at=timezone.now() + dt.timedelta(days=1)
    )
    _spoil_everything()
    return target


@pytest.mark.parametrize("name", [name for name, _ in ALL])
def test_on_every_page_it_is_text(client: Client, spoiled: Target, operator: User, alice: User, name: str) -> None:
    for somebody in (operator, alice):
        client.force_login(somebody)
        for headers in ({}, {"HX-Request": "true"}):
            answer = client.get(path_of(name, spoiled), headers=headers)
            if answer.status_code == 405:  # It takes POST only.
                return
            assert answer.status_code in {200, 202, 204, 302, 404, 409}, (name, answer.status_code)
            if "html" in answer.get("Content-Type", ""):
                page = answer.content.decode()
                assert faults(page) + what_would_run(page) == [], name


def test_most_of_it_is_shown_somewhere(client: Client, spoiled: Target, operator: User) -> None:
    """Or the test above would say nothing."""
    client.force_login(operator)
    shown = {
        name: client.get(path_of(name, spoiled)).content.decode().count("&lt;img src=x onerror")
        for name in ("machines:detail", "machines:list", "volumes:detail", "hosts:detail", "events:list", "audit:list")
    }
    assert all(shown.values()), shown


def test_in_the_console_log_as_well(client: Client, spoiled: Target, machine: Machine, alice: User) -> None:
    serial_log.keep(machine.pk, f"{LONG}\n".encode())
    client.force_login(alice)
    page = client.get(path_of("console:serial-log", spoiled)).content.decode()
    assert "&lt;img src=x" in page
    assert faults(page) + what_would_run(page) == []


def test_of_the_api_it_is_data(client: Client, spoiled: Target, machine: Machine, alice: User) -> None:
    """What a browser is shown that opens an address of the API is no page."""
    answer = client.get("/api/v1/openapi.json")
    assert answer["Content-Type"] == "application/json" and answer["X-Content-Type-Options"] == "nosniff"
    json.loads(answer.content)


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>", 0),
        ("<p title=\"' onfocus='x\">a</p>", 0),
        ("<script src='/static/a.js'></script>", 0),
        ("<script>alert(1)</script>", 1),
        ("<p title='x' onfocus='y'>", 1),
        ('<a href=" JavaScript:alert(1)">', 1),
        ("<svg/onload=alert(1)>", 1),
    ],
)
def test_what_would_run_is_found(page: str, found: int) -> None:
    assert len(what_would_run(page)) == found
