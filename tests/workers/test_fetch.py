"""Images by URL: from a real HTTPS server to what is offered, past broken lines, wrong files and dead workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.errors import InvalidError
from portal.hosts.models import Host
from portal.images import services
from portal.images.checksums import checksum_of, find_checksum
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.images.official import OFFICIAL
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.jobs.services import request_cancel
from portal.lib.fetcher import Fetcher, target_of
from tests.support.outside import NAME, Asked, Handler, Outside, Respond, Server, outside_world
from tests.support.signatures import Maker, maker
from tests.workers.support import Killed, fake_of, work_on
from workers.workflows import fetch

DISK = b"\0" * 510 + b"\x55\xaa" + hashlib.shake_128(b"disk").digest(512) + b"\0" * (3 * 1024**2)
SHA256 = hashlib.sha256(DISK).hexdigest()
Ask = Callable[..., tuple[ImageVersion, Job]]
AskSigned = Callable[[Server, str, bool], tuple[ImageVersion, Job]]

pytestmark = pytest.mark.django_db


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    with outside_world(tmp_path) as world:
        monkeypatch.setattr(fetch, "fetcher", world.fetcher)
        yield world


@pytest.fixture
def ask(alice: User, project: Project, host: Host) -> Ask:
    def ask(server: Server, checksum: str = SHA256) -> tuple[ImageVersion, Job]:
        version = services.add_from_url(
            actor=alice,
            title="From outside",
            kind=Kind.SERVER,
            url=f"https://{NAME}:{server.port}/images/disk.img?mirror=1",
            checksum=checksum,
            project=project,
        )
        return version, Job.objects.get(target_id=version.pk)

    return ask


@pytest.fixture
def ask_signed(alice: User, project: Project, host: Host) -> AskSigned:
    def ask(server: Server, key: str, beside: bool) -> tuple[ImageVersion, Job]:
        sums = f"https://{NAME}:{server.port}/images/SUMS"
        version = services.add_from_url(
            actor=alice,
            title="From outside",
            kind=Kind.SERVER,
            url=f"https://{NAME}:{server.port}/images/disk.img?mirror=1",
            checksum=sums,
            signing_key=key,
            signature_url=f"{sums}.gpg" if beside else "",
            project=project,
        )
        return version, Job.objects.get(target_id=version.pk)

    return ask


def disk(handler: Handler, asked: Asked) -> None:
    """A server that knows ranges."""
    begin = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")) if "range" in asked.headers else 0
    if begin >= len(DISK):
        handler.answer(416)
    elif begin:
        handler.answer(206, DISK[begin:], Content_Range=f"bytes {begin}-{len(DISK) - 1}/{len(DISK)}")
    else:
        handler.answer(200, DISK)


def ended(version: ImageVersion, job: Job) -> tuple[str, str]:
    work_on(job)
    version.refresh_from_db()
    return version.status, job.error_code


def left() -> list[str]:
    """Files that are nobody's any more."""
    return sorted(path.name for path in Path(settings.UPLOADS_DIR).glob("*"))


def test_a_disk_is_fetched_compared_converted_and_offered(outside: Outside, ask: Ask, host: Host) -> None:
    server = outside.serve(disk)
    version, job = ask(server)
    assert job.name == JobName.IMAGE_FETCH
    assert ended(version, job) == (VersionStatus.READY, "")
    assert version.upload_sha256 == SHA256
    assert version.path.is_file()
    assert version.pk in fake_of(host).images
    assert version.image.source == Source.URL
    assert [asked.path for asked in server.asked] == ["/images/disk.img?mirror=1"]
    assert left() == []


@pytest.mark.parametrize(
    "text",
    [
        f"{'0' * 64}  other.img\n{SHA256}  disk.img\n",
        f"{SHA256} *disk.img\n",
        f"{SHA256}  ./disk.img\n",
        f"{hashlib.sha512(DISK).hexdigest()}  disk.img\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.img: 1 byte\nSHA256 (disk.img) = {SHA256}\n",
    ],
)
def test_the_checksum_is_found_in_the_makers_file(outside: Outside, ask: Ask, text: str) -> None:
    def respond(handler: Handler, asked: Asked) -> None:
        if asked.path == "/images/SUMS":
            handler.answer(200, text.encode())
        else:
            disk(handler, asked)

    server = outside.serve(respond)
    version, job = ask(server, f"https://{NAME}:{server.port}/images/SUMS")
    assert ended(version, job) == (VersionStatus.READY, "")


@pytest.fixture(scope="module")
def makers() -> Iterator[tuple[Maker, Maker]]:
    """Whose images they are, and somebody else."""
    with maker() as theirs, maker() as another:
        yield theirs, another


@pytest.mark.parametrize("beside", [False, True], ids=["inside", "beside"])
@pytest.mark.parametrize("by", ["who should", "another", "nobody"])
def test_checksums_are_believed_only_if_they_are_signed_by_who_should_have(
    outside: Outside, ask_signed: AskSigned, makers: tuple[Maker, Maker], by: str, beside: bool
) -> None:
    """However right the disk and its checksum are."""
    who, sums = makers[by == "another"], f"{SHA256}  disk.img\n".encode()
    inside = sums if by == "nobody" or beside else who.signed(sums)

    def respond(handler: Handler, asked: Asked) -> None:
        if asked.path == "/images/SUMS":
            handler.answer(200, inside)
        elif asked.path == "/images/SUMS.gpg":
            handler.answer(200, b"" if by == "nobody" else who.signature(sums))
        else:
            disk(handler, asked)

    server = outside.serve(respond)
    version, job = ask_signed(server, makers[0].armored_key, beside)
    good = by == "who should"
    assert ended(version, job) == ((VersionStatus.READY, "") if good else (VersionStatus.FAILED, "signature"))
    assert ("/images/disk.img?mirror=1" in [asked.path for asked in server.asked]) == good, "it is looked at first"
    assert left() == []


def test_an_official_image_is_checked_where_there_is_a_key(
    outside: Outside, ask_signed: AskSigned, makers: tuple[Maker, Maker], tmp_path: Path, settings: Settings
) -> None:
    """Its maker signs: without a key here the file is believed as it is, with one it must be signed by it."""
    settings.KEYRINGS_DIR = tmp_path / "keyrings"
    settings.KEYRINGS_DIR.mkdir()
    sums = f"{SHA256}  disk.img\n".encode()
    server = outside.serve(lambda h, asked: h.answer(200, sums) if "SUMS" in asked.path else disk(h, asked))
    for key, outcome in ((None, (VersionStatus.READY, "")), (makers[0].key, (VersionStatus.FAILED, "signature"))):
        if key is not None:
            (settings.KEYRINGS_DIR / "fedora.gpg").write_bytes(key)
        version, job = ask_signed(server, makers[0].armored_key, False)
        ImageVersion.objects.filter(pk=version.pk).update(signing_key=OFFICIAL["fedora-43"].signing_key)
        assert ended(version, job) == outcome
    (settings.KEYRINGS_DIR / "fedora.gpg").write_bytes(b"rubbish")
    version, job = ask_signed(server, makers[0].armored_key, False)
    ImageVersion.objects.filter(pk=version.pk).update(signing_key=OFFICIAL["fedora-43"].signing_key)
    assert ended(version, job) == (VersionStatus.FAILED, "no-key")


def test_a_key_that_is_none_is_refused_when_it_is_asked_for(alice: User, project: Project) -> None:
    values = {"actor": alice, "title": "x", "kind": Kind.SERVER, "project": project, "url": f"https://{NAME}/a.img"}
    sums = f"https://{NAME}/SUMS"
    for key, signature, checksum, field in (
        ("hello", "", sums, "signing_key"),
        ("official:debian", "", sums, "signing_key"),
        ("", f"https://{NAME}/SUMS.gpg", sums, "signing_key"),
        ("official:debian", "", SHA256, "checksum"),
    ):
        with pytest.raises(InvalidError) as caught:
            services.add_from_url(**values, checksum=checksum, signing_key=key, signature_url=signature)  # type: ignore[arg-type]  # kinds of many
        assert caught.value.field == field
    assert not Image.objects.filter(title="x").exists()


@pytest.mark.parametrize(
    ("respond", "checksum", "code"),
    [
        (disk, "0" * 64, "checksum"),
        (lambda handler, _asked: handler.answer(404, b"no"), SHA256, "not-there"),
        (lambda handler, _asked: handler.answer(206, b"half"), SHA256, "not-there"),
        (lambda handler, _asked: handler.answer(302, Location="https://127.0.0.1/"), SHA256, "fetch-private"),
        (lambda handler, _asked: handler.answer(302, Location="http://files.example/"), SHA256, "fetch-not-https"),
        (lambda handler, _asked: handler.answer(200, b"nothing of it"), "{server}SUMS", "no-checksum"),
    ],
)
def test_what_is_not_what_was_meant_fails_at_once_and_leaves_nothing(
    outside: Outside, ask: Ask, respond: Respond, checksum: str, code: str
) -> None:
    server = outside.serve(respond)
    version, job = ask(server, checksum.format(server=f"https://{NAME}:{server.port}/"))
    assert ended(version, job) == (VersionStatus.FAILED, code)
    job.refresh_from_db()
    assert job.retries == 0
    assert len(version.error) > 20
    assert left() == []
    assert not version.path.exists()


def test_a_file_that_is_no_disk_is_refused_as_an_upload_is(outside: Outside, ask: Ask) -> None:
    text = b"hello" * 1000
    version, job = ask(outside.serve(lambda h, _asked: h.answer(200, text)), hashlib.sha256(text).hexdigest())
    assert ended(version, job)[0] == VersionStatus.FAILED
    assert left() == []


@pytest.mark.parametrize("named", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", "0x7f000001"])
def test_no_image_comes_from_the_private_network(
    outside: Outside, ask: Ask, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """By the fetcher of use: the address of an image, and that of its checksums."""
    inside = outside.serve(disk, address="127.0.0.1", name="localhost")
    monkeypatch.setattr(fetch, "fetcher", lambda: Fetcher(trust=outside.trust))
    for column in ("source_url", "checksums_url"):
        version, job = ask(inside)
        values = {"source_url": f"https://{named}:{inside.port}/disk.img"}
        if column == "checksums_url":
            values |= {"source_checksum": "", "checksums_url": f"https://{named}:{inside.port}/SUMS"}
        ImageVersion.objects.filter(pk=version.pk).update(**values)
        assert ended(version, job) == (VersionStatus.FAILED, "fetch-private")
    assert inside.asked == []


def test_more_than_what_is_allowed_is_not_taken(outside: Outside, ask: Ask, settings: Settings) -> None:
    settings.IMAGE_MAX_UPLOAD_BYTES = 1024**2
    said = ask(outside.serve(disk))
    assert ended(*said) == (VersionStatus.FAILED, "too-large")

    def endless(handler: Handler, _asked: Asked) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    assert ended(*ask(outside.serve(endless))) == (VersionStatus.FAILED, "fetch-too-large")
    assert left() == []


def _broken_after(count: int) -> Respond:
    """The line breaks in the first answers, each at a third of what it says there is."""
    answers: list[int] = []

    def respond(handler: Handler, asked: Asked) -> None:
        answers.append(1)
        if len(answers) > count:
            disk(handler, asked)
            return
        begin = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(len(DISK) - begin))
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(DISK) - 1}/{len(DISK)}")
        handler.end_headers()
        handler.wfile.write(DISK[begin : begin + len(DISK) // 3])

    return respond


def test_a_line_that_breaks_is_taken_up_where_it_was(outside: Outside, ask: Ask) -> None:
    server = outside.serve(_broken_after(2))
    version, job = ask(server)
    assert ended(version, job) == (VersionStatus.READY, "")
    begins = [asked.headers.get("range") for asked in server.asked]
    third = len(DISK) // 3
    assert begins == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    job.refresh_from_db()
    assert job.retries == 2


def test_a_server_in_trouble_is_asked_again_and_not_for_ever(outside: Outside, ask: Ask) -> None:
    server = outside.serve(lambda handler, _asked: handler.answer(503))
    version, job = ask(server)
    assert ended(version, job) == (VersionStatus.FAILED, "not-there")
    assert len(server.asked) == 1 + fetch.WORKFLOW.max_retries
    assert left() == []


def test_a_worker_that_dies_goes_on_with_what_has_come(
    outside: Outside, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = outside.serve(_broken_after(1))
    version, job = ask(server)

    def die(*_args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("workers.runner._is_tried_again", die)
        work_on(job)
    assert version.part_path.stat().st_size == len(DISK) // 3
    Job.objects.update(lease_until=None)
    assert ended(version, job) == (VersionStatus.READY, "")
    assert [asked.headers.get("range") for asked in server.asked] == [None, f"bytes={len(DISK) // 3}-"]


@pytest.mark.parametrize("length", [1000, len(DISK), len(DISK) + 5])
def test_a_part_of_another_days_file_is_thrown_away_and_all_is_fetched(outside: Outside, ask: Ask, length: int) -> None:
    version, job = ask(outside.serve(disk))
    version.part_path.parent.mkdir(parents=True, exist_ok=True)
    version.part_path.write_bytes(b"y" * length)
    assert ended(version, job) == (VersionStatus.READY, "")


def test_a_server_that_knows_no_ranges_begins_anew(outside: Outside, ask: Ask) -> None:
    version, job = ask(outside.serve(lambda handler, _asked: handler.answer(200, DISK)))
    version.part_path.parent.mkdir(parents=True, exist_ok=True)
    version.part_path.write_bytes(DISK[:1000])
    assert ended(version, job) == (VersionStatus.READY, "")


def test_a_link_in_the_place_of_the_part_is_not_followed(outside: Outside, ask: Ask, tmp_path: Path) -> None:
    version, job = ask(outside.serve(disk))
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    version.part_path.parent.mkdir(parents=True, exist_ok=True)
    version.part_path.symlink_to(victim)
    assert ended(version, job)[0] == VersionStatus.FAILED
    assert victim.read_bytes() == b""
    assert left() == []


def test_it_is_stopped_when_somebody_asks(outside: Outside, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    _version, job = ask(outside.serve(disk))
    told: list[int] = []
    report = fetch._report

    def and_cancel(context: object, done: int, whole: int | None) -> None:
        told.append(done)
        request_cancel(job)
        report(context, done, whole)  # type: ignore[arg-type]  # it is what was given

    monkeypatch.setattr(fetch, "_report", and_cancel)
    assert work_on(job).status == JobStatus.CANCELLED
    assert len(told) == 1
    assert left() == []


def test_how_far_it_is_is_told(outside: Outside, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str]] = []
    monkeypatch.setattr(fetch, "REPORT_EVERY_S", 0)
    monkeypatch.setattr(
        "workers.workflows.base.jobs.report_step", lambda _step, *, progress, detail: seen.append((progress, detail))
    )
    version, job = ask(outside.serve(disk))
    assert ended(version, job)[0] == VersionStatus.READY
    assert any(text.endswith("of 3 MiB") for _percent, text in seen), seen
    percents = [percent for percent, text in seen if " of " in text]
    assert percents == sorted(percents)
    assert len(percents) > 3


# --- what is asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "checksum", "field"),
    [
        ("http://files.example/disk.img", SHA256, "url"),
        ("https://user:word@files.example/disk.img", SHA256, "url"),
        ("file:///etc/passwd", SHA256, "url"),
        ("https://files.example/disk.img", "", "checksum"),
        ("https://files.example/disk.img", "abc", "checksum"),
        ("https://files.example/disk.img", "d41d8cd98f00b204e9800998ecf8427e", "checksum"),
        ("https://files.example/disk.img", f"sha512:{SHA256}", "checksum"),
        ("https://files.example/disk.img", "http://files.example/SUMS", "checksum"),
    ],
)
def test_an_address_or_a_checksum_that_is_none_is_said_at_its_field(
    alice: User, project: Project, url: str, checksum: str, field: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        services.add_from_url(actor=alice, title="x", kind=Kind.SERVER, url=url, checksum=checksum, project=project)
    assert refused.value.field == field
    assert not Image.objects.exists()


def test_checksums_are_read_as_people_paste_them() -> None:
    for text in (SHA256, SHA256.upper(), f"sha256:{SHA256}", f" SHA256: {SHA256}\n", f"sha256={SHA256}"):
        assert str(checksum_of(text)) == f"sha256:{SHA256}"
    assert find_checksum(f"{SHA256}  disk.img.asc\n", "disk.img") is None
    assert find_checksum(f"{SHA256}  ../disk.img\n", "disk.img") is None


def test_official_images_are_named_whole_and_by_their_makers() -> None:
    assert {slug.partition("-")[0] for slug in OFFICIAL} == {"debian", "ubuntu", "fedora", "almalinux"}
    makers = {"cloud.debian.org", "cloud-images.ubuntu.com", "dl.fedoraproject.org", "repo.almalinux.org"}
    for one in OFFICIAL.values():
        assert "{" not in one.url + one.checksums_url
        assert one.url.rpartition("/")[0] == one.checksums_url.rpartition("/")[0]
        assert {target_of(one.url).host, target_of(one.checksums_url).host} <= makers
