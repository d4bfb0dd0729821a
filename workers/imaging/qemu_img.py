"""The only place that runs qemu-img. The format is always said, never probed, and every run has limits.

A format that is probed is the guest's to choose: it writes another header and reads the host's files at the next start.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from workers.imaging.commands import Limits, run
from workers.imaging.errors import CommandFailed
from workers.imaging.facts import ImageFormat

MIB = 1024 * 1024
# Enough for any image whose clusters are sane; a hostile table that wants more memory or time ends the tool instead.
QUICK = Limits(address_space=1024 * MIB, cpu_seconds=30, timeout=60)
THOROUGH = Limits(address_space=2048 * MIB, cpu_seconds=1200, timeout=1800)
# Of a machine's whole disk, which may be large and its storage slow; the job has a limit of its own.
COPYING = Limits(address_space=2048 * MIB, cpu_seconds=3 * 3600, timeout=6 * 3600)
# Tables of a large disk are copied, its data never.
SNAPSHOT = Limits(address_space=2048 * MIB, cpu_seconds=120, timeout=300)
FORMATS = ("qcow2", "raw")


def info(path: Path, fmt: str) -> dict[str, Any]:
    """`qemu-img info` of an image in `fmt`, as its JSON. Works beside a running machine. Raises CommandFailed."""
    argv = ["qemu-img", "info", "-f", _known(fmt), "--force-share", "--output=json", _plain(path)]
    text = run(argv, limits=QUICK, keep_lines=None, merge_errors=False)
    return cast(dict[str, Any], json.loads(text))


def check(path: Path, fmt: ImageFormat, *, limits: Limits = THOROUGH) -> None:
    """Walk all of an image's tables; CommandFailed when one is damaged or the file is cut short. Raw has no tables."""
    if fmt != "qcow2":
        return
    argv = ["qemu-img", "check", "-f", _known(fmt), "--output=json", _plain(path)]
    report = json.loads(run(argv, limits=limits, keep_lines=None, merge_errors=False))
    # What lies beyond the end of the file reads as zeros, so an image without its last tables passes as an empty one.
    missing = int(report["image-end-offset"]) - path.stat().st_size
    if missing >= _cluster_size(path):
        raise CommandFailed(f"The image is cut off: {missing} bytes are missing.")


def _cluster_size(path: Path) -> int:
    """In bytes; a whole image may lack the unwritten rest of its last cluster, and no more."""
    with path.open("rb") as file:
        return 1 << int.from_bytes(file.read(24)[20:24], "big")


def convert(
    source: Path,
    destination: Path,
    *,
    source_format: ImageFormat,
    compress: bool = False,
    limits: Limits = THOROUGH,
    progress: Callable[[int], None] = lambda percent: None,
) -> None:
    """Write a new qcow2 `destination` that stands alone. `progress` gets 0-100. Raises CommandFailed."""
    options = "compat=1.1,lazy_refcounts=off" + (",compression_type=zstd" if compress else "")
    flags = ["-c"] if compress else []
    argv = ["qemu-img", "convert", "-p", "-f", _known(source_format), "-O", "qcow2", "-o", options, *flags]
    run([*argv, _plain(source), _plain(destination)], limits=limits, on_line=_percent(progress))


def copy(
    source: Path,
    destination: Path,
    *,
    bases: Sequence[Path],
    snapshot: str | None = None,
    keep_base: bool = False,
    limits: Limits = COPYING,
    progress: Callable[[int], None] = lambda percent: None,
) -> None:
    """Write a machine's disk, a qcow2, to a new qcow2 that stands alone, or with `keep_base` on the first of `bases`.

    `bases` is all that `source` reads from, nearest first: they are believed, and what its header names is not, which
    a guest that broke out might have written. `snapshot` names one inside it, for which a running machine may go on
    writing to the file. Raises CommandFailed.
    """
    argv = ["qemu-img", "convert", "-p", "-f", "qcow2", "-O", "qcow2", "-o", "compat=1.1,lazy_refcounts=off"]
    if snapshot is not None:
        argv += ["--force-share", "-l", f"snapshot.name={snapshot}"]
    if keep_base:
        argv += ["-B", _plain(bases[0]), "-F", "qcow2"]
    run([*argv, _chain([source, *bases]), _plain(destination)], limits=limits, on_line=_percent(progress))


def _chain(files: Sequence[Path]) -> str:
    """A qcow2 and what it reads from as one argument, each with its format, so that no header is asked for either."""
    node: dict[str, Any] | None = None
    for path in reversed(files):
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": _plain(path)}, "backing": node}
    return f"json:{json.dumps(node)}"


def create_overlay(destination: Path, *, base: Path, base_format: str, size_bytes: int) -> None:
    """A new qcow2 of `size_bytes` that reads from `base` what it has not written itself. Raises CommandFailed."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", _plain(base), "-F", _known(base_format)]
    run([*argv, _plain(destination), str(size_bytes)], limits=QUICK)


def create_empty(destination: Path, *, size_bytes: int) -> None:
    """A new qcow2 of `size_bytes` that stands alone. Raises CommandFailed."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", _plain(destination), str(size_bytes)], limits=QUICK)


def grow(path: Path, *, size_bytes: int) -> None:
    """Make a qcow2 image that no machine has open larger, never smaller. Raises CommandFailed."""
    run(["qemu-img", "resize", "-q", "-f", "qcow2", _plain(path), str(size_bytes)], limits=QUICK)


def snapshots(path: Path) -> set[str]:
    """The names of the snapshots inside a qcow2 image. Works beside a running machine. Raises CommandFailed."""
    return {str(snapshot["name"]) for snapshot in info(path, "qcow2").get("snapshots", [])}


def create_snapshot(path: Path, name: str) -> None:
    """Keep what a qcow2 image holds now, inside it. No machine may have it open. Raises CommandFailed."""
    _snapshot("-c", name, path)


def apply_snapshot(path: Path, name: str) -> None:
    """Make a qcow2 image what it was, its size too; its snapshots stay. As `create_snapshot`."""
    _snapshot("-a", name, path)


def delete_snapshot(path: Path, name: str) -> None:
    """Forget a snapshot; what only it held is free again. As `create_snapshot`."""
    _snapshot("-d", name, path)


def _snapshot(what: str, name: str, path: Path) -> None:
    run(["qemu-img", "snapshot", "-q", what, name, _qcow2_alone(path)], limits=SNAPSHOT)


def _qcow2_alone(path: Path) -> str:
    """For the one subcommand that knows no `-f`: the image as a node, whose base is not opened, whatever it names."""
    file = {"driver": "file", "filename": _plain(path)}
    return "json:" + json.dumps({"driver": "qcow2", "backing": None, "file": file})


def _known(fmt: str) -> str:
    if fmt not in FORMATS:
        raise CommandFailed(f"Images of the format {fmt!r} are not used here.")
    return fmt


def _plain(path: Path) -> str:
    """The path as qemu-img's argument: absolute, because a name such as `json:…` or `nbd:…` would be a protocol."""
    return str(path.absolute())


def _percent(progress: Callable[[int], None]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        figure = line.strip().removeprefix("(").split("/")[0].split(".")[0]
        if figure.isdecimal():
            progress(min(int(figure), 100))

    return on_line
