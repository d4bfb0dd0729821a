"""The build's own logic, with programs in place of mmdebstrap that end as real ones do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from workers.imaging import build
from workers.imaging.errors import ImageBuildError
from workers.imaging.recipe import load_recipes

SERVER = replace(load_recipes()["debian-12-server"], disk_gib=1)
FAKE = """#!/bin/sh
for last; do :; done
mkdir -p "$last/boot/grub" "$last/etc/ssh" "$last/var/lib/apt/lists"
echo "0 upgraded, 3 newly installed, 0 to remove."
for n in 1 2 3; do echo "Get:$n a"; done
for n in 1 2 3; do echo "Setting up p$n (1.0) ..."; done
for f in vmlinuz initrd.img boot/grub/grub.cfg etc/ssh/ssh_host_rsa_key etc/machine-id var/lib/apt/lists/x; do
    echo "$f" > "$last/$f"
done
"""


def silent(percent: int, word: str) -> None:
    """Nobody watches."""


@pytest.fixture
def mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in mmdebstrap's place."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr("workers.imaging.build.os.geteuid", lambda: 0)

    def put(text: str) -> None:
        (tmp_path / "bin/mmdebstrap").write_text(text)
        (tmp_path / "bin/mmdebstrap").chmod(0o755)

    put(FAKE)
    return put


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


@pytest.mark.usefixtures("mmdebstrap")
def test_a_build_ends_with_one_file_and_told_progress(tmp_path: Path, pool: Path) -> None:
    seen: list[tuple[int, str]] = []
    facts = build.build_image(
        SERVER, pool / "a.qcow2", scratch=tmp_path / "scratch", progress=lambda *step: seen.append(step)
    )
    assert facts.format == "qcow2"
    assert facts.virtual_size_bytes == 1024**3
    assert [path.name for path in pool.iterdir()] == ["a.qcow2"]
    assert not (tmp_path / "scratch").exists()
    percents = [percent for percent, _ in seen]
    assert percents == sorted(set(percents))
    assert (percents[0], percents[-1]) == (0, 100)
    assert "Installing packages" in {word for _, word in seen}


def test_a_failed_build_tells_why_and_leaves_nothing(
    mmdebstrap: Callable[[str], None], tmp_path: Path, pool: Path
) -> None:
    mmdebstrap("#!/bin/sh\necho 'E: no such package'\nexit 25\n")
    (pool / "a.qcow2").write_bytes(b"before")
    with pytest.raises(ImageBuildError) as caught:
        build.build_image(SERVER, pool / "a.qcow2", scratch=tmp_path / "scratch", progress=silent)
    assert "exit code 25" in caught.value.message
    assert "no such package" in caught.value.log_tail
    assert [(path.name, path.read_bytes()) for path in pool.iterdir()] == [("a.qcow2", b"before")]
    assert not (tmp_path / "scratch").exists()


@pytest.mark.usefixtures("mmdebstrap")
@pytest.mark.parametrize("at", [0, 10, 78, 86, 90])
def test_a_build_can_be_cancelled_anywhere(tmp_path: Path, pool: Path, at: int) -> None:
    def cancel(percent: int, word: str) -> None:
        if percent >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build_image(SERVER, pool / "a.qcow2", scratch=tmp_path / "scratch", progress=cancel)
    assert list(pool.iterdir()) == []
    assert not (tmp_path / "scratch").exists()


@pytest.mark.usefixtures("mmdebstrap")
def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path, pool: Path) -> None:
    (tmp_path / "scratch/root").mkdir(parents=True)
    (pool / ".a.qcow2.partial").write_bytes(b"half")
    build.build_image(SERVER, pool / "a.qcow2", scratch=tmp_path / "scratch", progress=silent)
    assert [path.name for path in pool.iterdir()] == ["a.qcow2"]


@pytest.mark.usefixtures("mmdebstrap")
def test_an_image_above_its_cap_is_refused(tmp_path: Path, pool: Path) -> None:
    with pytest.raises(ImageBuildError, match="larger than the 0 MiB"):
        recipe = replace(SERVER, max_image_mib=0)
        build.build_image(recipe, pool / "a.qcow2", scratch=tmp_path / "scratch", progress=silent)
    assert list(pool.iterdir()) == []


def test_traces_of_the_build_are_removed(tmp_path: Path) -> None:
    for name in ("etc/ssh/ssh_host_rsa_key", "var/lib/apt/lists/x", "etc/machine-id", "etc/hostname", "etc/kept"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    build._remove_traces(build.Tree(tmp_path))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"etc/kept", "etc/machine-id"}
    assert (tmp_path / "etc/machine-id").read_text() == ""


def test_another_mirror_is_used_for_the_build_but_not_left_in_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(build.MIRROR_VARIABLE, "http://mirror.example/debian")
    argv = build._mmdebstrap(SERVER, tmp_path / "root", tmp_path, mode="root")
    assert not any("mirror.example" in word for word in argv)
    assert "deb http://mirror.example/debian bookworm main\n" in (tmp_path / "sources.build").read_text()
    assert f"--customize-hook=upload {tmp_path}/sources.default /etc/apt/sources.list" in argv


def test_the_default_user_is_written_as_data() -> None:
    assert json.loads(build._default_user(SERVER.default_user))["system_info"]["default_user"]["name"] == "debian"
