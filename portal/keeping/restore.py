"""Bringing a backup back: all of it or nothing, and nothing before all of it is known to be good."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import redis
from django.apps import apps
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from portal.audit import services as audit
from portal.console.services import end_all_sessions
from portal.images.models import ImageVersion, VersionStatus
from portal.jobs.services import put_back_all
from portal.keeping import archive, fresh, rows
from portal.keeping.archive import KeepingError, Manifest, Reader
from portal.keeping.scratch import scratch_database
from portal.lib import pulse
from portal.lib.secrets import Resealer

# Rows take more room as tables with indexes than as lines, and are there twice for a moment.
ROOM_FOR_ROWS = 6
QCOW2_MAGIC = b"QFI\xfb"


@dataclass(frozen=True, slots=True)
class Summary:
    """`missing_images`: image versions that are ready and whose file is not here."""

    manifest: Manifest
    rows: int
    images: int
    missing_images: tuple[str, ...] = ()


def check_backup(path: Path) -> Manifest:
    """Read all of it and change nothing. KeepingError says what is wrong with it."""
    with archive.opened(path) as reader:
        _check(reader)
        return reader.manifest


def restore_backup(path: Path, *, force: bool) -> Summary:
    """Make the installation what it was. Killed anywhere, it is what it was before, or what it shall be."""
    with _alone(), archive.opened(path) as reader:
        _check(reader)
        _check_here(reader.manifest, force=force)
        old_key = reader.settings()["SECRET_KEY"]
        with scratch_database() as take_over, ExitStack() as undo:
            count = _build(reader, Resealer(old_key))
            _settle(reader.manifest)
            # From here on things are written that stay; the database comes last, and is what counts.
            fresh.write_settings(settings.CASEMENT_HOME)
            images = sum(_place_image(reader, UUID(version_id), undo) for version_id in reader.manifest.images)
            missing = _missing_images()
            take_over()
            undo.pop_all()
    return Summary(reader.manifest, count, images, missing)


@contextmanager
def _alone() -> Iterator[None]:
    """Two restores at once would share their scratch. What is written in here is for this user's eyes only."""
    before = os.umask(0o077)
    folder: Path = settings.CASEMENT_HOME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "restore.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeepingError("Another restore is under way.") from None
        try:
            yield
        finally:
            os.umask(before)


def _check(reader: Reader) -> None:
    """Everything that can be known without touching anything."""
    wanted = set(rows.models_at(reader.manifest.migrations))
    if wanted != set(reader.manifest.models):
        raise KeepingError("The backup's tables are not those of its migrations.")
    reader.settings()
    reader.verify()


def _check_here(manifest: Manifest, *, force: bool) -> None:
    if workers := _workers():
        raise KeepingError(f"Casement is running ({', '.join(workers)}). Stop it first.")
    if not force and (table := _first_used_table()):
        raise KeepingError(f"This installation is not empty ({table} has rows). --force replaces all of it.")
    _check_room(Path(settings.IMAGES_DIR), manifest.size_of("images/"))
    if connection.vendor == "sqlite":
        _check_room(Path(connection.settings_dict["NAME"]).parent, manifest.size_of("rows/") * ROOM_FOR_ROWS)


def _workers() -> tuple[str, ...]:
    """Those that live. bin/run's Redis ends with it, so where none answers, nothing runs."""
    try:
        return pulse.living().workers
    except redis.RedisError:
        return ()


def _first_used_table() -> str:
    """Of Casement's own tables: those of Django's have rows from the first migration on."""
    existing = set(connection.introspection.table_names())
    for model in apps.get_models():
        if model.__module__.startswith("portal.") and model._meta.db_table in existing:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT 1 FROM {connection.ops.quote_name(model._meta.db_table)} LIMIT 1")  # noqa: S608 - a table's own name
                if cursor.fetchone():
                    return model._meta.db_table
    return ""


def _check_room(folder: Path, needed: int) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise KeepingError(f"{folder} has {free // 1024**2} MiB free, and {needed // 1024**2} MiB are needed.")


def _build(reader: Reader, resealer: Resealer) -> int:
    """The backup's tables and rows in the scratch, migrated to what this Casement needs; how many rows there were."""
    models = rows.build_at(reader.manifest.migrations)
    try:
        with transaction.atomic():
            count = sum(
                rows.load(model, reader.lines(archive.rows_name(label)), resealer) for label, model in models.items()
            )
            connection.check_constraints()
        rows.reset_sequences(models.values())
    except (DatabaseError, ValueError, OverflowError) as error:
        raise KeepingError(f"The backup's rows do not fit together: {error}") from error
    ContentType.objects.clear_cache()  # The keys that this process knows are those of another database.
    call_command("migrate", interactive=False, verbosity=0)
    return count


def _settle(manifest: Manifest) -> None:
    """What cannot hold any more ends: whoever worked or looked on then is gone. Jobs are found again by the clock."""
    with transaction.atomic():
        jobs, sessions = put_back_all(), end_all_sessions()
        detail = {"of": manifest.created_at, "jobs": jobs, "sessions": sessions}
        audit.record_of_portal("portal.restored", detail=detail)


def _missing_images() -> tuple[str, ...]:
    ready = ImageVersion.objects.filter(status=VersionStatus.READY).select_related("image")
    return tuple(str(version) for version in ready if not version.path.is_file())


def _place_image(reader: Reader, version_id: UUID, undo: ExitStack) -> bool:
    """Put an image's file where its row will look for it. True if it was not there yet.

    Files are named by ids that are never used twice, so one that no row knows yet, because the restore was killed after
    this, does no harm; the next try uses it.
    """
    name = archive.image_name(version_id)
    path = ImageVersion(pk=version_id).path
    if path.is_file():
        _check_same(path, reader.manifest.members[name].sha256)
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    undo.callback(part.unlink, missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for chunk in reader.chunks(name):
            if file.tell() == 0:
                _check_header(chunk, version_id)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    undo.callback(path.unlink, missing_ok=True)
    part.replace(path)
    archive.sync_folder(path.parent)
    return True


def _check_header(head: bytes, version_id: UUID) -> None:
    """A qcow2 file that names another file would show guests what lies there on the host."""
    if head[:4] != QCOW2_MAGIC or len(head) < 104:
        raise KeepingError(f"The image {version_id} in the backup is not a qcow2 file.")
    backing_offset, incompatible = int.from_bytes(head[8:16], "big"), int.from_bytes(head[72:80], "big")
    has_data_file = int.from_bytes(head[4:8], "big") >= 3 and incompatible & 0x4
    if backing_offset or has_data_file:
        raise KeepingError(f"The image {version_id} in the backup points to another file.")


def _check_same(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise KeepingError(f"{path} is there with another content. Move it away first.")
