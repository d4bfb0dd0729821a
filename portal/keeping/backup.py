"""Writing a backup of Casement's own state, while the portal runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from portal.audit import services as audit
from portal.images.models import ImageVersion, VersionStatus
from portal.keeping import archive, rows, schema
from portal.keeping.archive import CHUNK, KeepingError, Writer


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in a backup. `missing_images` are versions that are ready and whose file is not here."""

    rows: int
    images: int
    missing_images: tuple[str, ...] = ()


def write_backup(path: Path, *, with_images: bool) -> Summary:
    """Make the file; KeepingError if it cannot be. The rows are those of one moment, whatever is written meanwhile."""
    with archive.written(path) as writer:
        summary = _write(writer, with_images=with_images)
    detail = {"file": path.name, "images": summary.images}
    audit.record_of_portal("portal.backed_up", detail=detail)
    return summary


def _write(writer: Writer, *, with_images: bool) -> Summary:
    created_at = timezone.now().isoformat(timespec="seconds")
    writer.add(archive.SETTINGS, [archive.settings_text(_settings()).encode()])
    count = 0
    with _snapshot():
        migrations = schema.applied(MigrationLoader(connection))
        for label, model in rows.models_at(migrations).items():
            lines = _Counted(rows.dumped(model))
            writer.add(archive.rows_name(label), lines)
            count += lines.count - 1
        versions = list(ImageVersion.objects.filter(status=VersionStatus.READY)) if with_images else []
    missing = [version for version in versions if not _add_image(writer, version)]
    writer.finish(created_at=created_at, engine=connection.vendor, migrations=migrations)
    return Summary(count, len(versions) - len(missing), tuple(map(str, missing)))


class _Counted:
    """Lines, and how many there were."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.count += 1
            yield line


def _settings() -> dict[str, str]:
    """Those of casement.env, and the key without which sealed secrets are lost, wherever it comes from."""
    try:
        kept = archive.parse_settings((settings.CASEMENT_HOME / "casement.env").read_text(encoding="utf-8"))
    except FileNotFoundError:
        kept = {}
    return {**kept, "SECRET_KEY": settings.SECRET_KEY}


@contextmanager
def _snapshot() -> Iterator[None]:
    """Everything that is read in here is of the same moment, and nobody who writes has to wait for it."""
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")  # Not Django's own transaction, which would take the lock of a writer.
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


def _add_image(writer: Writer, version: ImageVersion) -> bool:
    """False if its file is not here. A file that is not the one that was registered spoils no backup silently."""
    if not version.path.is_file():
        return False
    member = writer.add(archive.image_name(version.pk), _file_chunks(version.path), packed=False)
    if version.sha256 and member.sha256 != version.sha256:
        raise KeepingError(f"The file of {version} is damaged: its SHA-256 is not the one that it was built with.")
    return True


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
