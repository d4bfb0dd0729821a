"""Fetch an image from an address, then inspect and convert it like an upload.

What has come so far is kept in a file of its own: after a worker died or the line broke, the rest is asked for. Under
its name as an upload it stands only when it has the checksum that it was said to have.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from portal.images import services, signing
from portal.images.checksums import Checksum, checksum_of, find_checksum
from portal.images.models import ImageVersion
from portal.jobs.names import JobName, StepName
from portal.lib.fetcher import Answer, Fetcher, FetchError, Limits, fetcher, number_of
from portal.lib.units import format_bytes
from workers.imaging.signature import BadSignatureError, signed_text
from workers.workflows import images
from workers.workflows.base import Context, Step, WorkFailedError, Workflow

CHECKSUMS = Limits(max_bytes=1024**2, total_s=60.0)
TOTAL_S = 3 * 3600.0
LEAST_BYTES_PER_S = 16 * 1024
REPORT_EVERY_S = 1.0
BLOCK = 4 * 1024**2


def fetch(context: Context[ImageVersion]) -> None:
    version = context.target
    if version.upload_path.is_file() or version.path.is_file():
        return  # It is whole under either name.
    settings.UPLOADS_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _told():
        by = fetcher()
        expected = _expected(version, by)
        resumed = _download(context, by)
        if not _has(context, expected) and resumed:
            # The first part may be of another day's file: once more, from the beginning.
            version.part_path.unlink()
            _download(context, by)
        if not _has(context, expected):
            version.part_path.unlink()
            text = _("The file that came is not the one that the checksum is of. It was thrown away.")
            raise WorkFailedError(text, code="checksum")
    version.part_path.replace(version.upload_path)


def forget(context: Context[ImageVersion]) -> None:
    context.target.part_path.unlink(missing_ok=True)
    context.target.upload_path.unlink(missing_ok=True)


@contextmanager
def _told() -> Iterator[None]:
    """What may pass by itself is tried again, with what has come so far."""
    try:
        yield
    except FetchError as error:
        raise WorkFailedError(error.message, code=f"fetch-{error.code}", retryable=error.retryable) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room() from error


def _no_room() -> WorkFailedError:
    return WorkFailedError(_("The portal's disk has no room for it."), code="no-room")


def _expected(version: ImageVersion, by: Fetcher) -> Checksum:
    """The checksum that was typed, or the one that the file of checksums has now."""
    if version.source_checksum:
        found = checksum_of(version.source_checksum)
    else:
        name = PurePosixPath(unquote(urlsplit(version.source_url).path)).name
        text = _signed(version, by, _small(by, version.checksums_url)).decode("utf-8", errors="replace")
        found = find_checksum(text, name)
    if found is None:
        raise WorkFailedError(_("The file of checksums does not name this file."), code="no-checksum")
    return found


def _small(by: Fetcher, url: str) -> bytes:
    with by.get(url, limits=CHECKSUMS) as answer:
        _must_be_there(answer)
        return b"".join(answer.pieces)


def _signed(version: ImageVersion, by: Fetcher, checksums: bytes) -> bytes:
    """What of it is signed by who should have; all of it where nobody has to."""
    try:
        keyring = signing.keyring_of(version.signing_key)
    except signing.KeyTextError as error:
        text = _("The key that the checksums are to be signed with cannot be read; an operator finds it in keyrings.")
        raise WorkFailedError(text, code="no-key") from error
    if not keyring:
        return checksums
    signature = _small(by, version.signature_url) if version.signature_url else None
    try:
        return signed_text(checksums, signature, keyring)
    except BadSignatureError as error:
        text = _("The file of checksums is not signed by who should have signed it. Nothing of it was used.")
        raise WorkFailedError(text, code="signature") from error


def _must_be_there(answer: Answer, *good: int) -> None:
    if answer.status in (good or (200,)):
        return
    text = _("The address answers with %(status)s instead of the file.") % {"status": answer.status}
    passing = answer.status >= 500 or answer.status == 429
    raise WorkFailedError(text, code="not-there", retryable=passing)


def _download(context: Context[ImageVersion], by: Fetcher) -> bool:
    """Bring the part up to the whole file. True if it went on with what there was."""
    version = context.target
    have = version.part_path.stat().st_size if version.part_path.is_file() else 0
    most = settings.IMAGE_MAX_UPLOAD_BYTES
    limits = Limits(max_bytes=most, total_s=TOTAL_S, silence_s=60.0, least_bytes_per_s=LEAST_BYTES_PER_S)
    headers = {"Range": f"bytes={have}-"} if have else {}
    with by.get(version.source_url, limits=limits, headers=headers) as answer:
        if have and answer.status == 416:
            return True  # There is no more of it.
        goes_on = have > 0 and answer.status == 206 and _begin_of(answer) == have
        _must_be_there(answer, 206 if goes_on else 200)
        have = have if goes_on else 0
        _check_room(have, answer, most)
        with _opened(version.part_path, goes_on=goes_on) as part:
            _write(context, part, have, answer, most)
    return goes_on


def _begin_of(answer: Answer) -> int | None:
    """Where the part that came begins: `bytes 200-1023/1024`."""
    return number_of(answer.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0])


def _check_room(have: int, answer: Answer, most: int) -> None:
    length = answer.length or 0
    if have + length > most:
        raise _too_large(most)
    if length > shutil.disk_usage(settings.UPLOADS_DIR).free:
        raise _no_room()


def _too_large(most: int) -> WorkFailedError:
    text = _("The file is larger than the %(most)s that are allowed.") % {"most": format_bytes(most)}
    return WorkFailedError(text, code="too-large")


@contextmanager
def _opened(path: Path, *, goes_on: bool) -> Iterator[IO[bytes]]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_APPEND if goes_on else os.O_TRUNC)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        yield file


def _write(context: Context[ImageVersion], part: IO[bytes], have: int, answer: Answer, most: int) -> None:
    done, whole = have, have + answer.length if answer.length is not None else None
    next_at = time.monotonic()
    for piece in answer.pieces:
        part.write(piece)
        done += len(piece)
        if done > most:
            raise _too_large(most)
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + REPORT_EVERY_S
            _report(context, done, whole)


def _report(context: Context[ImageVersion], done: int, whole: int | None) -> None:
    if whole is None:
        context.progress(0, _("%(done)s so far") % {"done": format_bytes(done)})
        return
    detail = _("%(done)s of %(whole)s") % {"done": format_bytes(done), "whole": format_bytes(whole)}
    context.progress(min(done * 99 // whole, 99) if whole else 0, detail)


def _has(context: Context[ImageVersion], expected: Checksum) -> bool:
    """Read again from the disk: what was fetched in several goes has one checksum."""
    context.progress(99, _("Comparing the checksum"))
    digest = hashlib.new(expected.algorithm)
    with context.target.part_path.open("rb") as part:
        while block := part.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == expected.hex


WORKFLOW: Workflow[ImageVersion] = Workflow(
    JobName.IMAGE_FETCH,
    load=images.load,
    steps=(
        Step(StepName.FETCH, fetch, undo=forget),
        Step(StepName.IMPORT, images.import_upload, undo=images.remove_files),
        Step(StepName.PUBLISH, images.publish, undo=images.unpublish),
    ),
    on_done=services.record_version_ready,
    on_failed=images.failed,
    on_cancelled=images.cancelled,
    max_retries=8,
)
