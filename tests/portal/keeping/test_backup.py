"""Backups and what is brought back from them, by real processes, on both databases."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from portal.keeping import archive
from portal.lib import pulse
from tests.portal.keeping.conftest import Make, Saved
from tests.portal.keeping.installation import ROOT, Installation, rows_in

# A restore adds to the trail that it was done, and ends what cannot hold.
CHANGED_BY_RESTORE = {"audit.event", "jobs.job", "console.consolesession", "console.screencontrol"}
OLD_KEY, NEW_KEY = "old-key-" + "0123456789abcdef" * 4, "new-key-" + "fedcba9876543210" * 4


def test_a_backup_comes_back_whole_in_an_empty_folder(make: Make, saved: Saved, engine: str, tmp_path: Path) -> None:
    there, path = make(engine), saved(engine)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    there.manage("restore", str(path))
    before, after = rows_in(path), there.rows(tmp_path)
    assert set(before) == set(after)
    for label in set(before) - CHANGED_BY_RESTORE:
        assert before[label] == after[label], label
        assert len(before[label]) > 2, f"{label} was not filled"
    assert there.first_passwords() == "{'first-password'}"
    assert "TRUST_PROXY=true" in (there.home / "casement.env").read_text()
    private = [there.home / "casement.env", *there.home.glob("db.sqlite3")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}
    assert left_over(there, tmp_path) == []
    # Keys go on after those that came back.
    there.manage("create_first_admin")
    there.shell("from portal.accounts.models import User\nUser.objects.create_user('another', password=None)")


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
def test_from_one_database_and_key_to_another(make: Make, source: str, target: str, tmp_path: Path) -> None:
    here, there = make(source, SECRET_KEY=OLD_KEY), make(target, SECRET_KEY=NEW_KEY)
    here.make()
    here.fill()
    here.manage("backup", str(tmp_path / "casement.zip"))
    there.manage("restore", str(tmp_path / "casement.zip"))
    assert there.first_passwords() == "{'first-password'}", "sealed with the key of this installation now"
    assert not (there.home / "casement.env").exists(), "it has settings of its own"
    before, after = rows_in(tmp_path / "casement.zip"), there.rows(tmp_path)
    for label in set(before) - CHANGED_BY_RESTORE - {"machines.machine"}:
        assert before[label] == after[label], label


def test_what_was_going_on_then_ends(make: Make, engine: str, tmp_path: Path) -> None:
    here, there = make(engine), make(engine)
    here.make()
    here.fill()
    here.shell(
        "from datetime import timedelta\nfrom django.contrib.sessions.backends.db import SessionStore\n"
        "from django.utils import timezone\nfrom portal.console.models import ConsoleSession\n"
        "from portal.jobs.models import Job\n"
        "until = timezone.now() + timedelta(hours=1)\n"
        "Job.objects.update(status='running', lease_owner='someone', lease_until=until, finished_at=None, outcome='')\n"
        "ConsoleSession.objects.update(ended_at=None)\nSessionStore().save()"
    )
    here.manage("backup", str(tmp_path / "casement.zip"))
    there.manage("restore", str(tmp_path / "casement.zip"))
    state = there.shell(
        "from portal.jobs.models import Job\nfrom portal.jobs.services import seconds_left, take_lease\n"
        "from portal.console.models import ConsoleSession, ScreenControl\n"
        "from django.contrib.sessions.models import Session\n"
        "print(set(Job.objects.values_list('status', 'lease_owner')), take_lease(Job.objects.first().pk, owner='me') "
        "is not None, min(map(seconds_left, Job.objects.all())) > 0, "
        "ConsoleSession.objects.filter(ended_at=None).count(), Session.objects.count(), "
        "ScreenControl.objects.exclude(user=None).count())"
    )
    assert state == "{('waiting', '')} True True 0 0 0"


def test_an_older_backup_is_migrated_forward(make: Make, engine: str, tmp_path: Path) -> None:
    here, there = make(engine), make(engine)
    here.make_older("machines.0001_initial", "jobs.0001_initial")
    here.fill()
    here.manage("backup", str(tmp_path / "old.zip"))
    there.manage("restore", str(tmp_path / "old.zip"))
    assert there.manage("migrate", "--check", "-v0") == ""
    assert there.first_passwords() == "{'first-password'}"
    assert there.project_names() == here.project_names()


def test_a_newer_backup_is_refused(make: Make, saved: Saved, tmp_path: Path) -> None:
    there, manifest = make("sqlite"), manifest_of(saved("sqlite"))
    later = {**manifest["migrations"], "machines": [*manifest["migrations"]["machines"], "9999_of_next_year"]}
    for change in ({"migrations": later}, {"format": archive.FORMAT + 1}):
        replaced(
            saved("sqlite"), tmp_path / "newer.zip", {archive.MANIFEST: json.dumps({**manifest, **change}).encode()}
        )
        assert "newer Casement" in there.manage("restore", str(tmp_path / "newer.zip"), fails=True)
    assert not (there.home / "casement.env").exists()


def test_what_is_there_is_replaced_only_by_force(make: Make, saved: Saved, engine: str, tmp_path: Path) -> None:
    there, path = make(engine), saved(engine)
    there.make()
    there.manage("bootstrap", "-v0")
    key = (there.home / "casement.env").read_text()
    assert "not empty" in there.manage("restore", str(path), fails=True)
    assert there.project_names() == "['Default']"
    there.manage("restore", str(path), "--force")
    assert there.project_names() == str(sorted(row[1] for row in rows_in(path)["accounts.project"][1:]))
    assert there.first_passwords() == "{'first-password'}"
    assert (there.home / "casement.env").read_text() == key, "its own settings stay"
    assert left_over(there, tmp_path) == []


def test_while_workers_live_nothing_is_brought_back(make: Make, redis_db: str, tmp_path: Path) -> None:
    here = make("sqlite", REDIS_URL=redis_db)
    here.make()
    here.manage("backup", str(tmp_path / "casement.zip"))
    pulse.beat(pulse.worker_beat("worker@here", ["default"]))
    assert "Casement is running (worker@here)" in here.manage("restore", str(tmp_path / "casement.zip"), fails=True)
    with redis.Redis.from_url(redis_db) as client:
        client.flushall()
    here.manage("restore", str(tmp_path / "casement.zip"), "--force")


def test_a_backup_is_of_one_moment_while_others_write(make: Make, engine: str, tmp_path: Path) -> None:
    """A project and its event are written together, so no backup may have one without the other."""
    here = make(engine)
    here.make()
    with writer(here) as process:
        for number in range(3):
            assert process.poll() is None
            here.manage("backup", str(tmp_path / f"{number}.zip"))
    found = [rows_in(tmp_path / f"{number}.zip") for number in range(3)]
    counts = [len(rows["accounts.project"]) - 1 for rows in found]
    for rows, count in zip(found, counts, strict=True):
        events = [row for row in rows["audit.event"][1:] if "project.created" in row]
        assert len(events) == count
    assert counts[2] > counts[0] > 0, "nothing was written meanwhile"


@contextmanager
def writer(here: Installation) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import django; django.setup()\nfrom django.db import transaction\nfrom portal.accounts.models import Project\n"
        "from portal.audit.services import record\nnumber = 0\nwhile True:\n    number += 1\n"
        "    with transaction.atomic():\n        project = Project.objects.create(name=f'p{number}')\n"
        "        record(None, 'project.created', project)\n"
        # No more: nobody empties the pipe, and who fills it writes nothing any more.
        "    if number == 1:\n        print(number, flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=here.environment | {"DJANGO_SETTINGS_MODULE": "portal.settings"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_images_come_with_it_when_asked_for(make: Make, tmp_path: Path) -> None:
    here, there = make("sqlite"), make("sqlite")
    here.make()
    here.fill()
    content = qcow2()
    version = add_image(here, content)
    here.manage("backup", str(tmp_path / "with.zip"), "--with-images")
    here.manage("backup", str(tmp_path / "without.zip"))
    assert archive.image_name(version) not in zipfile.ZipFile(tmp_path / "without.zip").namelist()
    there.manage("restore", str(tmp_path / "with.zip"))
    assert (there.home / "images" / f"{version}.qcow2").read_bytes() == content
    without = make("sqlite")
    assert "is not here" in without.manage("restore", str(tmp_path / "without.zip"))


def test_a_damaged_image_spoils_no_backup_silently(make: Make, tmp_path: Path) -> None:
    here = make("sqlite")
    here.make()
    here.fill()
    version = add_image(here, qcow2())
    (here.home / "images" / f"{version}.qcow2").write_bytes(qcow2() + b"x")
    said = here.manage("backup", str(tmp_path / "with.zip"), "--with-images", fails=True)
    assert "is damaged" in said
    assert list(tmp_path.glob("*.zip*")) == list(tmp_path.glob(".*.part")) == []


@pytest.mark.parametrize("where", ["backing file", "data file", "other format"])
def test_an_image_that_points_elsewhere_is_refused(make: Make, tmp_path: Path, where: str) -> None:
    here, there = make("sqlite"), make("sqlite")
    here.make()
    here.fill()
    content = {"backing file": qcow2(backing=512), "data file": qcow2(incompatible=4), "other format": b"KDMV" * 64}
    add_image(here, content[where])
    here.manage("backup", str(tmp_path / "bad.zip"), "--with-images")
    assert "The image" in there.manage("restore", str(tmp_path / "bad.zip"), fails=True)
    assert list((there.home / "images").glob("*")) == []
    assert "no such table" in there.python("manage.py", "create_first_admin").stderr, "nothing of it is there"


def test_a_backup_never_replaces_a_file(make: Make, tmp_path: Path) -> None:
    here = make("sqlite")
    here.make()
    (tmp_path / "there.zip").write_text("mine")
    (tmp_path / "link.zip").symlink_to(tmp_path / "nowhere")
    assert "exists already" in here.manage("backup", str(tmp_path / "there.zip"), fails=True)
    assert "exists already" in here.manage("backup", str(tmp_path / "link.zip"), fails=True)
    assert (tmp_path / "there.zip").read_text() == "mine"


def test_an_empty_database_has_no_backup(make: Make, tmp_path: Path) -> None:
    here = make("sqlite", SECRET_KEY=OLD_KEY)
    assert "nothing to back up" in here.manage("backup", str(tmp_path / "casement.zip"), fails=True)
    assert list(tmp_path.glob("*.zip")) == []


def qcow2(*, backing: int = 0, incompatible: int = 0) -> bytes:
    """A header of version 3, and some."""
    head = b"QFI\xfb" + (3).to_bytes(4, "big") + backing.to_bytes(8, "big")
    return head.ljust(72, b"\0") + incompatible.to_bytes(8, "big") + bytes(range(256)) * 4


def add_image(here: Installation, content: bytes) -> str:
    """The only version that is ready, with this file."""
    path = here.home / "content"
    path.write_bytes(content)
    return here.shell(
        "import hashlib, pathlib\nfrom portal.images.models import ImageVersion\n"
        f"content = pathlib.Path({str(path)!r}).read_bytes()\n"
        "ImageVersion.objects.update(status='failed')\nversion = ImageVersion.objects.first()\n"
        "version.path.parent.mkdir(exist_ok=True)\nversion.path.write_bytes(content)\n"
        "ImageVersion.objects.filter(pk=version.pk).update("
        "status='ready', sha256=hashlib.sha256(content).hexdigest())\nprint(version.pk)"
    )


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive_file:
        found: dict[str, Any] = json.loads(archive_file.read(archive.MANIFEST))
    return found


def replaced(source: Path, target: Path, members: dict[str, bytes]) -> None:
    """A copy with other contents of some members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name, old.read(name)))


def left_over(here: Installation, folder: Path) -> list[str]:
    """Scratch and parts that should be gone."""
    files = [path.name for path in here.home.iterdir() if path.name.startswith(".")]
    if here.database:
        files += here.shell(
            "from django.db import connection\nwith connection.cursor() as c:\n"
            "    c.execute(\"SELECT nspname FROM pg_namespace WHERE nspname LIKE 'casement%'\")\n"
            "    print(' '.join(name for name, in c.fetchall()))"
        ).split()
    return files + [path.name for path in folder.glob(".*.part")]
