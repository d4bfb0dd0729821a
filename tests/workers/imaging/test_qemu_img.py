import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import workers
from workers.imaging import commands, qemu_img
from workers.imaging.commands import Limits
from workers.imaging.errors import CommandFailed

HOUSE = Path(workers.__file__).parent
MIB = 1024 * 1024


def qemu_img_lists(path: Path) -> Iterator[list[str]]:
    """The literal words of every list that begins with "qemu-img"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.List | ast.Tuple) and node.elts:
            words = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            if words and words[0] == "qemu-img":
                yield [str(word) for word in words]


def test_every_call_of_qemu_img_says_the_format() -> None:
    calls = list(qemu_img_lists(Path(qemu_img.__file__)))
    assert len(calls) == 8
    assert all("-f" in words for words in calls if "snapshot" not in words)
    assert all("-F" in words for words in calls if "-b" in words)


def test_snapshots_know_no_format_option_and_are_told_the_driver_instead(tmp_path: Path) -> None:
    """Also that no base is opened: a header that names another one leads nowhere."""
    disk = tmp_path / "disk.qcow2"
    base = ["-u", "-b", "/etc/hostname", "-F", "raw"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, disk, "1M"], check=True)
    qemu_img.create_snapshot(disk, "one")
    qemu_img.grow(disk, size_bytes=2 * MIB)
    qemu_img.create_snapshot(disk, "two")
    assert qemu_img.snapshots(disk) == {"one", "two"}
    qemu_img.apply_snapshot(disk, "one")
    qemu_img.delete_snapshot(disk, "one")
    facts = qemu_img.info(disk, "qcow2")
    assert (facts["virtual-size"], facts["backing-filename"]) == (MIB, "/etc/hostname")
    assert qemu_img.snapshots(disk) == {"two"}
    for what in (qemu_img.apply_snapshot, qemu_img.delete_snapshot):
        with pytest.raises(CommandFailed):
            what(disk, "one")
    raw = raw_disk(tmp_path)
    with pytest.raises(CommandFailed):
        qemu_img.create_snapshot(raw, "one")
    assert raw.read_bytes() == b"casement" * (MIB // 8)


def test_qemu_img_is_run_from_one_module_only() -> None:
    others = [path for path in HOUSE.rglob("*.py") if path != Path(qemu_img.__file__)]
    assert [path for path in others if list(qemu_img_lists(path))] == []


def test_an_overlay_names_its_base_and_the_bases_format(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    qemu_img.convert(raw_disk(tmp_path), base, source_format="raw")
    qemu_img.create_overlay(overlay, base=base, base_format="qcow2", size_bytes=8 * MIB)
    facts = qemu_img.info(overlay, "qcow2")
    assert facts["virtual-size"] == 8 * MIB
    assert facts["backing-filename"] == str(base)
    assert facts["backing-filename-format"] == "qcow2"


def raw_disk(directory: Path) -> Path:
    disk = directory / "disk.raw"
    disk.write_bytes(b"casement" * (MIB // 8))
    return disk


def test_an_unknown_format_is_never_handed_on(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="vmdk"):
        qemu_img.info(tmp_path / "a", "vmdk")


def test_a_qcow2_read_as_raw_stays_plain_bytes(tmp_path: Path) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", tmp_path / "a", "1M"],
        check=True,
    )
    qemu_img.convert(tmp_path / "a", tmp_path / "b", source_format="raw")
    facts = qemu_img.info(tmp_path / "b", "qcow2")
    assert "backing-filename" not in facts
    # Raw disks are counted in sectors, so the last one is filled up.
    assert facts["virtual-size"] == -(-(tmp_path / "a").stat().st_size // 512) * 512


class AtOnce:
    """A timer whose time is over. A real one comes in a thread, which a tool may be quicker than."""

    def __init__(self, _seconds: float, function: Callable[[], None]) -> None:
        self.start = function

    def cancel(self) -> None: ...


@pytest.mark.parametrize("limits", [Limits(file_size=MIB // 4), Limits(address_space=8 * MIB), Limits(timeout=0.0001)])
def test_a_limit_ends_the_tool(tmp_path: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "Timer", AtOnce)
    with pytest.raises(CommandFailed):
        qemu_img.convert(raw_disk(tmp_path), tmp_path / "b", source_format="raw", limits=limits)


def test_progress_is_told_in_per_cent(tmp_path: Path) -> None:
    seen: list[int] = []
    qemu_img.convert(raw_disk(tmp_path), tmp_path / "b", source_format="raw", compress=True, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 100
