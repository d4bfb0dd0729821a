import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from workers.imaging.errors import ImageRejected
from workers.imaging.importer import ImportLimits, import_image
from workers.imaging.inspector import inspect_image

MIB = 1024 * 1024
LIMITS = ImportLimits()


def silent(percent: int, word: str) -> None:
    """Nobody watches."""


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A qcow2 of 8 MiB full of data."""
    raw, path = tmp_path / "raw", tmp_path / "upload"
    raw.write_bytes(bytes(range(1, 256)) * (8 * MIB // 255 + 1))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    raw.unlink()
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


def test_an_upload_becomes_a_fresh_qcow2_with_both_digests(upload: Path, pool: Path) -> None:
    seen: list[int] = []
    facts = import_image(upload, pool / "a.qcow2", limits=LIMITS, progress=lambda percent, word: seen.append(percent))
    assert facts.format == "qcow2"
    assert facts.source_sha256 == hashlib.sha256(upload.read_bytes()).hexdigest()
    assert facts.sha256 == hashlib.sha256((pool / "a.qcow2").read_bytes()).hexdigest()
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 100)
    assert [path.name for path in pool.iterdir()] == ["a.qcow2"]


def test_a_raw_disk_becomes_a_qcow2_of_the_same_size(tmp_path: Path, pool: Path) -> None:
    disk = bytearray(2 * MIB)
    disk[510:512] = b"\x55\xaa"
    (tmp_path / "disk").write_bytes(disk)
    facts = import_image(tmp_path / "disk", pool / "a.qcow2", limits=LIMITS, progress=silent)
    assert (facts.format, facts.virtual_size_bytes) == ("qcow2", 2 * MIB)


def test_an_upload_that_was_cut_off_is_refused_and_leaves_nothing(upload: Path, pool: Path) -> None:
    upload.write_bytes(upload.read_bytes()[:1_000_000])
    assert inspect_image(upload).format == "qcow2"
    with pytest.raises(ImageRejected, match="cut off"):
        import_image(upload, pool / "a.qcow2", limits=LIMITS, progress=silent)
    assert list(pool.iterdir()) == []


def test_an_image_with_a_backing_file_is_refused_and_leaves_nothing(tmp_path: Path, pool: Path) -> None:
    (tmp_path / "canary").write_bytes(b"secret" * 1000)
    options = ["-q", "-u", "-f", "qcow2", "-b", str(tmp_path / "canary"), "-F", "raw"]
    subprocess.run(["qemu-img", "create", *options, str(tmp_path / "b"), "1M"], check=True)
    with pytest.raises(ImageRejected):
        import_image(tmp_path / "b", pool / "a.qcow2", limits=LIMITS, progress=silent)
    assert list(pool.iterdir()) == []


@pytest.mark.parametrize(
    "limits",
    [
        replace(LIMITS, max_source_bytes=MIB),
        replace(LIMITS, max_virtual_bytes=MIB),
        replace(LIMITS, max_result_bytes=MIB),
        replace(LIMITS, memory_bytes=8 * MIB),
    ],
)
def test_every_limit_holds_and_leaves_nothing(upload: Path, pool: Path, limits: ImportLimits) -> None:
    with pytest.raises(ImageRejected):
        import_image(upload, pool / "a.qcow2", limits=limits, progress=silent)
    assert list(pool.iterdir()) == []


def test_a_cancelled_import_leaves_what_was_there_before(upload: Path, pool: Path) -> None:
    (pool / "a.qcow2").write_bytes(b"before")
    (pool / ".a.qcow2.partial").write_bytes(b"left by a worker that was killed")

    def cancel(percent: int, word: str) -> None:
        if percent > 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_image(upload, pool / "a.qcow2", limits=LIMITS, progress=cancel)
    assert [(path.name, path.read_bytes()) for path in pool.iterdir()] == [("a.qcow2", b"before")]
