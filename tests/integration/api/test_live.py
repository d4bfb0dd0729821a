"""The API of a real web process, with a real Redis: jobs that are followed, and screens that are opened by a token."""

from __future__ import annotations

import base64
import datetime as dt
import http.client
import json
import os
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest

from portal.accounts.models import ApiToken, User
from portal.accounts.tokens import make_token, revoke_token
from portal.api.follow import MOST_AT_ONCE
from portal.console.models import ConsoleSession
from portal.console.tickets import SUBPROTOCOL_PREFIX
from portal.events.kinds import Kind
from portal.events.services import record
from portal.jobs import services as jobs
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, JobStatus, StepName, StepStatus
from portal.lib.secrets import seal
from portal.machines.models import Machine
from tests.integration.console.doors.wire import GREETING, Wire
from tests.portal.console.screens import SECRET, Screen, shown
from tests.support.product import wait_for
from tests.support.together import at_once
from tests.support.web import HOST, Web

pytestmark = pytest.mark.django_db(transaction=True)

FOLLOWERS = 60
WITHIN_S = 1.0


@dataclass
class Follower(threading.Thread):
    """Reads the events of one address until they end: each with the time at which it came."""

    port: int
    secret: str
    path: str
    events: list[tuple[float, str, Any]] = field(default_factory=list)
    status: int = 0

    def __post_init__(self) -> None:
        threading.Thread.__init__(self, daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        headers = {"Authorization": f"Bearer {self.secret}", "Host": "localhost"}
        connection.request("GET", f"/api/v1/{self.path}", headers=headers)
        answer = connection.getresponse()
        self.status = answer.status
        name = ""
        while line := answer.readline():
            kind, _, value = line.decode().strip().partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                self.events.append((time.monotonic(), name, json.loads(value)))
        connection.close()

    def has(self, status: str) -> bool:
        return any(name == "job" and data["status"] == status for _at, name, data in self.events)


def _token(user: User) -> tuple[ApiToken, str]:
    day = dt.timedelta(days=1)
    return make_token(user, actor=user, name="t", scope=ApiToken.Scope.WRITE, lifetime=day)


def _threads_of(web: Web) -> int:
    return len(os.listdir(f"/proc/{web.pid}/task"))  # noqa: PTH208 - /proc, read as text


def test_a_change_of_a_job_reaches_all_its_followers_within_a_second(web: Web, machine: Machine, alice: User) -> None:
    """And none of them holds a thread of the web process."""
    job = jobs.enqueue(JobName.MACHINE_STOP, machine, queue="host.local", actor=alice)
    _row, secret = _token(alice)
    followers = [Follower(web.port, secret, f"jobs/{job.pk}/events") for _number in range(FOLLOWERS)]
    for follower in followers:
        follower.start()
    wait_for("all followers know the job", lambda: all(one.has("queued") for one in followers), seconds=60, every=0.1)
    assert _threads_of(web) < FOLLOWERS / 2
    step = at_once([lambda: _go_on(job)])[0]
    took = _until_all_hear(followers, step, progress=1)
    assert _is_quick(took), took
    at_once([lambda: _end(step)])
    for follower in followers:
        follower.join(60)
        assert not follower.is_alive()
        assert follower.events[-1][2]["status"] == "done"
        assert [step["status"] for step in follower.events[-1][2]["steps"]] == ["done", "pending"]


def _is_quick(took: list[float]) -> bool:
    """For half of them at least; the others wait their turn on a machine that is busy with other tests."""
    return took[FOLLOWERS // 2] < WITHIN_S and took[-1] < WITHIN_S * 3


def _until_all_hear(followers: list[Follower], step: JobStep, *, progress: int) -> list[float]:
    """How long each of them took to hear of a change, the quickest first."""

    def change() -> float:
        jobs.report_step(step, progress=progress)
        return time.monotonic()

    def heard(follower: Follower) -> float | None:
        told = (at for at, _name, data in list(follower.events) if data["steps"][0]["progress"] == progress)
        return next(told, None)

    changed = at_once([change])[0]
    wait_for("all of them hear it", lambda: all(map(heard, followers)), seconds=60, every=0.05)
    return sorted(at - changed for at in map(heard, followers) if at is not None)


def _go_on(job: Job) -> JobStep:
    taken = jobs.take_lease(job.pk, owner="w")
    assert taken is not None
    return jobs.start_step(taken, StepName.ASK_SHUT_DOWN)


def _end(step: JobStep) -> None:
    jobs.end_step(step, StepStatus.DONE)
    jobs.finish(Job.objects.get(pk=step.job_id), JobStatus.DONE)


def test_following_ends_with_the_token(web: Web, machine: Machine, alice: User) -> None:
    job = jobs.enqueue(JobName.MACHINE_STOP, machine, queue="host.local", actor=alice)
    row, secret = _token(alice)
    follower = Follower(web.port, secret, f"jobs/{job.pk}/events")
    follower.start()
    wait_for("it follows", lambda: follower.has("queued"), seconds=60, every=0.05)
    at_once([lambda: revoke_token(row, actor=alice)])
    follower.join(60)
    assert not follower.is_alive()
    assert follower.events[-1][1] == "gone"


def test_a_projects_events_reach_who_follows_within_a_second_and_end_with_the_token(
    web: Web, machine: Machine, alice: User, charlie: User
) -> None:
    elsewhere = charlie.memberships.get().project_id
    row, secret = _token(alice)
    at_once([lambda: _happens(machine, machine.project_id, "before")])
    follower = Follower(web.port, secret, f"projects/{machine.project_id}/events/follow")
    follower.start()
    wait_for("it is let in", lambda: follower.status == 200, seconds=60, every=0.05)
    at_once([lambda: _happens(machine, elsewhere, "elsewhere")])
    took: list[float] = []
    for count in range(2):
        happened = at_once([partial(_happens, machine, machine.project_id, str(count))])[0]
        wait_for("it is told", lambda count=count: len(follower.events) > count, seconds=60, every=0.05)  # type: ignore[misc]  # the default binds the loop's value
        took.append(follower.events[count][0] - happened)
    assert took[0] < WITHIN_S, took
    at_once([lambda: revoke_token(row, actor=alice)])
    follower.join(60)
    assert not follower.is_alive()
    assert [(name, data.get("detail")) for _at, name, data in follower.events] == [
        *(("event", {"which": str(number)}) for number in range(len(took))),
        ("gone", None),
    ]


def test_following_goes_on_from_a_moment(web: Web, machine: Machine, alice: User) -> None:
    """Events that came while nobody followed, more of them than are sent at once."""
    count = MOST_AT_ONCE + 20
    at_once([lambda: [_happens(machine, machine.project_id, str(number)) for number in range(count)]])
    _row, secret = _token(alice)
    since = (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    follower = Follower(web.port, secret, f"projects/{machine.project_id}/events/follow?since={since}")
    follower.start()
    wait_for("all are told", lambda: len(follower.events) >= count, seconds=60, every=0.1)
    assert [data["detail"]["which"] for _at, _name, data in follower.events] == [str(one) for one in range(count)]


def _happens(machine: Machine, project: UUID, which: str) -> float:
    record(Kind.MACHINE_CHANGED, machine, project=project, data={"which": which})
    return time.monotonic()


def test_a_screen_is_opened_by_a_token_and_closes_with_it(web: Web, machine: Machine, alice: User, bob: User) -> None:
    """A program has no cookie: the token that asked for the ticket lets in, and no other does."""
    row, secret = _token(alice)
    _other, foreign = _token(bob)
    with TemporaryDirectory(prefix="casement-") as folder:
        screen = Screen(f"{folder}/vnc.sock")
        Machine.objects.filter(pk=machine.pk).update(console_socket=screen.path, console_secret=seal(SECRET))
        with shown(screen):
            for other in (foreign, None):
                stolen = _open(web, other, _ticket(web, secret, machine))
                assert stolen.closed().reason == "foreign"
                stolen.socket.close()
            assert screen.opened == 0
            wire = _open(web, secret, _ticket(web, secret, machine))
            wire.send(GREETING)
            assert wire.until(12).startswith(b"RFB 003.008")
            wait_for("its row", lambda: ConsoleSession.objects.filter(ended_at=None).exists(), seconds=60, every=0.05)
            at_once([lambda: revoke_token(row, actor=alice)])
            assert wire.closed().reason == "signed-out"
            wire.socket.close()


def _ticket(web: Web, secret: str, machine: Machine) -> dict[str, Any]:
    connection = http.client.HTTPConnection(HOST, web.port, timeout=60)
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", "Host": "localhost"}
    connection.request("POST", f"/api/v1/machines/{machine.pk}/screen/ticket", "{}", headers)
    answer = connection.getresponse()
    body: dict[str, Any] = json.loads(answer.read())
    connection.close()
    assert answer.status == 201, body
    assert body["mode"] == "control"
    return body


def _open(web: Web, secret: str | None, ticket: dict[str, Any]) -> Wire:
    wire = Wire(web.port)
    headers = [
        ("Host", f"localhost:{web.port}"),
        ("Origin", f"http://localhost:{web.port}"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
        ("Sec-WebSocket-Protocol", f"binary, {SUBPROTOCOL_PREFIX}{ticket['ticket']}"),
    ]
    if secret:
        headers.append(("Authorization", f"Bearer {secret}"))
    assert wire.ask(ticket["path"], headers) == 101
    return wire
