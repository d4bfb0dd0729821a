"""Backups that somebody made to do harm, or that were damaged: refused in words, and nothing is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.keeping import archive
from portal.keeping.archive import KeepingError
from tests.portal.keeping.conftest import Make, Saved

Members = dict[str, bytes]
GOOD: Members = {archive.SETTINGS: b"SECRET_KEY=" + b"k" * 60 + b"\n", "rows/accounts.user.jsonl": b'["id"]\n[1]\n'}


def manifest(members: Members, /, **changes: Any) -> dict[str, Any]:
    """As the writer makes it."""
    listed = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in members.items()
    }
    head = {"format": 1, "created_at": "2026-01-01T00:00:00+00:00", "engine": "sqlite"}
    return {**head, "migrations": {"accounts": ["0001_initial"]}, "members": listed, **changes}


def pack(path: Path, members: Members, listed: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
        file.writestr(archive.MANIFEST, listed if isinstance(listed, bytes) else json.dumps(listed))
    return path


def read_all(path: Path) -> archive.Manifest:
    with archive.opened(path) as reader:
        reader.settings()
        reader.verify()
        return reader.manifest


def test_the_pattern_that_the_others_spoil_is_good(tmp_path: Path) -> None:
    assert read_all(pack(tmp_path / "good.zip", GOOD, manifest(GOOD))).models == ["accounts.user"]


@pytest.mark.parametrize(
    "name",
    [
        "../casement.env",
        "/etc/cron.d/x",
        "images/../../x.qcow2",
        "images/..%2f.qcow2",
        "rows/../x.jsonl",
        "rows/a.b.jsonl/../x",
        "images/00000000-0000-0000-0000-000000000000.qcow2/x",
        "rows\\..\\x.jsonl",
        "casement.env",
        "images/",
    ],
)
def test_a_member_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    members = {**GOOD, name: b"x"}
    with pytest.raises(KeepingError):
        read_all(pack(tmp_path / "bad.zip", members, manifest(members)))
    with pytest.raises(KeepingError, match=r"not those that its manifest names|not an ordinary file"):
        read_all(pack(tmp_path / "unlisted.zip", members, manifest(GOOD)))


def _link(path: Path) -> None:
    info = zipfile.ZipInfo("rows/accounts.user.jsonl")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(archive.SETTINGS, GOOD[archive.SETTINGS])
        file.writestr(info, "/etc/shadow")
        file.writestr(archive.MANIFEST, json.dumps(manifest({**GOOD, info.filename: b"/etc/shadow"})))


def _twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as file:
        for name, content in [*GOOD.items(), *GOOD.items()]:
            file.writestr(name, content)
        file.writestr(archive.MANIFEST, json.dumps(manifest(GOOD)))


def _many(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(archive.MEMBERS_MAX + 1):
            file.writestr(f"rows/a.b{number}.jsonl", b"")


def _bomb(path: Path) -> None:
    """Declared small, and large when it is unpacked."""
    members = {**GOOD, "rows/accounts.user.jsonl": b"0" * 50_000_000}
    pack(path, members, manifest(GOOD))


def _large_settings(path: Path) -> None:
    members = {**GOOD, archive.SETTINGS: b"A=1\n" * 20_000}
    pack(path, members, manifest(members))


def _no_key(path: Path) -> None:
    members = {**GOOD, archive.SETTINGS: b"SECRET_KEY=\n"}
    pack(path, members, manifest(members))


def _no_manifest(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(archive.SETTINGS, "SECRET_KEY=x")


def _bzip2(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file:
        for name, content in GOOD.items():
            file.writestr(name, content)
        file.writestr(archive.MANIFEST, json.dumps(manifest(GOOD)))


def _text(path: Path) -> None:
    path.write_text("no archive at all")


@pytest.mark.parametrize(
    "spoil",
    [_link, _twice, _many, _bomb, _large_settings, _no_key, _no_manifest, _bzip2, _text, Path.mkdir],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_other_spoilt_archives_are_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tmp_path / "bad.zip")
    with pytest.raises(KeepingError):
        read_all(tmp_path / "bad.zip")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "1"},
        {"format": True},
        {"format": 0},
        {"engine": "mysql"},
        {"created_at": 5},
        {"more": 1},
        {"migrations": {}},
        {"migrations": {"accounts": "0001_initial"}},
        {"migrations": {"accounts": [1]}},
        {"migrations": {"../accounts": ["0001_initial"]}},
        {"members": []},
        {"members": {archive.SETTINGS: {"size": -1, "sha256": "0" * 64}}},
        {"members": {archive.SETTINGS: {"size": 2**70, "sha256": "0" * 64}}},
        {"members": {archive.SETTINGS: {"size": 1.0, "sha256": "0" * 64}}},
        {"members": {archive.SETTINGS: {"size": 1, "sha256": "../x"}}},
        {"members": {archive.SETTINGS: {"size": 1, "sha256": "0" * 64, "path": "/etc"}}},
    ],
)
def test_a_manifest_that_is_not_as_written_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(KeepingError):
        archive.parse_manifest(json.dumps(manifest(GOOD, **changes)).encode())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*manifest(GOOD), "size", "sha256", "x"]), inner),
)


@given(_json, st.sampled_from(sorted(manifest(GOOD))))
@settings(max_examples=200, deadline=None)
def test_no_manifest_makes_the_reader_stumble(value: Any, part: str) -> None:
    for data in (value, manifest(GOOD, **{part: value})):
        with contextlib.suppress(KeepingError):
            archive.parse_manifest(json.dumps(data).encode())
    with pytest.raises(KeepingError):
        archive.parse_manifest(b"[" * 100_000)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_flipped_or_missing_bytes_make_it_stumble(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = pack(tmp_path_factory.mktemp("flip") / "x.zip", GOOD, manifest(GOOD))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with contextlib.suppress(KeepingError):
        found = read_all(path)
        assert set(found.members) == set(GOOD)


def test_a_line_without_an_end_is_not_gathered_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LINE_MAX_BYTES", 3 * archive.CHUNK)
    members = {**GOOD, "rows/accounts.user.jsonl": b"[" * 5 * archive.CHUNK}
    with (
        archive.opened(pack(tmp_path / "long.zip", members, manifest(members))) as reader,
        pytest.raises(KeepingError, match="too long"),
    ):
        list(reader.lines("rows/accounts.user.jsonl"))


ROWS = "rows/accounts.project.jsonl"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [b'["id"]', *lines[1:]],
        lambda lines: [b"no json", *lines[1:]],
        lambda lines: [lines[0], b'{"id": 1}'],
        lambda lines: [lines[0], b"[" * 100_000],
        lambda lines: [lines[0], lines[1][:-1] + b",1]"],
        lambda lines: [*lines, lines[1]],
        lambda lines: [lines[0], lines[1].replace(b'"', b'"\\u0000', 1)],
        lambda lines: lines[:1],
    ],
    ids=["columns", "no-json", "no-row", "deep", "too-many", "twice", "nul", "links-to-nothing"],
)
def test_rows_that_do_not_fit_change_nothing(
    make: Make, saved: Saved, tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    there, path = make("sqlite"), tmp_path / "bad.zip"
    with zipfile.ZipFile(saved("sqlite")) as file:
        members = {name: file.read(name) for name in file.namelist()}
    listed = json.loads(members.pop(archive.MANIFEST))
    members[ROWS] = b"\n".join(spoil(members[ROWS].splitlines())) + b"\n"
    pack(path, members, {**listed, "members": manifest(members)["members"]})
    assert "The backup" in there.manage("restore", str(path), fails=True)
    assert not (there.home / "casement.env").exists()
    with contextlib.closing(sqlite3.connect(there.home / "db.sqlite3")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == []
    assert [file.name for file in there.home.iterdir() if file.name.startswith(".")] == []
