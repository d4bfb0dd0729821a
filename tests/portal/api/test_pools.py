"""Pools and desktops through the API; the rules themselves are tried in tests/portal/pools."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group

from portal.accounts.models import Project, User
from portal.console.models import ConsoleSession
from portal.images.models import ImageVersion, VersionStatus
from portal.machines.models import Flavour, Machine
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.states import DesktopState, PlaceState
from tests.portal.api.conftest import MakeProgram
from tests.support.pool_rows import pool_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def pool(machine: Machine, alice: User, bob: User) -> Pool:
    return pool_of(machine, desktops=1, entitled=(alice, bob))


def refused(answer: Any) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["errors"][0]["field"] if answer.json().get("errors") else None


def test_a_person_gets_a_desktop_and_the_next_one_waits(
    program: MakeProgram, pool: Pool, alice: User, bob: User
) -> None:
    hers, his = program(alice), program(bob)
    [offer] = hers.get("desktops").json()["items"]
    assert (offer["id"], offer["name"], offer["open"], offer["sessions"]) == (str(pool.pk), "lab", True, [])
    ask = f"desktops/{pool.pk}/ask"
    got = hers.post(ask, {}).json()
    assert got["place"] is None and got["session"]["person"] == "alice" and got["session"]["desktop"] == "lab-1"
    assert hers.post(ask, {}).json()["session"]["id"] == got["session"]["id"]
    waits = his.post(ask, {}).json()
    assert waits["session"] is None and waits["place"]["position"] == 1
    assert his.get("desktops").json()["items"][0]["waiting"] is True
    assert his.send("DELETE", f"desktops/{pool.pk}/place").status_code == 204
    assert Place.objects.get().state == PlaceState.GONE
    path = f"desktop-sessions/{got['session']['id']}"
    assert hers.get("desktop-sessions").json()["items"] == [hers.get(path).json()]
    for answer in (his.get(path), his.send("DELETE", path), his.post(f"{path}/stay"), his.post(f"{path}/take-over")):
        assert answer.status_code == 404
    ended = hers.send("DELETE", path).json()
    assert (ended["state"], ended["end_reason"], ended["ended_how"]) == (
        "ended",
        "signed_out",
        "You signed out of the desktop.",
    )
    assert hers.post(f"{path}/take-over").status_code == 409


def test_a_program_says_that_it_is_there_and_takes_over(program: MakeProgram, pool: Pool, alice: User) -> None:
    hers = program(alice)
    session = hers.post(f"desktops/{pool.pk}/ask", {}).json()["session"]
    Session.objects.update(warned_at=session["started_at"])
    assert hers.post(f"desktop-sessions/{session['id']}/stay").json()["warned_at"] is None
    machine = Machine.objects.get(pk=session["machine"]["id"])
    other = ConsoleSession.objects.create(
        user=alice, user_name="alice", machine=machine, machine_name="x", mode="control", browser="another"
    )
    assert hers.post(f"desktop-sessions/{session['id']}/take-over").status_code == 200
    other.refresh_from_db()
    assert other.end_ordered_by == "alice"


def test_an_operator_makes_changes_watches_and_deletes_a_pool(
    program: MakeProgram, operator: User, project: Project, image_version: ImageVersion, flavour: Flavour, bob: User
) -> None:
    olga = program(operator)
    body = {"name": "lab", "project": str(project.pk), "image_version": str(image_version.pk), "flavour": "small"}
    made = olga.post("pools", {**body, "maximum": 4, "idle_warn_s": 600})
    assert made.status_code == 201, made.content
    path = f"pools/{made.json()['id']}"
    assert (made.json()["name_pattern"], made.json()["maximum"], made.json()["idle_warn_s"]) == ("lab-{n}", 4, 600)
    assert refused(olga.post("pools", body)) == (409, "name")
    assert refused(olga.post("pools", {**body, "name": "Lab 2"})) == (422, "name")
    assert olga.get("pools?name=lab").json()["items"] == [olga.get(path).json()]
    read = olga.get(path)
    changed = olga.send("PATCH", path, {"title": "Reading room", "spare": 3}, If_Match=read["ETag"])
    assert (changed.json()["title"], changed.json()["spare"]) == ("Reading room", 3)
    assert olga.send("PATCH", path, {"spare": 1}, If_Match=read["ETag"]).status_code == 412
    assert refused(olga.send("PATCH", path, {"spare": 9})) == (422, "maximum")

    Group.objects.create(name="7b")
    for who in ({"person": "bob"}, {"project": str(project.pk)}, {"group": "7b"}):
        assert olga.post(f"{path}/entitlements", who).status_code == 201
    assert olga.post(f"{path}/entitlements", {"person": "bob", "group": "7b"}).status_code == 422
    assert refused(olga.post(f"{path}/entitlements", {"group": "8a"})) == (422, "group")
    listed = olga.get(f"{path}/entitlements").json()["items"]
    assert {(one["person"], one["group"], (one["project"] or {}).get("name")) for one in listed} == {
        ("bob", None, None),
        (None, None, "Lighthouse"),
        (None, "7b", None),
    }
    assert olga.send("DELETE", f"pools/entitlements/{listed[0]['id']}").status_code == 204

    hours = [{"weekday": 0, "from_minute": 420, "to_minute": 1080, "spare": 4}]
    assert olga.send("PUT", f"{path}/hours", {"hours": hours}).json() == {"hours": hours}
    assert olga.get(f"{path}/hours").json() == {"hours": hours}
    assert olga.send("PUT", f"{path}/hours", {"hours": [*hours, hours[0] | {"spare": 1}]}).status_code == 422

    assert olga.post(f"{path}/maintenance", {"on": True}).json()["maintenance"] is True
    assert olga.post(f"{path}/message", {"text": "Back at noon."}).json()["message"] == "Back at noon."
    assert olga.post(f"{path}/empty").json()["enabled"] is False
    assert olga.send("DELETE", path).status_code == 204
    assert not Pool.objects.exists()


def test_an_operator_sees_what_happens_in_a_pool_and_signs_off(
    program: MakeProgram, operator: User, pool: Pool, alice: User, bob: User
) -> None:
    olga, path = program(operator), f"pools/{pool.pk}"
    session = program(alice).post(f"desktops/{pool.pk}/ask", {}).json()["session"]
    program(bob).post(f"desktops/{pool.pk}/ask", {})
    now = olga.get(f"{path}/now").json()
    assert (now["total"], now["desktops"]["taken"], now["sessions"], now["waiting"]) == (1, 1, 1, 1)
    assert [one["person"] for one in olga.get(f"{path}/line").json()["items"]] == ["bob"]
    assert [one["id"] for one in olga.get(f"{path}/sessions").json()["items"]] == [session["id"]]
    [desktop] = olga.get(f"{path}/desktops?state=taken").json()["items"]
    assert (desktop["name"], desktop["person"], desktop["machine"]["name"]) == ("lab-1", "alice", "lab-1")
    assert olga.send("DELETE", f"desktop-sessions/{session['id']}").json()["end_reason"] == "operator"
    assert olga.post(f"{path}/sign-off").json() == {"signed_off": 0}
    Desktop.objects.update(state=DesktopState.FAILED, error="No room.")
    assert olga.get(f"{path}/now").json()["failures"][0]["error"] == "No room."
    assert olga.post(f"pools/desktops/{desktop['id']}/recycle").json()["state"] == "recycling"


def test_a_pool_comes_to_another_version_and_back(program: MakeProgram, operator: User, pool: Pool) -> None:
    olga, path = program(operator), f"pools/{pool.pk}"
    newer = ImageVersion.objects.create(image=pool.image_version.image, number=2, status=VersionStatus.READY)
    moved = olga.post(f"{path}/recompose", {"image_version": str(newer.pk), "message": "A new one comes."}).json()
    assert (moved["image_version"]["number"], moved["previous_version"]["number"]) == (2, 1)
    assert moved["message"] == "A new one comes."
    assert olga.post(f"{path}/back", {}).json()["image_version"]["number"] == 1
    at_time = {"image_version": str(newer.pk), "how": "at_time"}
    assert refused(olga.post(f"{path}/recompose", at_time)) == (422, "at")
    assert refused(olga.post(f"{path}/recompose", at_time | {"at": "2030-01-01T00:00:00"})) == (422, "at")
    later = olga.post(f"{path}/recompose", at_time | {"at": "2030-01-01T00:00:00Z"}).json()
    assert (later["next_version"]["number"], later["recompose_at"]) == (2, "2030-01-01T00:00:00Z")
    assert olga.send("DELETE", f"{path}/recompose").json()["next_version"] is None
