"""Build an image from a recipe: mmdebstrap installs the packages, `disk` packs them, qemu-img makes the qcow2.

As root the tree is built in place. Any other user needs a range in /etc/subuid and /etc/subgid: mmdebstrap then works
in a user namespace, and so does every tool that touches the tree.

The host needs mmdebstrap, debian-archive-keyring, grub-common, grub-pc-bin, grub-efi-amd64-bin, mtools, dosfstools,
fdisk, e2fsprogs and qemu-utils, under these names on Debian 12, Debian 13 and Ubuntu 24.04 (and uidmap when not root).
"""

import contextlib
import json
import os
import re
import shlex
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from workers.imaging import bootloader, qemu_img
from workers.imaging.commands import Limits, run
from workers.imaging.disk import clean_scratch, make_scratch, pack_disk
from workers.imaging.errors import CommandFailed, ImageBuildError
from workers.imaging.facts import ImageFacts
from workers.imaging.files import partial_file, sha256_of
from workers.imaging.inspector import inspect_image
from workers.imaging.recipe import WANTED_BY, Recipe, RecipeFile

MIB = 1024 * 1024
GIB = 1024 * MIB
BUILD_SECONDS = 1800
MIRROR_VARIABLE = "CASEMENT_DEBIAN_MIRROR"
# Left out while building and not afterwards: what somebody installs later comes whole.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/lintian/*", "/usr/share/man/*", "/usr/share/locale/*")
KEPT = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
# What would make two machines of one image look alike, and what only the build itself needed.
TRACES = (
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/hostname",
    "etc/ssh/ssh_host_*",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/log/*.log",
    "var/log/apt/*",
    "var/log/journal/*",
)

Report = Callable[[int, str], None]


@dataclass
class Progress:
    """Passes on a percentage and a word, only ever forwards."""

    report: Report
    percent: int = -1

    def __call__(self, percent: int, word: str) -> None:
        if percent > self.percent:
            self.percent = min(percent, 100)
            self.report(self.percent, word)


def build_image(recipe: Recipe, destination: Path, *, scratch: Path, progress: Report) -> ImageFacts:
    """Build `recipe` into the qcow2 file `destination`, replacing what was there only when all went well.

    `scratch` belongs to this build alone while it runs, needs about 5 GiB, and is emptied before and after. Whatever
    kills the build, even SIGKILL, leaves at most scratch and a hidden `.partial` file that the next build removes. An
    exception out of `progress` (percent 0-100, what is being done) cancels the build and is raised on.
    Raises ImageBuildError.
    """
    advance = Progress(progress)
    with _build_errors(), _scratch(scratch), partial_file(destination) as partial:
        advance(0, "Preparing")
        root_uuid = str(uuid.uuid4())
        tree = _install(recipe, scratch, root_uuid, advance)
        advance(78, "Packing the disk")
        disk = scratch / "disk.raw"
        pack_disk(
            tree.path, disk, size_bytes=recipe.disk_gib * GIB, root_uuid=root_uuid, scratch=scratch, inside=tree.inside
        )
        advance(86, "Compressing the disk")
        qemu_img.convert(
            disk,
            partial,
            source_format="raw",
            compress=True,
            progress=lambda percent: advance(86 + percent * 12 // 100, "Compressing the disk"),
        )
        facts = _checked(recipe, partial)
        partial.replace(destination)
    advance(100, "Done")
    return facts


@dataclass(frozen=True)
class Tree:
    """A root file system, and the argv prefix inside which its owners are what they will be in the guest."""

    path: Path
    inside: tuple[str, ...] = ()


@contextlib.contextmanager
def _build_errors() -> Iterator[None]:
    try:
        yield
    except CommandFailed as error:
        raise ImageBuildError(f"The image could not be built: {error.message}", error.log_tail) from error
    except OSError as error:
        raise ImageBuildError(f"The image could not be built: {error.strerror or 'input/output error'}.") from error


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[None]:
    _remove_tree(directory / "root")  # A build that was killed may have left it.
    make_scratch(directory)
    try:
        yield
    finally:
        _remove_tree(directory / "root")
        clean_scratch(directory)


def _remove_tree(tree: Path) -> None:
    """A tree that was unpacked in a user namespace belongs to other user numbers: only there it can be removed."""
    if os.geteuid() != 0 and tree.exists():
        with contextlib.suppress(CommandFailed):
            run([*_namespace(), "rm", "-rf", "--", str(tree)])


def _install(recipe: Recipe, scratch: Path, root_uuid: str, advance: Progress) -> Tree:
    early, late = scratch / "early", scratch / "late"
    _write_overlay(early, tuple(file for file in recipe.files if file.early), recipe, {})
    _write_overlay(late, _late_files(recipe, root_uuid), recipe, dict(recipe.links) | _unit_links(recipe))
    as_root = os.geteuid() == 0
    target = scratch / ("root" if as_root else "root.tar")
    argv = _mmdebstrap(recipe, target, scratch, mode="root" if as_root else "unshare")
    run(
        argv,
        limits=Limits(timeout=BUILD_SECONDS),
        on_line=_package_progress(advance),
        extra_env={"TMPDIR": str(scratch)},
    )
    tree = Tree(target) if as_root else _unpacked(target, scratch)
    _remove_traces(tree)
    return tree


def _write_overlay(directory: Path, files: tuple[RecipeFile, ...], recipe: Recipe, links: dict[str, str]) -> None:
    directory.mkdir()
    for file in files:
        path = directory / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content, encoding="utf-8")
        path.chmod(file.mode)
    for name, target in links.items():
        link = directory / name.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def _late_files(recipe: Recipe, root_uuid: str) -> tuple[RecipeFile, ...]:
    return (
        *(file for file in recipe.files if not file.early),
        RecipeFile("/etc/fstab", f"UUID={root_uuid} / ext4 errors=remount-ro 0 1\n"),
        RecipeFile("/boot/grub/grub.cfg", bootloader.menu(root_uuid, recipe.kernel_arguments)),
        RecipeFile("/etc/cloud/cloud.cfg.d/91-default-user.cfg", _default_user(recipe.default_user)),
    )


def _default_user(name: str) -> str:
    """JSON is YAML: nothing is quoted by hand."""
    groups = ["adm", "audio", "cdrom", "dialout", "plugdev", "sudo", "video"]
    user = {"name": name, "gecos": "", "shell": "/bin/bash", "lock_passwd": True, "groups": groups}
    return json.dumps({"system_info": {"default_user": user | {"sudo": ["ALL=(ALL) NOPASSWD:ALL"]}}}, indent=2) + "\n"


def _unit_links(recipe: Recipe) -> dict[str, str]:
    """What `systemctl enable` and `systemctl mask` would write."""
    wanted = {
        f"/etc/systemd/system/{WANTED_BY[unit.rpartition('.')[2]]}.target.wants/{unit}": f"/lib/systemd/system/{unit}"
        for unit in recipe.enable
    }
    return wanted | {f"/etc/systemd/system/{unit}": "/dev/null" for unit in recipe.mask}


def _mmdebstrap(recipe: Recipe, target: Path, scratch: Path, *, mode: str) -> list[str]:
    left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in (*LEFT_OUT, *recipe.exclude)]
    kept = [f"--dpkgopt=path-include={pattern}" for pattern in KEPT]
    hooks = [
        *_mirror_hooks(recipe.suite, scratch),
        f"--essential-hook=sync-in {shlex.quote(str(scratch / 'early'))} /",
        f"--customize-hook=sync-in {shlex.quote(str(scratch / 'late'))} /",
    ]
    options = ["--verbose", f"--mode={mode}", "--variant=minbase", "--components=main"]
    # Nothing here has to survive a power cut of the host, so dpkg need not wait for the disk after every file.
    speed = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
    include = f"--include={','.join(recipe.packages)}"
    # As root mmdebstrap mounts /proc, /sys and /dev into the tree. In a mount namespace of its own these end with it
    # even by SIGKILL, and nobody who removes the tree later walks into the host's /sys.
    private = ["unshare", "--mount", "--propagation", "private", "--"] if mode == "root" else []
    argv = [*private, "mmdebstrap", *options, *speed, *left_out, *kept, include, *hooks]
    return [*argv, recipe.suite, str(target)]


def _mirror_hooks(suite: str, scratch: Path) -> list[str]:
    """Build from the host's mirror, and leave in the image the sources that mmdebstrap writes for everyone."""
    sources = _host_sources(suite)
    if not sources:
        return []
    ours, default = scratch / "sources.build", scratch / "sources.default"
    ours.write_text("\n".join([*sources, ""]), encoding="ascii")
    return [
        f"--setup-hook=download /etc/apt/sources.list {shlex.quote(str(default))}",
        f"--setup-hook=upload {shlex.quote(str(ours))} /etc/apt/sources.list",
        f"--customize-hook=upload {shlex.quote(str(default))} /etc/apt/sources.list",
    ]


def _host_sources(suite: str) -> list[str]:
    """Lines for sources.list: from the environment, else from a Debian host's own apt, else none (the default)."""
    named = os.environ.get(MIRROR_VARIABLE, "").strip()
    main, security = (named, "") if named else (_host_mirror("Debian"), _host_mirror("Debian-Security"))
    lines = [f"deb {main} {suite} main", f"deb {main} {suite}-updates main"] if main else []
    return [*lines, f"deb {security} {suite}-security main"] if lines and security else lines


def _host_mirror(label: str) -> str:
    """The address of the archive with this label in the host's package lists, or nothing (also on other systems)."""
    wanted = ["--format", "$(SITE)", "Origin: Debian", f"Label: {label}", "Created-By: Packages"]
    try:
        lines = run(["apt-get", "indextargets", *wanted], merge_errors=False).split()
    except CommandFailed:
        return ""
    return lines[0] if lines else ""


TOTAL = re.compile(r"(\d+) newly installed")
SETTING_UP = re.compile(r"Setting up \S+ \(")
FETCHED = re.compile(r"Get:\d+ ")


def _package_progress(advance: Progress) -> Callable[[str], None]:
    """Turn apt's and dpkg's lines into 2-20 % for downloads and 20-76 % for packages set up."""
    counts = {"total": 0, "fetched": 0, "done": 0}

    def on_line(line: str) -> None:
        if found := TOTAL.search(line):
            counts["total"] += int(found[1])
        counts["fetched"] += bool(FETCHED.match(line))
        counts["done"] += bool(SETTING_UP.match(line))
        # apt tells its totals in steps; until the real one is known a few hundred is a fair guess.
        total = max(counts["total"], 200)
        if counts["done"]:
            advance(20 + min(counts["done"] * 56 // total, 56), "Installing packages")
        else:
            advance(2 + min(counts["fetched"] * 18 // total, 18), "Downloading packages")

    return on_line


def _namespace() -> tuple[str, ...]:
    """Root of a user namespace that is this user outside, with this user's subordinate numbers for everybody else."""
    return ("unshare", "--user", "--map-root-user", "--map-auto", "--")


def _unpacked(archive: Path, scratch: Path) -> Tree:
    """Unpack mmdebstrap's own tar inside the user namespace, where its owners can be set."""
    tree = Tree(scratch / "root", _namespace())
    run([*tree.inside, "mkdir", "--", str(tree.path)])
    # A user namespace may not make device files, and a guest gets its own from the kernel's devtmpfs.
    unpack = ["tar", "-C", str(tree.path), "--numeric-owner", "--exclude=./dev/*", "-xpf", str(archive)]
    run([*tree.inside, *unpack])
    archive.unlink()
    return tree


def _remove_traces(tree: Tree) -> None:
    found = [str(path) for pattern in TRACES for path in tree.path.glob(pattern)]
    run([*tree.inside, "rm", "-rf", "--", *found])
    # Empty, not missing: systemd then makes a number for each machine without taking it for a first start.
    run([*tree.inside, "touch", "--", str(tree.path / "etc/machine-id")])
    run([*tree.inside, "ln", "-sfn", "../run/systemd/resolve/stub-resolv.conf", str(tree.path / "etc/resolv.conf")])


def _checked(recipe: Recipe, image: Path) -> ImageFacts:
    facts = inspect_image(image)
    if facts.size_bytes > recipe.max_image_mib * MIB:
        raise ImageBuildError(f"The image is larger than the {recipe.max_image_mib} MiB that its recipe allows.")
    return replace(facts, sha256=sha256_of(image))
