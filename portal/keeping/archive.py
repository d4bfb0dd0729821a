"""A backup's file: a ZIP whose members have fixed names, with a manifest of their sizes and SHA-256. Knows no Django.

`manifest.json`, `settings.env`, `rows/<app>.<model>.jsonl`, `images/<uuid>.qcow2`, and nothing else. A member's name
never becomes a path: whoever reads asks for the names that the manifest may hold, and makes paths of its own. A backup
comes from somewhere else and may be hostile, so everything in it is checked before anything is done with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SETTINGS: Final = "settings.env"

MANIFEST_MAX_BYTES: Final = 4 * 1024**2
SETTINGS_MAX_BYTES: Final = 64 * 1024
ROWS_MAX_BYTES: Final = 64 * 1024**3
LINE_MAX_BYTES: Final = 16 * 1024**2
IMAGE_MAX_BYTES: Final = 1024**4
MEMBERS_MAX: Final = 10_000
CHUNK: Final = 1024**2

_ROWS: Final = re.compile(r"rows/([a-z][a-z0-9_]*\.[a-z][a-z0-9_]*)\.jsonl")
_IMAGE: Final = re.compile(r"images/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.qcow2")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_WORD: Final = re.compile(r"[A-Za-z0-9_]{1,200}")


class KeepingError(Exception):
    """A backup or a restore cannot be done; the text is for the operator. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Member:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`migrations`: every migration that the database had, by app. `created_at` is ISO 8601."""

    created_at: str
    engine: str
    migrations: Mapping[str, tuple[str, ...]]
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Labels of the models whose rows are there."""
        return [match[1] for name in self.members if (match := _ROWS.fullmatch(name))]

    @property
    def images(self) -> list[str]:
        """Ids of the image versions whose files are there."""
        return [match[1] for name in self.members if (match := _IMAGE.fullmatch(name))]

    def size_of(self, prefix: str) -> int:
        return sum(member.size for name, member in self.members.items() if name.startswith(prefix))


def rows_name(label: str) -> str:
    return f"rows/{label}.jsonl"


def image_name(version_id: object) -> str:
    return f"images/{version_id}.qcow2"


# --- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def written(path: Path) -> Iterator[Writer]:
    """A backup that appears under its name whole, or not at all. Only its owner may read it: it holds every secret."""
    if path.exists() or path.is_symlink():
        raise KeepingError(f"{path} exists already; a backup never replaces a file.")
    part = path.with_name(f".{path.name}.part")
    with _part_file(part) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            yield Writer(archive)
        file.flush()
        os.fsync(file.fileno())
        part.replace(path)
    sync_folder(path.parent)


@contextmanager
def _part_file(part: Path) -> Iterator[IO[bytes]]:
    """What an earlier try left is used again, so a killed one leaves no heap of files behind."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeepingError(f"{part.parent} cannot be written to: {error.strerror}.") from error
    with os.fdopen(descriptor, "w+b") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeepingError(f"Another backup is being written to {part.name.removeprefix('.')[:-5]}.") from None
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        try:
            yield file
        except BaseException:
            with suppress(FileNotFoundError):
                part.unlink()
            raise


class Writer:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: dict[str, Member] = {}

    def add(self, name: str, chunks: Iterable[bytes], *, packed: bool = True) -> Member:
        """Write a member piece by piece. Images are packed in themselves: `packed=False` leaves them as they are."""
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        info.external_attr = (stat.S_IFREG | 0o600) << 16
        digest, size = hashlib.sha256(), 0
        with self._archive.open(info, "w", force_zip64=True) as member:
            for chunk in chunks:
                member.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        self._members[name] = found = Member(size, digest.hexdigest())
        return found

    def finish(self, *, created_at: str, engine: str, migrations: Mapping[str, Iterable[str]]) -> None:
        """The manifest comes last, because it knows what came before."""
        manifest = {
            "format": FORMAT,
            "created_at": created_at,
            "engine": engine,
            "migrations": {app: list(names) for app, names in migrations.items()},
            "members": {name: {"size": found.size, "sha256": found.sha256} for name, found in self._members.items()},
        }
        self._archive.writestr(MANIFEST, json.dumps(manifest, indent=1))


def sync_folder(folder: Path) -> None:
    """A rename is kept through a power cut only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """A backup whose form is right. What is in its members is checked by `Reader.verify`."""
    if not path.is_file():
        raise KeepingError(f"There is no file {path}.")
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        yield Reader(archive)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Whatever the ZIP library says about a file that is none, in one sentence."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise KeepingError(f"{path} is no backup, or is damaged: {error}.") from error


class Reader:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        infos = archive.infolist()
        if len(infos) > MEMBERS_MAX or len({info.filename for info in infos}) != len(infos):
            raise KeepingError("The backup has too many members, or two of one name.")
        self._infos = {info.filename: info for info in infos}
        for info in infos:
            _check_member(info)
        self.manifest = parse_manifest(self._read(MANIFEST, limit=MANIFEST_MAX_BYTES))
        if set(self._infos) != {MANIFEST, *self.manifest.members}:
            raise KeepingError("The backup's members are not those that its manifest names.")
        for name, member in self.manifest.members.items():
            if self._infos[name].file_size != member.size:
                raise KeepingError(f"{name} in the backup is not as large as its manifest says.")

    def verify(self) -> None:
        """Read everything once: each member is as long and has the SHA-256 as the manifest says."""
        for name in self.manifest.members:
            for _chunk in self.chunks(name):
                pass

    def settings(self) -> dict[str, str]:
        """Of `settings.env`. SECRET_KEY is always there."""
        text = self._read(SETTINGS, limit=SETTINGS_MAX_BYTES).decode("utf-8", errors="replace")
        found = parse_settings(text)
        if not found.get("SECRET_KEY"):
            raise KeepingError("The backup has no SECRET_KEY.")
        return found

    def chunks(self, name: str) -> Iterator[bytes]:
        """The member's bytes. KeepingError at the end if they are not those of the manifest."""
        expected, digest, size = self.manifest.members[name], hashlib.sha256(), 0
        with self._archive.open(name) as member:
            while chunk := member.read(CHUNK):
                size += len(chunk)
                if size > expected.size:
                    break
                digest.update(chunk)
                yield chunk
        if size != expected.size or digest.hexdigest() != expected.sha256:
            raise KeepingError(f"{name} in the backup is damaged: its checksum is another one.")

    def lines(self, name: str) -> Iterator[bytes]:
        """The member's lines; one that is too long for any row is refused."""
        rest = b""
        for chunk in self.chunks(name):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
            if len(rest) > LINE_MAX_BYTES:
                raise KeepingError(f"{name} in the backup has a line that is too long.")
        if rest:
            yield rest

    def _read(self, name: str, *, limit: int) -> bytes:
        if name not in self._infos or self._infos[name].file_size > limit:
            raise KeepingError(f"The backup has no {name}, or one that is too large.")
        with self._archive.open(name) as member:
            content = member.read(limit + 1)
        if len(content) > limit:
            raise KeepingError(f"{name} in the backup is too large.")
        return content


def _check_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG} or info.is_dir():
        raise KeepingError(f"{info.filename!r} in the backup is not an ordinary file.")
    if info.flag_bits & 0x1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise KeepingError(f"{info.filename!r} in the backup is packed in a way that backups are not.")


def parse_manifest(content: bytes) -> Manifest:
    """Strictly: what is not exactly as `Writer.finish` writes it is refused."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise KeepingError("The backup's manifest cannot be read.") from error
    if not isinstance(data, dict) or type(data.get("format")) is not int:
        raise KeepingError("The backup's manifest says no format.")
    if data["format"] > FORMAT:
        raise KeepingError("The backup was made by a newer Casement. Restore it with that one, or a newer one.")
    if data["format"] < 1 or set(data) != {"format", "created_at", "engine", "migrations", "members"}:
        raise _malformed("parts")
    if not isinstance(data["created_at"], str) or data["engine"] not in ("sqlite", "postgresql"):
        raise _malformed("head")
    members = _members(data["members"])
    return Manifest(data["created_at"][:40], data["engine"], _migrations(data["migrations"]), members)


def _migrations(data: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(data, dict) or not data:
        raise _malformed("migrations")
    for app, names in data.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _malformed("migrations")
        if not all(_WORD.fullmatch(word) for word in (app, *names)):
            raise _malformed("migrations")
    return {app: tuple(names) for app, names in data.items()}


def _members(data: Any) -> dict[str, Member]:
    if not isinstance(data, dict) or SETTINGS not in data:
        raise _malformed("members")
    found = {name: _member(name, entry) for name, entry in data.items()}
    if sum(member.size for name, member in found.items() if _ROWS.fullmatch(name)) > ROWS_MAX_BYTES:
        raise _malformed("sizes")
    return found


def _member(name: str, entry: Any) -> Member:
    if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
        raise _malformed("members")
    size, sha256 = entry["size"], entry["sha256"]
    if type(size) is not int or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise _malformed("members")
    if not 0 <= size <= _limit_of(name):
        raise _malformed("sizes")
    return Member(size, sha256)


def _limit_of(name: str) -> int:
    if name == SETTINGS:
        return SETTINGS_MAX_BYTES
    if _ROWS.fullmatch(name):
        return ROWS_MAX_BYTES
    if _IMAGE.fullmatch(name):
        return IMAGE_MAX_BYTES
    raise KeepingError(f"{name[:80]!r} is no name of a member that a backup may have.")


def _malformed(what: str) -> KeepingError:
    return KeepingError(f"The backup's manifest is not as it must be ({what}).")


# --- settings --------------------------------------------------------------------------------------------------------


def parse_settings(text: str) -> dict[str, str]:
    """NAME=value a line, as in casement.env; quotes around a value are taken off."""
    found = {}
    for line in map(str.strip, text.splitlines()):
        name, equals, value = line.removeprefix("export ").partition("=")
        if equals and re.fullmatch(r"[A-Z][A-Z0-9_]*", name.strip()):
            found[name.strip()] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else value


def settings_text(settings: Mapping[str, str]) -> str:
    """Quoted where a reader of such files could take a part of the value for something else."""
    return "".join(
        f"{name}={value}\n" if re.fullmatch(r"[\w.,:/@%+=-]*", value) else f"{name}='{value}'\n"
        for name, value in settings.items()
    )
