"""What holds for all operations: keys against doing things twice, states that are guarded, pages, fields, problems."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError
from django.test import Client
from pytest_django.fixtures import Settings

from portal.accounts.models import ApiToken, User
from portal.api.models import Answered
from portal.audit.models import Event
from portal.console.models import ConsoleLink, ConsoleSession
from portal.errors import NoCapacityError
from portal.images.models import Image, ImageVersion
from portal.jobs.models import Job
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState
from tests.portal.api.conftest import ROOT, MakeProgram, Program

NASTY = "<script>alert(1)</script>"


@pytest.fixture
def wanted(machine: Machine, image_version: ImageVersion, flavour: Flavour) -> dict[str, str]:
    return {
        "project": str(machine.project_id),
        "image": str(image_version.image_id),
        "flavour": flavour.name,
        "name": "lamp",
    }


# --- the same again -----------------------------------------------------------------------------------------------


def test_the_same_key_makes_one_machine_and_gets_the_same_answer(
    program: MakeProgram, alice: User, wanted: dict[str, str]
) -> None:
    """The answer was cut off on its way, so the program asks again."""
    mine = program(alice)
    first = mine.post("machines", wanted, Idempotency_Key="one")
    second = mine.post("machines", wanted, Idempotency_Key="one")
    assert (first.status_code, second.status_code) == (202, 202)
    assert (second.content, second["Location"]) == (first.content, first["Location"])
    assert "Idempotency-Replayed" not in first and second["Idempotency-Replayed"] == "true"
    assert Machine.objects.filter(name="lamp").count() == Job.objects.count() == 1


def test_the_same_key_for_another_request_is_refused(program: MakeProgram, alice: User, wanted: dict[str, str]) -> None:
    mine = program(alice)
    mine.post("machines", wanted, Idempotency_Key="one")
    answer = mine.post("machines", wanted | {"name": "torch"}, Idempotency_Key="one")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")
    assert not Machine.objects.filter(name="torch").exists()


def test_keys_of_other_tokens_are_other_keys(
    program: MakeProgram, alice: User, bob: User, wanted: dict[str, str]
) -> None:
    program(alice).post("machines", wanted, Idempotency_Key="one")
    answer = program(bob).post("machines", wanted | {"name": "torch"}, Idempotency_Key="one")
    assert answer.status_code == 202, answer.content


def test_a_passing_failure_is_not_repeated_for_ever(
    program: MakeProgram, alice: User, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = program(alice)
    with monkeypatch.context() as away:
        away.setattr("portal.hosts.services.reserve_capacity", _raise(NoCapacityError("No room just now.")))
        assert mine.post("machines", wanted, Idempotency_Key="one").status_code == 409
        assert not Answered.objects.exists() and not Machine.objects.filter(name="lamp").exists()
    assert mine.post("machines", wanted, Idempotency_Key="one").status_code == 202


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_args: object, **_named: object) -> None:
        raise error

    return fail


def test_a_key_is_forgotten_after_a_day(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine = program(alice)
    ApiToken.objects.update(expires_at=ApiToken.objects.get().expires_at + dt.timedelta(days=30))
    for day, shared in ((0, 1), (2, 2)):
        with time_machine.travel(machine.created_at + dt.timedelta(days=day), tick=True):
            mine.post(f"machines/{machine.pk}/screen/links", {"mode": "view"}, Idempotency_Key="one")
            assert ConsoleLink.objects.count() == shared
    assert Answered.objects.count() == 1


def test_what_is_kept_of_an_answer_is_sealed(program: MakeProgram, alice: User, machine: Machine) -> None:
    """A link's address is in it, which is as good as a key."""
    mine = program(alice)
    made = mine.post(f"machines/{machine.pk}/screen/links", {"mode": "view"}, Idempotency_Key="one").json()
    [row] = Answered.objects.values()
    assert made["url"].rstrip("/").rpartition("/")[2] not in str(row)
    again = mine.post(f"machines/{machine.pk}/screen/links", {"mode": "view"}, Idempotency_Key="one").json()
    assert again["url"] == made["url"]


def test_the_same_upload_again_makes_one_image(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine = program(alice)
    answers = []
    for _time in range(2):
        file = SimpleUploadedFile("mine.qcow2", b"QFI\xfb" + b"\0" * 5000)
        form = {"title": "Mine", "project": str(machine.project_id), "file": file}
        answers.append(mine.client.post(f"{ROOT}images", form, headers={"Idempotency-Key": "up"}))
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].content
    assert answers[0].content == answers[1].content
    image = Image.objects.get(title="Mine")
    assert (image.project_id, image.versions.count()) == (machine.project_id, 1)
    assert image.versions.get().upload_path.read_bytes().startswith(b"QFI")


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é"])
def test_a_key_that_is_none_is_refused(program: MakeProgram, alice: User, machine: Machine, key: str) -> None:
    answer = program(alice).post(f"machines/{machine.pk}/stop", Idempotency_Key=key)
    assert answer.status_code == 422, answer.content
    assert not Job.objects.exists()


# --- states -------------------------------------------------------------------------------------------------------


def test_a_change_is_refused_when_the_machine_is_not_as_it_was_read(
    program: MakeProgram, alice: User, machine: Machine
) -> None:
    mine = program(alice)
    etag = mine.get(f"machines/{machine.pk}")["ETag"]
    Machine.objects.update(power_state=PowerState.PAUSED)
    answer = mine.post(f"machines/{machine.pk}/stop", If_Match=etag)
    assert (answer.status_code, answer.json()["code"]) == (412, "changed-meanwhile")
    assert not Job.objects.exists()
    fresh = mine.get(f"machines/{machine.pk}")["ETag"]
    assert fresh != etag
    assert mine.post(f"machines/{machine.pk}/stop", If_Match=f'"other", {fresh}').status_code == 202


def test_what_a_program_has_already_is_not_sent_again(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine = program(alice)
    for path in (f"machines/{machine.pk}", "machines", "projects"):
        etag = mine.get(path)["ETag"]
        again = mine.get(path, If_None_Match=etag)
        assert (again.status_code, again.content) == (304, b""), path


def test_who_is_at_a_screen_is_guarded_too(program: MakeProgram, alice: User, machine: Machine) -> None:
    """Two who take control at once: the second did not see that the first has it."""
    mine = program(alice)
    ConsoleSession.objects.create(user=alice, user_name="alice", machine=machine, machine_name="beacon", mode="control")
    people, links = (mine.get(f"machines/{machine.pk}/screen/{what}")["ETag"] for what in ("people", "links"))
    taken = mine.post(f"machines/{machine.pk}/screen/control/take", If_Match=people)
    assert taken.status_code == 200, taken.content
    late = mine.post(f"machines/{machine.pk}/screen/control/release", If_Match=people)
    assert (late.status_code, late.json()["code"]) == (412, "changed-meanwhile")
    assert mine.post(f"machines/{machine.pk}/screen/control/release", If_Match=taken["ETag"]).status_code == 200
    link = mine.post(f"machines/{machine.pk}/screen/links", {"mode": "view"}).json()["id"]
    address = f"machines/{machine.pk}/screen/links/{link}"
    assert mine.send("DELETE", address, If_Match=links).status_code == 412
    assert mine.send("DELETE", address, If_Match=mine.get(f"machines/{machine.pk}/screen/links")["ETag"]).content == b""
    assert ConsoleLink.objects.get().revoked_at is not None


def test_a_head_has_the_headers_of_what_it_is_of(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine = program(alice)
    for path in ("projects", "machines", f"machines/{machine.pk}"):
        whole = mine.get(path)
        head = mine.send("HEAD", path)
        assert (head.status_code, head.content) == (200, b""), path
        assert (head["ETag"], head["Content-Type"]) == (whole["ETag"], whole["Content-Type"])
        assert mine.send("HEAD", path, If_None_Match=whole["ETag"]).status_code == 304
    assert mine.send("HEAD", f"machines/{uuid4()}").status_code == 404
    assert Program(None).send("HEAD", "me").status_code == 401
    refused = mine.send("HEAD", f"machines/{machine.pk}/stop")
    assert (refused.status_code, refused["Allow"]) == (405, "POST")
    assert mine.send("PUT", "machines")["Allow"].endswith(", HEAD")


# --- lists --------------------------------------------------------------------------------------------------------


def _more(machine: Machine, count: int) -> None:
    for number in range(count):
        Machine.objects.create(
            project=machine.project,
            owner=machine.owner,
            name=f"m{number:02}",
            kind=machine.kind,
            vcpus=1,
            memory_mib=512,
            disk_gib=1,
            host=machine.host,
            mac=f"52:54:00:00:01:{number:02x}",
            login_user="x",
        )


def _pages(mine: Program, path: str) -> list[list[dict[str, Any]]]:
    answer = mine.get(path).json()
    pages = [answer["items"]]
    while answer["next"]:
        answer = mine.get(f"{path}&cursor={answer['next']}").json()
        pages.append(answer["items"])
        assert len(pages) < 20
    return pages


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "name", "-name"])
def test_pages_hold_every_row_once_while_others_come(
    program: MakeProgram, alice: User, machine: Machine, sort: str
) -> None:
    _more(machine, 7)
    # Rows of the same moment are told apart by their keys.
    Machine.objects.filter(name__in=["m01", "m02", "m03"]).update(created_at=machine.created_at)
    found = _pages(program(alice), f"machines?limit=3&sort={sort}")
    names = [row["name"] for page in found for row in page]
    assert [len(page) for page in found] == [3, 3, 2]
    assert sorted(names) == ["beacon", *(f"m{number:02}" for number in range(7))]
    if "name" in sort:
        assert names == sorted(names, reverse=sort.startswith("-"))


def test_a_row_that_comes_meanwhile_shifts_nothing(program: MakeProgram, alice: User, machine: Machine) -> None:
    _more(machine, 4)
    mine = program(alice)
    first = mine.get("machines?limit=3").json()
    Machine.objects.filter(name="m00").update(created_at=dt.datetime.now(dt.UTC))
    names = [row["name"] for row in first["items"]]
    rest = mine.get(f"machines?limit=3&cursor={first['next']}").json()["items"]
    assert not {row["name"] for row in rest} & set(names)


@pytest.mark.parametrize(
    "cursor", ["x", "AAAA", "W10", "bnVsbA", "%00", "eyJhIjoxfQ", "WyItY3JlYXRlZF9hdCIsIngiLCJ5Il0", "W1tdLFtdLFtdXQ"]
)
def test_a_cursor_that_is_none_is_refused(program: MakeProgram, alice: User, cursor: str) -> None:
    answer = program(alice).get(f"machines?cursor={cursor}")
    assert answer.status_code == 422, answer.content
    assert answer.json()["errors"][0]["field"] == "cursor"


@pytest.mark.parametrize("parts", [["-created_at", "2026-01-01T00:00:00", str(uuid4())], ["-created_at", "x", "y"]])
def test_a_cursor_of_a_made_up_place_is_refused(program: MakeProgram, alice: User, parts: list[str]) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()
    assert program(alice).get(f"machines?cursor={cursor}").status_code == 422


def test_a_cursor_of_another_order_is_refused(program: MakeProgram, alice: User, machine: Machine) -> None:
    _more(machine, 2)
    mine = program(alice)
    cursor = mine.get("machines?limit=1&sort=name").json()["next"]
    assert mine.get(f"machines?sort=-created_at&cursor={cursor}").status_code == 422


def test_filters_and_fields(program: MakeProgram, alice: User, machine: Machine) -> None:
    _more(machine, 2)
    mine = program(alice)
    assert [row["name"] for row in mine.get("machines?status=running").json()["items"]] == ["beacon"]
    assert mine.get("machines?name=m01&fields=name,status").json() == {
        "items": [{"name": "m01", "status": "requested"}],
        "next": None,
    }
    unknown = mine.get("machines?fields=name,console_secret")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (422, "fields")
    assert mine.get("machines?status=asleep").status_code == 422
    assert mine.get("machines?limit=1000").status_code == 422
    assert mine.get("machines?q=%00").status_code == 422


# --- problems -----------------------------------------------------------------------------------------------------


def test_every_error_is_a_problem_document(program: MakeProgram, alice: User, machine: Machine, client: Client) -> None:
    mine = program(alice)
    cases = [
        (client.get("/api/v1/me"), 401, "unauthenticated"),
        (client.get("/api/v2/machines"), 404, "not-found"),
        (client.post("/api/nowhere"), 404, "not-found"),
        (mine.get("machines/not-a-uuid"), 404, "not-found"),
        (mine.send("PATCH", "machines"), 405, "method-not-allowed"),
        (mine.client.post(f"{ROOT}keys", b"{", content_type="application/json"), 400, "malformed"),
        (mine.client.post(f"{ROOT}keys", b"[" * 100_000, content_type="application/json"), 400, "malformed"),
        (mine.client.post(f"{ROOT}keys", b" " * 2_000_000, content_type="application/json"), 400, "malformed"),
        (mine.send("DELETE", f"keys/{10**40}"), 404, "not-found"),
        (mine.post("keys", {"public_key": 1}), 422, "invalid"),
        (mine.post("keys", {"public_key": "ssh-rsa", "nmae": "x"}), 422, "invalid"),
        (mine.post(f"machines/{machine.pk}/start"), 409, "conflict"),
        (client.get("/api/v1/me", headers={"Host": "evil.example"}), 400, "malformed"),
    ]
    for answer, status, code in cases:
        assert answer.status_code == status, (status, code, answer.content)
        assert answer["Content-Type"] == "application/problem+json", code
        body = answer.json()
        assert (body["status"], body["code"]) == (status, code)
        assert body["type"] == f"urn:casement:problem:{code}" and body["title"] and body["detail"]


def test_a_database_that_is_away_is_told_with_a_time_to_come_back(
    program: MakeProgram, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = program(alice)
    monkeypatch.setattr("portal.api.auth.token_of", _raise(OperationalError("gone")))
    monkeypatch.setattr("portal.lib.middleware.is_database_away", lambda: True)
    monkeypatch.setattr("portal.lib.middleware.connection.close", lambda: None)
    answer = mine.get("me")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer["Retry-After"] == "5"


def test_a_fault_of_ours_tells_nothing(program: MakeProgram, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = program(alice)
    mine.client.raise_request_exception = False
    monkeypatch.setattr("portal.api.operations.people.MeOut.of", _raise(RuntimeError("secret /path")))
    answer = mine.get("me")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert b"secret" not in answer.content and b"Traceback" not in answer.content


def test_names_come_back_as_data_that_no_browser_reads_as_a_page(program: MakeProgram, alice: User) -> None:
    """An address of ours that is opened in a tab must not run what somebody typed as a name."""
    mine = program(alice)
    answer = mine.get(f"machines?fields={NASTY}")
    assert answer.status_code == 422
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_other_sites_get_no_leave_to_ask(program: MakeProgram, alice: User) -> None:
    mine = program(alice)
    asked = mine.send("OPTIONS", "machines", Origin="https://evil.example", Access_Control_Request_Method="POST")
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.lower().startswith("access-control")]


# --- tokens -------------------------------------------------------------------------------------------------------


def test_a_token_ends_when_it_is_revoked_or_expires_or_its_person_is_locked_out(
    program: MakeProgram, alice: User, bob: User, vera: User
) -> None:
    revoked, expired, locked = program(alice), program(bob), program(vera)
    for one in (revoked, expired, locked):
        assert one.get("me").status_code == 200
    token = revoked.get("me").json()["token"]["id"]
    assert revoked.send("DELETE", f"tokens/{token}").status_code == 204
    ApiToken.objects.filter(user=bob).update(expires_at=dt.datetime.now(dt.UTC))
    User.objects.filter(pk=vera.pk).update(is_active=False)
    answers = [one.get("me") for one in (revoked, expired, locked)]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert len({answer.content for answer in answers}) == 1, "which of the three it is, is not told"
    assert Event.objects.filter(action="token.revoked", actor=alice).exists()


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer casement_", "Basic {}", "{}", "Bearer x{}", "Bearer {}x", "Bearer {} {}"],
)
def test_only_a_whole_token_lets_in(program: MakeProgram, alice: User, header: str) -> None:
    secret = program(alice).secret or ""
    answer = Client().get("/api/v1/me", headers={"Authorization": header.replace("{}", secret)})
    assert answer.status_code == 401
    assert Client().get(f"/api/v1/me?token={secret}").status_code == 401


def test_the_token_itself_is_nowhere(program: MakeProgram, alice: User) -> None:
    mine = program(alice)
    secret = mine.secret or ""
    assert mine.get("me").status_code == 200
    kept = (
        str(list(ApiToken.objects.values())) + str(list(Event.objects.values())) + mine.get("tokens").content.decode()
    )
    assert secret not in kept and secret[13:] not in kept
    row = ApiToken.objects.get()
    assert row.used_at is not None and row.used_ip == "127.0.0.1"
    assert len(secret) >= len("casement_") + 43


def test_more_requests_than_allowed_are_told_when_to_come_back(
    program: MakeProgram, alice: User, bob: User, settings: Settings, redis_db: str
) -> None:
    settings.API_REQUESTS_PER_MINUTE = 3
    mine = program(alice)
    answers = [mine.get("me") for _time in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0]["RateLimit-Policy"] == '"token";q=3;w=60'
    assert answers[2]["RateLimit"].startswith('"token";r=0;t=')
    assert answers[3].json()["code"] == "rate-limited"
    assert 1 <= int(answers[3]["Retry-After"]) <= 60
    assert program(bob).get("me").status_code == 200, "each token is counted by itself"
