"""The shell part of bin/run, with the system's package tools played by small scripts."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _bash(script: str, path: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a script after sourcing prepare.sh, with `path` in front of the system's tools."""
    text = f'set -euo pipefail; . "{ROOT}/bin/lib/prepare.sh"; {script}'
    environment = {"PATH": f"{path}:{os.environ['PATH']}", **environ}
    return subprocess.run(
        ["bash", "-c", text], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def _fake(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_the_list_has_sections_and_alternatives(tmp_path: Path) -> None:
    lines = _bash("listed_packages run", tmp_path).stdout.splitlines()
    assert {"python3", "libvirt-dev", "pkg-config|pkgconf"} <= set(lines)
    assert "postgresql" not in lines
    assert "postgresql" in _bash("listed_packages run test", tmp_path).stdout.splitlines()
    assert not [line for line in lines if " " in line or "#" in line]


def test_only_what_is_not_installed_is_missing(tmp_path: Path) -> None:
    installed = _bash("listed_packages run", tmp_path).stdout.split()
    kept = [line.partition("|")[2] or line for line in installed if line not in {"mtools", "ovmf"}]
    _fake(
        tmp_path,
        "dpkg-query",
        f"for name in {' '.join(kept)}; do printf 'installed:%s ' $name; done; printf 'config-files:ovmf '",
    )
    assert _bash("missing_packages run", tmp_path).stdout.split() == ["ovmf", "mtools"]


def test_nothing_is_fetched_when_nothing_is_missing(tmp_path: Path) -> None:
    _fake(tmp_path, "apt-get", "echo called >&2; exit 1")
    done = _bash("missing_packages() { :; }; install_packages run", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_right_to_install_it_names_the_command(tmp_path: Path) -> None:
    _fake(tmp_path, "apt-get", "exit 1")
    done = _bash(
        "missing_packages() { echo mtools; }; may_become_administrator() { false; }; install_packages run", tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "These packages are missing, and installing them needs root or sudo; as root, run: "
        "apt-get install --no-install-recommends mtools "
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="sudo would be asked")
def test_without_a_network_it_says_so(tmp_path: Path) -> None:
    _fake(tmp_path, "apt-get", "echo 'Temporary failure resolving'; exit 100")
    done = _bash(f'setup_log="{tmp_path}/log"; missing_packages() {{ echo mtools; }}; install_packages run', tmp_path)
    assert done.returncode == 1
    assert "Temporary failure resolving" in done.stderr
    assert "check the network" in done.stderr


@pytest.mark.parametrize(("version", "usable"), [("3.10", False), ("3.11", True), ("3.13", True), ("3.14", False)])
def test_pythons_of_other_ages_are_not_used(tmp_path: Path, version: str, usable: bool) -> None:
    major, minor = version.split(".")
    # Stands in for an interpreter: does the same comparison that it is asked to do.
    _fake(tmp_path, "python3", f"(( {major} == 3 && {minor} >= 11 && {minor} < 14 ))")
    done = _bash(f'usable_python "{tmp_path}/python3"', tmp_path)
    assert (done.returncode == 0) == usable


def test_a_broken_python_first_on_the_path_is_passed_over(tmp_path: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        _fake(tmp_path, name, "echo 'pyenv: version not installed' >&2; exit 127")
    found = _bash("find_python", tmp_path).stdout.strip()
    assert found in {"/usr/bin/python3", ""}


def test_help_installs_nothing(tmp_path: Path) -> None:
    _fake(tmp_path, "apt-get", "exit 1")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "bin" / "run", "--help"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: bin/run")


def test_the_first_alternative_that_is_offered_is_chosen_however_slowly_the_lists_are_told(tmp_path: Path) -> None:
    """Whoever stops reading at the line that counts ends the teller by a signal, and the package was left out."""
    more = 'for number in {1..9}; do sleep 0.02; echo "  $number"; done'
    _fake(
        tmp_path,
        "apt-cache",
        f'[[ $2 == new ]] && echo "  Candidate: 1.2" || echo "  Candidate: (none)"\n{more}',
    )
    done = _bash('choose_packages "old|new" "gone|lost" plain', tmp_path)
    assert done.stdout.split() == ["new", "gone", "plain"]
