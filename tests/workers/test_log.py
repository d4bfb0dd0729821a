"""Log lines: one object each, that say what they are about, and never a secret, however much is logged."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from portal.accounts.models import User
from portal.console import tickets
from portal.jobs.models import Job
from portal.lib import log
from portal.lib.secrets import unseal
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.selectors import machine_for
from tests.conftest import PASSWORD
from tests.support.redis import redis_db, redis_url
from tests.workers.support import work_on
from workers.hypervisor.errors import HostUnreachableError
from workers.hypervisor.fake import FakeHost

__all__ = ["redis_db", "redis_url"]

TOKEN = "a-token-for-prometheus"
Asked = Callable[[], tuple[Machine, Job]]


class Lines(logging.Handler):
    """Everything that any logger says, as it would be written; without the last resort that blots tickets out."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(log.JsonLines())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # What was passed along counts too, although no format of ours writes it.
        beside = {name: repr(value) for name, value in record.__dict__.items() if name not in _WRITTEN}
        self.lines.append(f"{self.format(record)}\n{beside}")

    def of(self, words: str) -> dict[str, Any]:
        """The line with these words."""
        for line in self.lines:
            found: dict[str, Any] = json.loads(line.partition("\n")[0])
            if words in found["message"]:
                return found
        raise AssertionError(f"no line says {words!r}: {self.lines}")


# The request is passed to Django's own loggers as an object, whose text is its method and path.
_WRITTEN = {"msg", "args", "message", "exc_info", "exc_text", "name"}


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All loggers at DEBUG, also those that had a level or a handler of their own."""
    handler, root = Lines(), logging.getLogger()
    loggers = [root, *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    before = [(one, one.level, one.propagate, one.disabled) for one in loggers]
    for one in loggers:
        one.setLevel(logging.DEBUG)
        one.propagate, one.disabled = True, False
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for one, level, propagate, disabled in before:
        one.setLevel(level)
        one.propagate, one.disabled = propagate, disabled


def test_no_secret_is_in_any_line(
    lines: Lines, asked: Asked, alice: User, fake: FakeHost, redis_db: str, settings: Settings
) -> None:
    settings.METRICS_TOKEN = TOKEN
    cache.clear()
    client = Client(enforce_csrf_checks=True)
    token = sign_in(client)
    machine, job = asked()
    work_on(job)
    machine.refresh_from_db()
    assert machine.status == "ready"
    secrets = {
        "the person's password": PASSWORD,
        "session": client.cookies[django_settings.SESSION_COOKIE_NAME].value,
        "csrf cookie": client.cookies[django_settings.CSRF_COOKIE_NAME].value,
        "csrf token": token,
        "SECRET_KEY": settings.SECRET_KEY,
        "METRICS_TOKEN": TOKEN,
        "first password": unseal(machine.login_password),
        "first password, sealed": machine.login_password,
        "hash for cloud-init": password_hash(fake, machine),
        "VNC secret": unseal(machine.console_secret),
        "VNC secret, sealed": machine.console_secret,
        "ticket": ticket_for(client, machine, token),
    }
    secret_page = client.post(reverse("machines:secret", args=[machine.pk]), {"csrfmiddlewaretoken": token})
    assert secrets["first password"] in secret_page.content.decode()
    client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    client.get("/metrics", headers={"Authorization": "Bearer wrong-and-secret"})
    client.post(reverse("accounts:login"), {"username": "alice", "password": "wrong-and-secret"})
    work_on(services.request_stop(machine, actor=alice))
    fake.fail_next("start", HostUnreachableError("the host is away"), times=20)
    work_on(services.request_start(machine, actor=alice))
    work_on(services.request_delete(machine, actor=alice))
    secrets["wrong password"] = "wrong-and-secret"
    assert all(len(value) >= 8 for value in secrets.values()), secrets
    assert leaked(lines, secrets) == {}
    lines.lines.append(f"a line with {secrets['ticket']} in it")
    assert set(leaked(lines, secrets)) == {"ticket"}, "the search itself finds what is there"


def leaked(lines: Lines, secrets: dict[str, str]) -> dict[str, list[str]]:
    found = {name: [line for line in lines.lines if secret in line] for name, secret in secrets.items()}
    return {name: where for name, where in found.items() if where}


def sign_in(client: Client) -> str:
    """As Alice; the token of her pages."""
    login = reverse("accounts:login")
    client.get(login)
    cookie = django_settings.CSRF_COOKIE_NAME
    form = {"username": "alice", "password": PASSWORD, "csrfmiddlewaretoken": client.cookies[cookie].value}
    assert client.post(login, form).status_code == 302
    return str(client.cookies[cookie].value)


def ticket_for(client: Client, machine: Machine, token: str) -> str:
    answer = client.post(reverse("console:ticket", args=[machine.pk]), {"csrfmiddlewaretoken": token})
    assert answer.status_code == 200, answer.content
    return str(answer.json()["ticket"])


def password_hash(fake: FakeHost, machine: Machine) -> str:
    """Of the seed that the guest gets."""
    found = re.search(r"\$6\$[\w./$]+", fake.seeds[machine.pk].user_data)
    assert found is not None
    return found[0]


def test_a_job_s_lines_say_what_they_are_about(lines: Lines, asked: Asked, alice: User, host: Any) -> None:
    machine, job = asked()
    work_on(job)
    line = lines.of(f"job {job.pk} machine.create done")
    about = {"job": str(job.pk), "machine": str(machine.pk), "host": host.name, "actor": str(alice.pk)}
    assert {name: line[name] for name in about} == about
    assert line["level"] == "INFO"
    assert line["logger"] == "workers.runner"


def test_what_is_bound_ends_with_its_block(lines: Lines) -> None:
    with log.bound(job=1, host=""):
        log.bind(machine=2)
        logging.getLogger("x").info("inside %s", "it")
        try:
            int("why")
        except ValueError:
            logging.getLogger("x").exception("broken")
    logging.getLogger("x").info("outside")
    inside = lines.of("inside it")
    assert (inside["job"], inside["machine"], "host" in inside) == ("1", "2", False)
    assert "'why'" in lines.of("broken")["exc_info"]
    assert "\n" not in lines.lines[0].partition("\n")[0]
    assert "job" not in lines.of("outside")


def test_people_s_lines_have_it_at_the_end() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "hello", None, None)
    with log.bound(job=1):
        assert log.Lines().format(record).endswith(" INFO x hello [job=1]")
    assert log.Lines().format(record).endswith(" INFO x hello")


class TestRequests:
    @pytest.fixture(autouse=True)
    def _talkative(self, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
        """A view that says something."""

        def said(*arguments: Any, **more: Any) -> Machine:
            logging.getLogger("portal.test").info("looked at")
            return machine_for(*arguments, **more)

        monkeypatch.setattr("portal.machines.views.machine_for", said)

    def test_they_have_an_id_that_the_answer_tells(
        self, lines: Lines, client: Client, alice: User, machine: Machine
    ) -> None:
        client.force_login(alice)
        answer = client.get(reverse("machines:start", args=[machine.pk]))
        answer = client.post(reverse("machines:start", args=[machine.pk]))
        line = lines.of("looked at")
        assert line["request"] == answer["X-Request-ID"]
        assert (line["actor"], line["machine"]) == (str(alice.pk), str(machine.pk))

    @pytest.mark.parametrize(
        ("given", "trusted", "kept"),
        [
            ("abcd-1234", True, True),
            ("abcd-1234", False, False),
            ("short", True, False),
            ("x" * 65, True, False),
            ("abcd 1234\t{}", True, False),
        ],
    )
    def test_one_from_outside_is_kept_only_behind_a_trusted_proxy(
        self, client: Client, settings: Settings, given: str, trusted: bool, kept: bool
    ) -> None:
        settings.TRUST_PROXY = trusted
        answer = client.get("/healthz", headers={"X-Request-ID": given})
        assert (answer["X-Request-ID"] == given) == kept
        assert answer["X-Request-ID"]


def test_a_ticket_that_nobody_gave_is_blotted_out_as_a_last_resort() -> None:
    record = logging.LogRecord("uvicorn.error", 10, __file__, 1, "< %s", (tickets.SUBPROTOCOL_PREFIX + "abc",), None)
    assert tickets.TicketScrubber().filter(record)
    assert "abc" not in log.JsonLines().format(record)


def test_uvicorn_writes_through_the_same_handler() -> None:
    """Its own format would break a log of JSON lines, and would not blot tickets out."""
    configured: Any = django_settings.LOGGING
    uvicorn = configured["loggers"]["uvicorn"]
    assert (uvicorn["handlers"], uvicorn["propagate"]) == (["console"], False)
    assert configured["handlers"]["console"]["filters"] == ["tickets"]
