"""Rows 28 and 37: what is secret is in no job, message, event, audit row or log, and user-data is for those who may."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.events.services import add_webhook, change_secret, try_webhook
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.lib import bus, log
from portal.lib.secrets import unseal
from portal.machines import access, services
from portal.machines.models import Flavour, Machine
from tests.portal.api.conftest import MakeProgram, program
from tests.workers.conftest import fake
from tests.workers.support import fake_of, work_on, write_image
from workers.hypervisor.fake import FakeDriver

__all__ = ["fake", "program"]

MARKER = "s3cret-of-the-config"
CONFIG = f"#cloud-config\nwrite_files:\n  - path: /etc/key\n    content: {MARKER}\n"
# Rows in which anything may be kept that was secret once: sealed, or because its owner typed it to be shown.
SEALED = {"machines.machine", "events.webhook", "accounts.user", "api.answered", "sessions.session"}


@pytest.fixture
def machine(
    project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, settings: Settings
) -> Machine:
    """Built with a cloud-config of Alice's, on a host in memory."""
    write_image(image_version)
    machine = services.request_machine(
        project,
        actor=alice,
        image_version=image_version,
        flavour=flavour,
        name="beacon",
        login_user="alice",
        user_data=CONFIG,
    )
    work_on(Job.objects.get(target_id=machine.pk))
    machine.refresh_from_db()
    return machine


@pytest.fixture(autouse=True)
def _host(host: object) -> None:
    """There is one."""


def everything_written() -> dict[str, str]:
    """All rows, as text, of all that holds no sealed secrets."""
    models = [model for model in apps.get_models() if model._meta.label_lower not in SEALED]
    return {model._meta.label_lower: repr(list(model._default_manager.values())) for model in models}


def test_no_job_event_or_audit_row_holds_a_secret(
    machine: Machine, project: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 37: what waits for a worker, what it told, and what is kept of it."""
    assert fake_of(machine.host).seeds[machine.pk].user_data.count(MARKER) == 1, "the guest gets it"
    secrets = {"cloud-config": MARKER, "first password": unseal(machine.login_password)}
    work_on(access.request_password(machine, actor=alice))
    machine.refresh_from_db()
    secrets["new password"] = unseal(machine.login_password)

    def fault(_driver: FakeDriver, _machine: UUID, user: str, password: str) -> None:
        """What a library raises may hold whatever it was given."""
        secrets["password that was not set"] = password
        raise RuntimeError(f"{user}:{password} is bad")

    monkeypatch.setattr(FakeDriver, "set_password", fault)
    assert work_on(access.request_password(machine, actor=alice)).error_code == "internal"
    assert secrets["password that was not set"] != secrets["new password"]
    secrets["VNC secret"] = unseal(machine.console_secret)
    webhook = add_webhook(project, actor=alice, name="CI", url="https://ci.example.org/s3cret-path")
    secrets |= {"webhook": unseal(webhook.secret), "webhook, new": change_secret(webhook, actor=alice)}
    secrets["webhook's path"] = "s3cret-path"
    try_webhook(webhook, actor=alice)
    work_on(services.request_delete(machine, actor=alice))
    written = everything_written()
    assert "beacon" in written["jobs.job"] and "beacon" in written["audit.event"] and written["events.event"] != "[]"
    found = [(what, label) for what, secret in secrets.items() for label, text in written.items() if secret in text]
    assert found == []


def test_a_message_to_a_worker_is_a_name_and_an_id(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Row 37: whoever reads the broker learns what is done, and nothing that it is done with."""
    settings.BUS_IN_TESTS = True
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(bus._app, "send_task", lambda name, **options: sent.append((name, options)))
    bus.wake("machine.create", UUID(int=1), queue="host.local")
    bus.ask("console.log", UUID(int=2), queue="host.local", expires_s=5)
    assert [options["args"] for _name, options in sent] == [[str(UUID(int=1))], [str(UUID(int=2))]]
    assert all(set(options) <= {"args", "queue", "countdown", "expires", "retry"} for _name, options in sent)
    senders = [word for word, what in vars(bus).items() if getattr(what, "__module__", "") == bus.__name__]
    assert sorted(senders) == ["ask", "wake"], "there is no other way to send one"


@pytest.mark.parametrize("form", sorted(log.FORMATS))
@pytest.mark.parametrize(
    "secret",
    [
        "casement_aB3-_xyzaB3-_xyzaB3-_xyzaB3-_xyz",
        "casement.ticket.aB3-_xyz",
        "whsec_aB3+/xyz==",
        "Bearer aB3.xyz-aB3.xyz-aB3.xyz",
        "postgres://casement:pa55w0rd@db/casement",
        "redis://:pa55w0rd@db:6379/0",
    ],
)
def test_what_looks_like_a_secret_is_blotted_out_of_a_line_and_its_traceback(form: str, secret: str) -> None:
    """Row 37, as a last resort: a library's error may hold what it was given."""
    error = ValueError(f"refused: {secret}")
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "got %s", (secret,), (ValueError, error, None))
    line = log.FORMATS[form]().format(record)
    assert "aB3" not in line and "pa55w0rd" not in line and line.count("***") >= 2
    if form == "json":
        assert "ValueError" in json.loads(line)["exc_info"]


@pytest.mark.parametrize(
    "text",
    [
        "casement_default",
        "host.local",
        "https://example.org/a@b",
        "job 1234-5678: done",
        "the bearer of this",
        "10:30:12",
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert log.scrubbed(text) == text


def test_user_data_is_for_those_who_may_work_on_the_machine(
    machine: Machine, alice: User, bob: User, vera: User, charlie: User, program: MakeProgram, client: Client
) -> None:
    """Row 28: not for who only watches, not for another tenant, and in no list, page or event of anybody's."""
    for person, status in ((bob, 200), (vera, 403), (charlie, 404)):
        answer = program(person).post(f"machines/{machine.pk}/user-data")
        assert answer.status_code == status, person
        assert (MARKER in answer.content.decode()) == (status == 200)
    looks: list[Callable[[], Any]] = []
    for person in (alice, vera):
        mine = program(person)
        paths = ("machines", f"machines/{machine.pk}", f"machines/{machine.pk}/activity", "jobs")
        looks += [lambda mine=mine, path=path: mine.get(path) for path in paths]  # type: ignore[misc]  # bound at once
    client.force_login(alice)
    for name in ("machines:detail", "machines:edit"):
        looks.append(lambda name=name: client.get(reverse(name, args=[machine.pk])))  # type: ignore[misc]  # bound at once
    for look in looks:
        answer = look()
        assert answer.status_code == 200
        assert MARKER not in answer.content.decode()
