"""Snapshots through the API; the rules themselves are tried in tests/workers/test_snapshots.py."""

from __future__ import annotations

from typing import Any

import pytest

from portal.accounts.models import User
from portal.jobs.models import Job
from portal.machines.models import Machine
from portal.machines.states import PowerState
from portal.snapshots import restoring, services
from portal.snapshots.models import Snapshot, SnapshotSchedule
from tests.portal.api.conftest import MakeProgram
from tests.portal.test_every_url import snapshot_of


@pytest.fixture
def snapshot(machine: Machine, alice: User) -> Snapshot:
    return snapshot_of(machine, alice)


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["field"]


def test_a_snapshots_whole_life(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine, of_machine = program(alice), f"machines/{machine.pk}/snapshots"
    made = mine.post(of_machine, {"name": "before", "with_memory": True}, Idempotency_Key="one")
    assert (made.status_code, made.json()["kind"], made.json()["target"]["id"]) == (
        202,
        "snapshot.take",
        str(machine.pk),
    )
    assert mine.post(of_machine, {"name": "before", "with_memory": True}, Idempotency_Key="one").json() == made.json()
    [shown] = mine.get(of_machine).json()["items"]
    assert (shown["name"], shown["status"], shown["task"], shown["quiesced"]) == ("before", "creating", "taking", None)
    row = Snapshot.objects.get()
    services.record_made(row, quiesced=False, memory_bytes=1 << 30)
    services.record_taken(machine)
    Job.objects.all().delete()
    path = f"snapshots/{row.pk}"
    read = mine.get(path)
    assert read.json() == mine.get(of_machine + "?name=before").json()["items"][0]
    assert (read.json()["status"], read.json()["is_current"], read.json()["memory_bytes"]) == ("ready", True, 1 << 30)
    changed = mine.send("PATCH", path, {"description": "the upgrade"}, If_Match=read["ETag"])
    assert (changed.status_code, changed.json()["description"], changed.json()["name"]) == (
        200,
        "the upgrade",
        "before",
    )
    assert mine.send("PATCH", path, {"name": "x"}, If_Match=read["ETag"]).status_code == 412
    told = mine.get(f"{path}/restore").json()
    assert told["refusal"] == "" and told["can_be_taken_first"] and "lost" in told["sentences"][0]
    assert mine.post(f"{path}/restore", {"take_first": False}).json()["kind"] == "snapshot.restore"
    assert mine.send("DELETE", path).status_code == 409
    restoring.record_restored(machine)
    Job.objects.all().delete()
    assert mine.send("DELETE", path).json()["kind"] == "snapshot.delete"
    services.record_deleted(machine)
    assert mine.get(path).status_code == 404
    assert mine.get(of_machine).json()["items"] == []


def test_what_cannot_be_had_is_refused_at_its_field(
    program: MakeProgram, alice: User, vera: User, machine: Machine, snapshot: Snapshot
) -> None:
    of_machine = f"machines/{machine.pk}/snapshots"
    assert refused(program(alice).post(of_machine, {"name": "before the storm"})) == (409, "name")
    assert refused(program(alice).post(of_machine, {"name": "a/b"})) == (422, "name")
    assert program(vera).post(of_machine, {}).status_code == 403
    assert program(vera).send("DELETE", f"snapshots/{snapshot.pk}").status_code == 403
    for power, word in ((PowerState.SHUT_OFF, "off"), (PowerState.PAUSED, "paused")):
        Machine.objects.update(power_state=power)
        answer = program(alice).post(of_machine, {"with_memory": True})
        assert refused(answer) == (409, "with_memory")
        assert word in answer.json()["detail"]
    assert Snapshot.objects.count() == 1


def test_schedules_are_set_one_of_each_kind_and_removed(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine, path = program(alice), f"machines/{machine.pk}/snapshot-schedules"
    for keep in (7, 3):
        made = mine.send("PUT", path, {"every": "day", "hour": 4, "keep": keep})
        assert (made.status_code, made.json()["keep"], made.json()["hour"]) == (200, keep, 4)
    mine.send("PUT", path, {"every": "hour", "minute": 30, "keep": 24})
    assert [one["every"] for one in mine.get(path).json()["items"]] == ["hour", "day"]
    assert mine.send("PUT", path, {"every": "year"}).status_code == 422
    assert mine.send("DELETE", f"{path}?every=hour").status_code == 204
    assert mine.send("DELETE", f"{path}?every=hour").status_code == 404
    assert SnapshotSchedule.objects.get().every == "day"
