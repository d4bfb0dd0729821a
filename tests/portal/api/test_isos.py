"""Uploads, ISOs, discs and rescue through the API; the rules themselves are tried where they are."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Source, VersionStatus
from portal.isos.models import Iso, Status
from portal.jobs.models import Job
from portal.lib.secrets import seal
from portal.machines import discs, rescue
from portal.machines.models import Disc, Flavour, Machine
from portal.uploads.models import Upload
from tests.portal.api.conftest import ROOT, MakeProgram, Program

CONTENT = b"helloworld"


def piece(program: Program, path: str, content: bytes, offset: int) -> Any:
    return program.client.patch(f"{ROOT}{path}?offset={offset}", content, content_type="application/octet-stream")


@pytest.fixture
def iso(project: Project, alice: User) -> Iso:
    return Iso.objects.create(project=project, name="Debian 12", status=Status.READY, size_bytes=1, created_by=alice)


def test_an_iso_comes_in_pieces_and_goes_again(program: MakeProgram, alice: User, bob: User, project: Project) -> None:
    mine = program(alice)
    begun = mine.post("uploads", {"name": "debian.iso", "size_bytes": 10}, Idempotency_Key="one")
    assert begun.status_code == 201, begun.content
    assert mine.post("uploads", {"name": "debian.iso", "size_bytes": 10}, Idempotency_Key="one").json() == begun.json()
    path = f"uploads/{begun.json()['id']}"
    assert piece(mine, path, CONTENT[:4], 0).json()["offset"] == 4
    again = piece(mine, path, CONTENT[:4], 0)
    assert (again.status_code, again.json()["code"]) == (409, "offset")
    assert piece(program(bob), path, CONTENT[4:], 4).status_code == 404
    assert piece(program(alice, scope="read"), path, CONTENT[4:], 4).status_code == 403
    assert mine.get(path).json()["offset"] == 4
    wanted = {"upload": begun.json()["id"], "name": "Debian 12", "project": str(project.pk)}
    assert mine.post("isos", wanted).status_code == 409, "it is not whole yet"
    assert piece(mine, path, CONTENT[4:], 4).json()["offset"] == 10
    assert [one["id"] for one in mine.get("uploads").json()["items"]] == [begun.json()["id"]]
    asked = mine.post("isos", wanted | {"sha256": hashlib.sha256(CONTENT).hexdigest()})
    assert (asked.status_code, asked.json()["kind"]) == (202, "iso.import"), asked.content
    assert mine.get(path).status_code == 404
    shown = mine.get(f"isos/{wanted['upload']}")
    assert (shown.json()["status"], shown.json()["upload_name"]) == ("checking", "debian.iso")
    Iso.objects.update(status=Status.READY)
    Job.objects.all().delete()
    assert mine.send("DELETE", f"isos/{wanted['upload']}", If_Match=shown["ETag"]).status_code == 412
    assert mine.send("DELETE", f"isos/{wanted['upload']}").json()["kind"] == "iso.delete"


def test_a_disk_that_came_in_pieces_becomes_an_image(program: MakeProgram, alice: User, project: Project) -> None:
    mine = program(alice)
    upload = mine.post("uploads", {"name": "disk.img", "size_bytes": 10}).json()["id"]
    piece(mine, f"uploads/{upload}", CONTENT, 0)
    wanted = {"upload": upload, "title": "Mine", "project": str(project.pk)}
    asked = mine.post("images/from-upload", wanted)
    assert (asked.status_code, asked.json()["kind"]) == (202, "image.import"), asked.content
    assert ImageVersion.objects.get().upload_path.read_bytes() == CONTENT
    assert mine.post("images/from-upload", wanted).json()["id"] == asked.json()["id"]
    assert (ImageVersion.objects.count(), Upload.objects.count()) == (1, 0)


def test_what_is_thrown_away_is_gone(program: MakeProgram, alice: User, project: Project) -> None:
    mine = program(alice)
    upload = mine.post("uploads", {"name": "disk.img", "size_bytes": 10}).json()["id"]
    assert mine.send("DELETE", f"uploads/{upload}").status_code == 204
    assert mine.get(f"uploads/{upload}").status_code == 404


def test_a_machine_is_made_from_an_iso(
    program: MakeProgram, alice: User, vera: User, project: Project, host: Host, flavour: Flavour, iso: Iso
) -> None:
    wanted = {
        "project": str(project.pk),
        "iso": str(iso.pk),
        "flavour": "small",
        "firmware": "uefi_secure",
        "tpm": True,
    }
    assert program(vera).post("machines/from-iso", wanted).status_code == 403
    asked = program(alice).post("machines/from-iso", wanted)
    assert (asked.status_code, asked.json()["kind"]) == (202, "machine.install"), asked.content
    shown = program(alice).get(f"machines/{asked.json()['target']['id']}").json()
    assert (shown["installed_from"], shown["firmware"], shown["tpm"]) == ("Debian 12", "uefi_secure", True)
    assert (shown["disk_gib"], shown["image"], shown["rescue"]) == (flavour.disk_gib, None, None)


def test_discs_go_in_and_out(program: MakeProgram, alice: User, vera: User, machine: Machine, iso: Iso) -> None:
    mine, path = program(alice), f"machines/{machine.pk}/discs"
    etag = mine.get(path)["ETag"]
    assert program(vera).post(path, {"iso": str(iso.pk)}).status_code == 403
    assert mine.post(path, {"iso": str(iso.pk), "drive": 7}).status_code == 422
    asked = mine.post(path, {"iso": str(iso.pk), "drive": 1}, If_Match=etag)
    assert (asked.status_code, asked.json()["kind"]) == (202, "disc.insert"), asked.content
    empty, full = mine.get(path).json()["items"]
    assert (empty["id"], full["iso"]["name"], full["task"]) == (None, "Debian 12", "adding")
    discs.record_inserted(machine)
    Job.objects.all().delete()
    assert mine.send("DELETE", f"{path}/{full['id']}", If_Match=etag).status_code == 412
    assert mine.send("DELETE", f"{path}/{full['id']}?force=true").json()["kind"] == "disc.eject"
    assert Disc.objects.get().force
    assert mine.send("PUT", f"machines/{machine.pk}/boot", {"disc": True}).status_code == 204
    assert mine.get(f"machines/{machine.pk}").json()["starts_from_disc"]


def test_a_machine_is_rescued_and_comes_back(
    program: MakeProgram, alice: User, vera: User, machine: Machine, iso: Iso
) -> None:
    image = Image.objects.create(slug="other", title="Other", source=Source.UPLOAD)
    version = ImageVersion.objects.create(image=image, number=1, status=VersionStatus.READY)
    mine, path = program(alice), f"machines/{machine.pk}/rescue"
    systems = mine.get(path).json()["items"]
    assert [(one["image"], one["iso"]) for one in systems] == [(str(image.pk), None), (None, str(iso.pk))]
    both = {"image": str(image.pk), "iso": str(iso.pk)}
    assert [mine.post(path, body).status_code for body in ({}, both)] == [422, 422]
    assert mine.post(path, {"image": str(machine.image_version.image_id)}).status_code == 422  # type: ignore[union-attr]  # it has one
    assert program(vera).post(path, {"iso": str(iso.pk)}).status_code == 403
    assert mine.post(path, {"image": str(image.pk)}).json()["kind"] == "machine.rescue"
    assert mine.get(f"machines/{machine.pk}").json()["rescue"] == {
        "version": str(version.pk),
        "iso": None,
        "since": None,
    }
    rescue.record_begun(machine)
    rescue.record_rescued(machine)
    Job.objects.all().delete()
    Machine.objects.update(rescue_password=seal("rescue-word"), rescued_at=timezone.now())
    assert mine.post(f"{path}/secret").json() == {"login_user": "alice", "password": "rescue-word"}
    assert program(vera).post(f"{path}/secret").status_code == 403
    refused = mine.post(f"machines/{machine.pk}/hibernate")
    assert (refused.status_code, "rescue" in refused.json()["detail"]) == (409, True)
    assert mine.send("DELETE", path).json()["kind"] == "machine.unrescue"
