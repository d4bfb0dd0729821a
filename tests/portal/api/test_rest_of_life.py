"""What machines, projects and images have besides being there and running: each once through the API."""

from __future__ import annotations

import hashlib
from uuid import uuid4

import pytest

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.console import serial_log, tickets
from portal.events.models import Delivery, DeliveryStatus, Webhook
from portal.figures.points import SHAPES, Level
from portal.images.models import Image, ImageVersion, Source
from portal.images.official import OFFICIAL
from portal.jobs.models import Job
from portal.lib.secrets import seal, unseal
from portal.machines import binning
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status
from tests.portal.api.conftest import MakeProgram

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJQ2vVmVjVvVq2nq6oF5L4oFvJk1lQk3mE7h0c0q1m9v me@laptop"


# --- machines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kind", "power_state", "task"),
    [
        ("pause", "machine.pause", PowerState.RUNNING, "pausing"),
        ("resume", "machine.resume", PowerState.PAUSED, "resuming"),
        ("hibernate", "machine.hibernate", PowerState.RUNNING, "hibernating"),
        ("password", "machine.password", PowerState.RUNNING, "access"),
    ],
)
def test_a_machine_can_be_told_it(
    program: MakeProgram, alice: User, machine: Machine, word: str, kind: str, power_state: str, task: str
) -> None:
    Machine.objects.update(power_state=power_state)
    mine = program(alice)
    answer = mine.post(f"machines/{machine.pk}/{word}")
    assert answer.status_code == 202, answer.content
    assert answer.json()["kind"] == kind
    assert mine.get(f"machines/{machine.pk}").json()["task"] == task
    assert mine.post(f"machines/{machine.pk}/discard").status_code == 409


def test_saved_memory_is_shown_and_can_be_forgotten(program: MakeProgram, alice: User, machine: Machine) -> None:
    Machine.objects.update(power_state=PowerState.SHUT_OFF, saved_at=machine.created_at, saved_gib=1)
    mine = program(alice)
    [shown] = mine.get("machines?status=hibernated").json()["items"]
    assert shown["hibernated_at"] is not None and "discard" in shown["actions"]
    assert mine.post(f"machines/{machine.pk}/discard").json()["kind"] == "machine.discard"


def test_another_size_says_first_what_comes_when(
    program: MakeProgram, alice: User, machine: Machine, flavour: Flavour
) -> None:
    Flavour.objects.create(name="wide", title="Wide", vcpus=2, memory_mib=2048, disk_gib=10)
    Machine.objects.update(room_vcpus=4, room_memory_mib=machine.memory_mib)
    mine = program(alice)
    sizes = {one["flavour"]["name"]: one for one in mine.get(f"machines/{machine.pk}/sizes").json()["items"]}
    assert (sizes["wide"]["vcpus"], sizes["wide"]["memory"], sizes["wide"]["reason"]) == ("now", "next-start", "")
    answer = mine.post(f"machines/{machine.pk}/resize", {"flavour": "wide"})
    assert answer.json()["kind"] == "machine.resize", answer.content
    assert mine.get(f"machines/{machine.pk}").json()["wanted"] == {"vcpus": 2, "memory_mib": 2048}
    refused = mine.post(f"machines/{machine.pk}/resize", {"flavour": "none"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "flavour")


def test_what_is_left_out_of_a_change_stays(program: MakeProgram, alice: User, machine: Machine) -> None:
    mine = program(alice)
    path = f"machines/{machine.pk}"
    etag = mine.get(path)["ETag"]
    changed = mine.send("PATCH", path, {"labels": ["web", "env=test"], "description": "Shows the way."}, If_Match=etag)
    assert changed.status_code == 200, changed.content
    assert mine.send("PATCH", path, {"name": "lost"}, If_Match=etag).status_code == 412
    after = mine.send("PATCH", path, {"name": "torch", "protected": True}, If_Match=changed["ETag"]).json()
    assert (after["name"], after["protected"], after["description"]) == ("torch", True, "Shows the way.")
    assert after["labels"] == ["env=test", "web"]
    assert [row["name"] for row in mine.get("machines?label=web").json()["items"]] == ["torch"]
    assert mine.get("machines?label=we").json()["items"] == []
    assert mine.send("DELETE", path).status_code == 409
    assert mine.send("PATCH", path, {"labels": ["No Label"]}).json()["errors"][0]["field"] == "labels"


def test_deleting_says_where_to_and_can_be_taken_back(
    program: MakeProgram, alice: User, vera: User, machine: Machine, project: Project
) -> None:
    Project.objects.update(bin_days=7, used_machines=1, used_vcpus=1, used_memory_mib=1024, used_disk_gib=10)
    mine = program(alice)
    job = mine.send("DELETE", f"machines/{machine.pk}").json()
    assert job["kind"] == "machine.bin"
    binning.record_binned(machine)
    assert mine.get(f"machines/{machine.pk}").status_code == 404
    [binned] = mine.get("bin").json()["items"]
    assert (binned["name"], binned["purge_at"] is not None) == ("beacon", True)
    assert program(vera).post(f"bin/{machine.pk}/restore").status_code == 403
    back = mine.post(f"bin/{machine.pk}/restore")
    assert (back.status_code, back.json()["status"], back.json()["power_state"]) == (200, "ready", "shut_off")
    assert mine.get("bin").json()["items"] == []
    Job.objects.all().delete()
    Machine.objects.update(status=Status.BINNED, task="")
    assert mine.send("DELETE", f"bin/{machine.pk}").json()["kind"] == "machine.delete"


def test_deleting_for_good_passes_the_bin(program: MakeProgram, alice: User, machine: Machine) -> None:
    Project.objects.update(bin_days=7)
    assert program(alice).send("DELETE", f"machines/{machine.pk}?purge=true").json()["kind"] == "machine.delete"


def test_many_at_once_get_an_answer_each(program: MakeProgram, alice: User, charlie: User, machine: Machine) -> None:
    other = Machine.objects.create(
        project=machine.project,
        owner=alice,
        name="lamp",
        kind=machine.kind,
        vcpus=1,
        memory_mib=512,
        disk_gib=1,
        host=machine.host,
        mac="52:54:00:00:01:01",
        login_user="x",
        status=Status.READY,
        power_state=PowerState.SHUT_OFF,
    )
    mine = program(alice)
    wanted = {"action": "stop", "machines": [str(machine.pk), str(other.pk), str(uuid4())]}
    made = mine.post("batches", wanted, Idempotency_Key="one")
    assert made.status_code == 201, made.content
    beacon, lamp = made.json()["items"]
    assert (beacon["machine"], beacon["job"]["kind"], beacon["refused"]) == (str(machine.pk), "machine.stop", "")
    assert (lamp["job"], bool(lamp["refused"])) == (None, True)
    assert mine.post("batches", wanted, Idempotency_Key="one").json() == made.json()
    assert mine.get(f"batches/{made.json()['id']}").json() == made.json()
    elsewhere = charlie.memberships.get().project
    elsewhere.memberships.create(user=alice, role="member")
    limited = program(alice, project=elsewhere).get(f"batches/{made.json()['id']}")
    assert limited.json()["items"] == [], "a token for one project is told of no other one"


def test_a_key_and_a_cloud_config_go_in_and_the_config_is_written_down_when_read(
    program: MakeProgram, alice: User, vera: User, machine: Machine, image_version: ImageVersion
) -> None:
    mine = program(alice)
    assert mine.post(f"machines/{machine.pk}/key", {"public_key": KEY}).json()["kind"] == "machine.ssh_key"
    assert mine.post(f"machines/{machine.pk}/user-data").status_code == 403
    config = "#cloud-config\npackages:\n- htop\n"
    body = {"project": str(machine.project_id), "image": str(image_version.image_id), "flavour": "small"}
    refused = mine.post("machines", body | {"user_data": "- no"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "user_data")
    made = mine.post("machines", body | {"user_data": config}).json()["target"]["id"]
    assert mine.post(f"machines/{made}/user-data").json() == {"user_data": config}
    assert Event.objects.filter(action="machine.user_data", actor=alice).count() == 1
    assert program(vera).post(f"machines/{made}/user-data").status_code == 403


# --- what they print and use --------------------------------------------------------------------------------------


def test_the_console_log_is_read_searched_and_saved(
    program: MakeProgram, vera: User, machine: Machine, redis_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("portal.lib.bus.ask", lambda *args, **_named: asked.append(args))
    mine = program(vera)
    path = f"machines/{machine.pk}/console-log"
    assert mine.get(path).json() == {"lines": [], "matching": 0, "total": 0, "read_at": None, "problem": ""}
    assert mine.get(f"{path}/text").status_code == 202
    serial_log.keep(machine.pk, b"boot\r\n<script>\x1b]0;x\x07\n")
    read = mine.get(f"{path}?q=BOOT").json()
    assert [line["text"] for line in read["lines"]] == ["boot"]
    assert (read["matching"], read["total"], read["read_at"] is not None) == (1, 2, True)
    saved = mine.get(f"{path}/text")
    assert saved.content.decode() == "boot\n<script>\u241b]0;x\u2407\n"
    assert (saved["Content-Type"], saved["X-Content-Type-Options"]) == ("text/plain; charset=utf-8", "nosniff")
    assert len(asked) == 1


def test_a_ticket_opens_the_serial_line(program: MakeProgram, alice: User, machine: Machine, redis_db: str) -> None:
    Machine.objects.update(console_secret=seal("x"))
    mine = program(alice)
    wanted = {"kind": "serial"}
    assert mine.post(f"machines/{machine.pk}/screen/ticket", wanted).status_code == 409
    Machine.objects.update(serial_socket="/nowhere/serial.sock")
    made = mine.post(f"machines/{machine.pk}/screen/ticket", wanted)
    assert made.status_code == 201, made.content
    claim = tickets.redeem(made.json()["ticket"])
    assert claim is not None and claim.kind is tickets.Kind.SERIAL and claim.machine_id == machine.pk


@pytest.mark.parametrize("span", ["live", "hour", "day", "month"])
def test_figures_come_in_four_spans(
    program: MakeProgram, alice: User, operator: User, machine: Machine, redis_db: str, span: str
) -> None:
    shown = program(alice).get(f"machines/{machine.pk}/figures?span={span}").json()
    shape = SHAPES[Level(span)]
    assert (shown["span"], shown["step_s"], len(shown["points"])) == (span, shape.step_s, shape.size)
    assert set(shown["points"][0].values()) == {None}
    assert program(operator).get(f"hosts/{machine.host_id}/figures?span={span}").json()["span"] == span


def test_loads_are_of_what_one_sees(program: MakeProgram, alice: User, machine: Machine, redis_db: str) -> None:
    mine = program(alice)
    assert mine.get(f"loads?machine={machine.pk}&machine={uuid4()}").json() == {"items": [], "next": None}
    assert mine.get("loads").status_code == 422


# --- projects -----------------------------------------------------------------------------------------------------


def test_the_bins_days_are_the_owners_to_set(program: MakeProgram, alice: User, bob: User, project: Project) -> None:
    path = f"projects/{project.pk}/bin"
    assert program(bob).send("PUT", path, {"days": 3}).status_code == 403
    assert program(alice).send("PUT", path, {"days": 3}).json()["bin_days"] == 3
    assert program(alice).send("PUT", path, {"days": 10_000}).status_code == 422


def test_events_are_read_from_where_one_left_off(
    program: MakeProgram, alice: User, machine: Machine, project: Project
) -> None:
    mine = program(alice)
    for word in ("stop", "force-off"):
        assert mine.post(f"machines/{machine.pk}/{word}").status_code == 202
    path = f"projects/{project.pk}/events"
    kinds = [one["kind"] for one in mine.get(f"{path}?sort=id").json()["items"]]
    assert kinds and [one["kind"] for one in mine.get(path).json()["items"]] == kinds[::-1]
    first = mine.get(f"{path}?sort=id&limit=1").json()
    assert first["next"], kinds
    rest = mine.get(f"{path}?sort=id&cursor={first['next']}").json()["items"]
    assert [one["kind"] for one in [*first["items"], *rest]] == kinds
    assert {one["subject"]["type"] for one in mine.get(f"{path}?kind=job").json()["items"]} == {"job"}
    later = rest[-1]["at"].replace("+00:00", "Z")
    assert mine.get(f"{path}?since={later}").json()["items"][-1]["at"] == rest[-1]["at"]
    for since in ("2026-01-01T00:00:00", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "yesterday"):
        assert mine.get(f"{path}?since={since}").status_code == 422, since


def test_a_webhooks_whole_life(program: MakeProgram, alice: User, bob: User, project: Project) -> None:
    mine = program(alice)
    wanted = {"name": "CI", "url": "https://ci.example.org/hook", "kinds": ["machine.built"]}
    assert program(bob).post(f"projects/{project.pk}/webhooks", wanted).status_code == 403
    made = mine.post(f"projects/{project.pk}/webhooks", wanted)
    assert made.status_code == 201, made.content
    hook = Webhook.objects.get()
    secret = unseal(hook.secret)
    assert secret not in made.content.decode()
    assert mine.post(f"webhooks/{hook.pk}/secret").json() == {"secret": secret}
    assert Event.objects.filter(action="webhook.secret", actor=alice).count() == 1
    assert program(bob).post(f"webhooks/{hook.pk}/secret").status_code == 403
    tried = mine.post(f"webhooks/{hook.pk}/test").json()
    assert (tried["event"]["kind"], tried["status"]) == ("webhook.test", "pending")
    Delivery.objects.update(status=DeliveryStatus.FAILED, error="No answer.")
    [sent] = mine.get(f"webhooks/{hook.pk}/deliveries").json()["items"]
    assert (sent["id"], sent["status"], sent["error"]) == (tried["id"], "failed", "No answer.")
    assert mine.post(f"deliveries/{sent['id']}/resend").json()["status"] == "pending"
    [listed] = mine.get(f"projects/{project.pk}/webhooks").json()["items"]
    assert listed["waiting"] == 1
    off = mine.send("PATCH", f"webhooks/{hook.pk}", {"enabled": False}).json()
    assert (off["enabled"], off["name"], off["kinds"]) == (False, "CI", ["machine.built"])
    assert mine.post(f"webhooks/{hook.pk}/test").status_code == 409
    refused = mine.send("PATCH", f"webhooks/{hook.pk}", {"url": "http://ci.example.org/"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "url")
    assert mine.send("DELETE", f"webhooks/{hook.pk}").status_code == 204
    assert not Webhook.objects.exists()


# --- images by address --------------------------------------------------------------------------------------------


def test_an_official_image_is_imported_by_name(program: MakeProgram, alice: User, project: Project) -> None:
    mine = program(alice)
    offered = {one["name"] for one in mine.get("images/official").json()["items"]}
    assert offered == set(OFFICIAL)
    wanted = {"official": "debian-12", "project": str(project.pk)}
    made = mine.post("images/import", wanted, Idempotency_Key="one")
    assert (made.status_code, made.json()["kind"]) == (202, "image.fetch"), made.content
    assert mine.post("images/import", wanted, Idempotency_Key="one").content == made.content
    image = Image.objects.get(source=Source.URL)
    assert (image.title, image.project) == (OFFICIAL["debian-12"].title, project)
    assert mine.post("images/import", {"official": "debian-12"}).status_code == 403, "for everyone: operators only"
    assert mine.post("images/import", wanted | {"official": "dos-6"}).json()["errors"][0]["field"] == "official"
    assert mine.post("images/import", wanted | {"url": "https://x/"}).json()["errors"][0]["field"] == "url"


def test_any_other_image_is_imported_with_its_checksum(program: MakeProgram, alice: User, project: Project) -> None:
    mine = program(alice)
    wanted = {"project": str(project.pk), "title": "Mine", "url": "https://images.example.org/mine.qcow2"}
    refused = mine.post("images/import", wanted)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "checksum")
    checksum = hashlib.sha256(b"mine").hexdigest()
    made = mine.post("images/import", wanted | {"checksum": checksum, "firmware": "uefi"})
    assert made.status_code == 202, made.content
    version = Image.objects.get(title="Mine").versions.get()
    assert (version.firmware, str(version.pk)) == ("uefi", made.json()["target"]["id"])
    private = mine.post("images/import", wanted | {"checksum": checksum, "url": "http://images.example.org/x"})
    assert private.json()["errors"][0]["field"] == "url"
