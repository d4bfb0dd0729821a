"""Uploads in pieces: what breaks off goes on, nothing is added twice, and nobody sees another's."""

from __future__ import annotations

import datetime as dt
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.errors import ConflictError, InvalidError
from portal.uploads import services
from portal.uploads.errors import NoRoomError, OffsetError
from portal.uploads.models import Upload
from tests.support.together import at_once

NEW = reverse("uploads:new")
NAME = "filename ZGViaWFuLmlzbw=="  # debian.iso
TUS = {"Tus-Resumable": "1.0.0"}


def begun(client: Client, size: int = 10) -> str:
    answer = client.post(NEW, headers={**TUS, "Upload-Length": str(size), "Upload-Metadata": NAME})
    assert answer.status_code == 201, answer.content
    return str(answer["Location"])


def send(client: Client, path: str, piece: bytes, offset: int, **headers: str) -> Any:
    return client.patch(
        path,
        piece,
        content_type="application/offset+octet-stream",
        headers={**TUS, "Upload-Offset": str(offset), **headers},
    )


def kept() -> list[Path]:
    return sorted(settings.UPLOADS_DIR.glob("*"))


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob)
    return client


def test_a_file_comes_in_pieces(bobs: Client) -> None:
    path = begun(bobs)
    first = send(bobs, path, b"hello", 0)
    assert (first.status_code, first["Upload-Offset"], first["Tus-Resumable"]) == (204, "5", "1.0.0")
    told = bobs.head(path, headers=TUS)
    assert (told["Upload-Offset"], told["Upload-Length"], told["Cache-Control"]) == ("5", "10", "no-store")
    assert send(bobs, path, b"world", 5)["Upload-Offset"] == "10"
    upload = Upload.objects.get()
    assert (upload.name, upload.is_whole, upload.path.read_bytes()) == ("debian.iso", True, b"helloworld")
    assert kept() == [upload.path]


def test_a_piece_that_comes_twice_or_too_early_is_refused_and_adds_nothing(bobs: Client) -> None:
    path = begun(bobs)
    send(bobs, path, b"hello", 0)
    for offset in (0, 4, 6):
        answer = send(bobs, path, b"hello", offset)
        assert (answer.status_code, answer.json()["code"]) == (409, "offset"), offset
    assert bobs.head(path)["Upload-Offset"] == "5"


def test_more_than_was_announced_is_refused(bobs: Client) -> None:
    path = begun(bobs)
    assert send(bobs, path, b"x" * 11, 0).status_code == 413
    assert bobs.head(path)["Upload-Offset"] == "0"


class BreaksOff(BytesIO):
    """The line breaks after a few bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(3)
        if not piece:
            raise OSError("the connection is gone")
        return piece


def test_what_had_arrived_when_the_line_broke_is_kept(bob: User, project: Project) -> None:
    upload = services.begin(bob, name="a.iso", size_bytes=10)
    with pytest.raises(OSError, match="gone"):
        services.add(upload, BreaksOff(b"hello"), offset=0, length=10)
    assert upload.offset == 5
    assert services.add(upload, BytesIO(b"world"), offset=5, length=5) == 10
    assert upload.path.read_bytes() == b"helloworld"


@pytest.mark.django_db(transaction=True)
def test_of_two_who_send_the_same_piece_at_once_one_adds_it(bob: User, project: Project) -> None:
    upload = services.begin(bob, name="a.iso", size_bytes=4_000_000)
    piece = b"x" * 2_000_000

    def add() -> object:
        try:
            return services.add(upload, BytesIO(piece), offset=0, length=len(piece))
        except OffsetError:
            return "late"

    assert sorted(map(str, at_once([add] * 4))) == ["2000000", "late", "late", "late"]
    assert upload.offset == len(piece)


def test_other_people_do_not_see_it(bobs: Client, alice: User, operator: User) -> None:
    path = begun(bobs)
    for other in (alice, operator):
        stranger = Client()
        stranger.force_login(other)
        answers = [stranger.head(path), send(stranger, path, b"x", 0), stranger.delete(path, headers=TUS)]
        assert [answer.status_code for answer in answers] == [404] * 3
    assert Upload.objects.get().offset == 0


def test_a_page_of_another_site_cannot_add_to_it(bob: User, project: Project) -> None:
    upload = services.begin(bob, name="a.iso", size_bytes=10)
    path = reverse("uploads:one", args=[upload.pk])
    client = Client(enforce_csrf_checks=True)
    client.force_login(bob)
    assert send(client, path, b"hello", 0).status_code == 403
    assert client.delete(path).status_code == 403
    assert client.post(NEW, headers={"Upload-Length": "1"}).status_code == 403
    assert (upload.offset, Upload.objects.count()) == (0, 1)


def test_who_may_add_nothing_anywhere_uploads_nothing(client: Client, vera: User) -> None:
    client.force_login(vera)
    assert client.post(NEW, headers={"Upload-Length": "10"}).status_code == 403
    assert kept() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": "0"}, 422),
        ({"Upload-Length": "-1"}, 422),
        ({}, 422),
        ({"Upload-Length": "x"}, 422),
        ({"Upload-Length": str(1 << 50)}, 413),
        ({"Upload-Length": "5", "Tus-Resumable": "0.2.2"}, 412),
        ({"Upload-Length": "5", "Upload-Metadata": "filename !!!"}, 422),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(bobs: Client, headers: dict[str, str], status: int) -> None:
    assert bobs.post(NEW, headers=headers).status_code == status
    assert (kept(), Upload.objects.count()) == ([], 0)


@pytest.mark.parametrize(
    ("sent", "kept_as"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\discs\\win.iso", "win.iso"),
        ("a\x00b", "ab"),
        ("", "file"),
        ("x" * 400, "x" * 255),
    ],
)
def test_the_name_is_shown_only_and_names_no_file(bob: User, project: Project, sent: str, kept_as: str) -> None:
    upload = services.begin(bob, name=sent, size_bytes=5)
    assert upload.name == kept_as
    assert kept() == [settings.UPLOADS_DIR / f"{upload.pk}.upload"]


def test_a_link_in_the_files_place_is_not_followed(bob: User, project: Project, tmp_path: Path) -> None:
    upload = services.begin(bob, name="a.iso", size_bytes=5)
    canary = tmp_path / "canary"
    canary.touch()
    upload.path.unlink()
    upload.path.symlink_to(canary)
    with pytest.raises(OSError):
        services.add(upload, BytesIO(b"hello"), offset=0, length=5)
    assert canary.read_bytes() == b""


def test_a_person_has_a_few_unfinished_at_a_time(bob: User, project: Project) -> None:
    for _number in range(services.MOST_UNFINISHED):
        services.begin(bob, name="a.iso", size_bytes=5)
    with pytest.raises(ConflictError):
        services.begin(bob, name="a.iso", size_bytes=5)
    services.throw_away(Upload.objects.all()[0])
    services.begin(bob, name="a.iso", size_bytes=5)
    assert len(kept()) == services.MOST_UNFINISHED


def test_what_others_have_announced_is_not_promised_twice(
    bob: User, alice: User, project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 3 * 1024**3
    usage = type("Usage", (), {"free": services.KEPT_FREE_BYTES + room})
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    services.begin(alice, name="a.iso", size_bytes=room - 10)
    with pytest.raises(NoRoomError):
        services.begin(bob, name="b.iso", size_bytes=11)
    services.begin(bob, name="b.iso", size_bytes=10)


def test_what_nobody_goes_on_with_is_removed_after_a_while(bob: User, project: Project, settings: Settings) -> None:
    old, new = (services.begin(bob, name=name, size_bytes=5) for name in ("old", "new"))
    long_ago = timezone.now() - dt.timedelta(hours=settings.UPLOADS_KEEP_HOURS, seconds=1)
    Upload.objects.filter(pk=old.pk).update(touched_at=long_ago)
    assert services.prune() == 1
    assert (list(Upload.objects.all()), kept()) == ([new], [new.path])
    Upload.objects.filter(pk=new.pk).update(touched_at=long_ago)
    services.add(new, BytesIO(b"x"), offset=0, length=1)
    assert services.prune() == 0, "it has just been gone on with"


def test_thrown_away_it_is_gone(bobs: Client) -> None:
    path = begun(bobs)
    assert bobs.delete(path, headers=TUS).status_code == 204
    assert (bobs.head(path).status_code, kept()) == (404, [])
    address = reverse("uploads:discard", args=[begun(bobs).rsplit("/", 1)[1]])
    assert bobs.post(address, {"back": "images:upload"})["Location"] == reverse("images:upload")
    assert bobs.post(address).status_code == 404
    assert kept() == []


def test_only_a_whole_upload_of_ones_own_becomes_something(bob: User, alice: User, project: Project) -> None:
    upload = services.begin(bob, name="a.iso", size_bytes=5)
    services.add(upload, BytesIO(b"hell"), offset=0, length=4)
    with pytest.raises(ConflictError):
        services.take_over(bob, upload.pk)
    services.add(upload, BytesIO(b"o"), offset=4, length=1)
    for person, pk in ((alice, upload.pk), (bob, uuid4())):
        with pytest.raises(InvalidError):
            services.take_over(person, pk)
    assert services.take_over(bob, upload.pk).path.read_bytes() == b"hello"
    with pytest.raises(InvalidError):
        services.take_over(bob, upload.pk)
