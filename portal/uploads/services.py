"""Writes about uploads: begun, added to piece by piece, thrown away, taken over.

Nothing here trusts that a request comes to its end. A piece is added to the end of the file as it is read, so that
whatever had arrived when the line broke or the process died is there, and the next piece begins after it.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import os
import shutil
from pathlib import PurePosixPath, PureWindowsPath
from typing import Protocol
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from portal.lib.units import format_bytes
from portal.uploads.errors import NoRoomError, OffsetError, TooLargeError
from portal.uploads.models import Upload
from portal.uploads.selectors import may_upload

MOST_UNFINISHED = 5
# Of one piece: what a broken line costs at most, and what a request may hold of the web process's disk.
MOST_PIECE_BYTES = 64 * 1024**2
_BLOCK = 1024**2
# What the portal's own disk keeps for other things.
KEPT_FREE_BYTES = 256 * 1024**2


class Body(Protocol):
    def read(self, size: int, /) -> bytes: ...


@transaction.atomic
def begin(user: User, *, name: str, size_bytes: int) -> Upload:
    """Make room for a file of this size. Its name is kept to be shown, as the last part of whatever was sent."""
    if not may_upload(user):
        raise ForbiddenError(_("You need to be a member or owner of a project to upload something."))
    if size_bytes < 1:
        raise InvalidError(_("The file is empty."), field="size_bytes")
    if size_bytes > settings.IMAGE_MAX_UPLOAD_BYTES:
        most = format_bytes(settings.IMAGE_MAX_UPLOAD_BYTES)
        raise TooLargeError(_("The file is larger than the %(most)s that are allowed.") % {"most": most})
    User.objects.select_for_update().filter(pk=user.pk).first()  # Two at once count each other.
    if Upload.objects.filter(user=user).count() >= MOST_UNFINISHED:
        raise ConflictError(
            _("You have %(most)s unfinished uploads. Finish one, or throw one away.") % {"most": MOST_UNFINISHED}
        )
    _refuse_without_room(size_bytes)
    upload = Upload.objects.create(user=user, name=_bare(name), size_bytes=size_bytes)
    upload.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(upload.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    return upload


def _bare(name: str) -> str:
    bare = PureWindowsPath(PurePosixPath(name.replace("\x00", "")).name).name
    return bare[:255] or "file"


def _refuse_without_room(size_bytes: int) -> None:
    """What others have begun counts as if it were here already."""
    settings.UPLOADS_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    announced = Upload.objects.aggregate(sum=Sum("size_bytes"))["sum"] or 0
    arrived = sum(upload.offset for upload in Upload.objects.all())
    free = shutil.disk_usage(settings.UPLOADS_DIR).free - KEPT_FREE_BYTES
    if size_bytes + announced - arrived > free:
        raise NoRoomError


def add(upload: Upload, body: Body, *, offset: int, length: int) -> int:
    """Add a piece of `length` bytes that begins at `offset`; how much has arrived then. OffsetError, TooLargeError."""
    if length > MOST_PIECE_BYTES:
        most = format_bytes(MOST_PIECE_BYTES)
        raise TooLargeError(_("A piece has at most %(most)s.") % {"most": most})
    Upload.objects.filter(pk=upload.pk).update(touched_at=timezone.now())
    try:
        descriptor = os.open(upload.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError from error
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        # Whoever had the upload before may still be writing down what came last.
        fcntl.flock(file, fcntl.LOCK_EX)
        have = os.fstat(descriptor).st_size
        if have != offset:
            raise OffsetError
        if have + length > upload.size_bytes:
            raise TooLargeError(_("The file has more bytes than were announced."))
        return have + _append(descriptor, body, length)


def _append(descriptor: int, body: Body, length: int) -> int:
    done = 0
    try:
        while done < length and (block := body.read(min(_BLOCK, length - done))):
            view = memoryview(block)
            while view:
                view = view[os.write(descriptor, view) :]
            done += len(block)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoRoomError from error
        raise
    return done


@transaction.atomic
def throw_away(upload: Upload) -> None:
    _remove(upload)


def prune() -> int:
    """Remove what nobody has added to for long: the clock's part. Returns how many."""
    before = timezone.now() - dt.timedelta(hours=settings.UPLOADS_KEEP_HOURS)
    removed = 0
    for pk in list(Upload.objects.filter(touched_at__lt=before).values_list("pk", flat=True)):
        with transaction.atomic():
            abandoned = Upload.objects.select_for_update().filter(pk=pk, touched_at__lt=before).first()
            if abandoned is not None:
                _remove(abandoned)
                removed += 1
    return removed


def _remove(upload: Upload) -> None:
    """The file first: without its row nobody would ever find it."""
    if Upload.objects.select_for_update().filter(pk=upload.pk).first() is not None:
        upload.path.unlink(missing_ok=True)
        Upload.objects.filter(pk=upload.pk).delete()


def take_over(user: User, pk: UUID) -> Upload:
    """For who makes something of a whole upload, inside its transaction: the row goes, the file is the caller's.

    The file lies under `upload_path` of the id, which becomes the id of what is made of it.
    """
    upload = Upload.objects.select_for_update().filter(pk=pk, user=user).first()
    if upload is None:
        raise InvalidError(_("This upload is not there any more. Upload the file again."), field="file")
    if not upload.is_whole:
        raise ConflictError(_("The upload has not ended yet: go on with it first."), field="file")
    taken = Upload(pk=upload.pk, user=user, name=upload.name, size_bytes=upload.size_bytes)
    upload.delete()
    return taken
