"""The command's own file, and where it will send a token."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from portal.cli import config, line
from portal.cli.config import Config, Portal
from portal.cli.errors import NOT_SIGNED_IN, CliError
from portal.cli.output import clean

PORTALS = {
    "work": Portal("work", "https://desktops.example.org/vdi", "casement_a"),
    'odd "name"\n': Portal('odd "name"\n', "http://localhost:8000", "casement_b", "/etc/ca.pem"),
}


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "somewhere" / "config.toml"
    monkeypatch.setenv("CASEMENT_CONFIG", str(file))
    for name in ("CASEMENT_PORTAL", "CASEMENT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return file


def test_what_is_saved_is_read_again(own_file: Path) -> None:
    assert config.load() == Config()
    config.save(Config("work", PORTALS))
    assert config.load() == Config("work", PORTALS)
    assert (own_file.stat().st_mode & 0o777, own_file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in own_file.parent.iterdir()] == ["config.toml"]


def test_which_portal_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Config("work", PORTALS)
    assert known.chosen(None).token == "casement_a"
    assert known.chosen('odd "name"\n').token == "casement_b"
    monkeypatch.setenv("CASEMENT_PORTAL", "https://other.example.org/")
    with pytest.raises(CliError) as unknown:
        known.chosen(None)
    assert unknown.value.exit_code == NOT_SIGNED_IN
    monkeypatch.setenv("CASEMENT_TOKEN", "casement_c")
    assert known.chosen(None) == Portal("https://other.example.org/", "https://other.example.org", "casement_c")
    assert known.chosen("work").token == "casement_c"


def test_a_file_that_cannot_be_read_is_told_of(own_file: Path) -> None:
    own_file.parent.mkdir()
    own_file.write_text("[portals")
    with pytest.raises(CliError, match="cannot be read"):
        config.load()


@pytest.mark.parametrize(
    "url",
    [
        "http://portal.example.org",
        "ftp://x",
        "https://me:pw@x",
        "portal.example.org",
        "https://",
        "https://x/?a=b",
        "http://127.0.0.1.evil.example",
    ],
)
def test_a_token_is_sent_nowhere_it_could_be_read(url: str) -> None:
    with pytest.raises(CliError):
        config.checked_url(url)


@pytest.mark.parametrize(
    "url", ["https://x/", "https://x/vdi/", "http://localhost:8000", "http://127.0.0.1", "http://[::1]:8000"]
)
def test_good_addresses(url: str) -> None:
    assert config.checked_url(url) == url.rstrip("/")


def test_a_token_is_not_printed_by_accident() -> None:
    assert "casement_a" not in repr(PORTALS["work"])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/ws/console/", "wss://desktops.example.org/ws/console/"),
        ("/vdi/ws/console/", "wss://desktops.example.org/vdi/ws/console/"),
        ("wss://gateway.example.org:8443/", "wss://gateway.example.org:8443/"),
    ],
)
def test_where_a_screen_is(path: str, found: str) -> None:
    assert line.address(PORTALS["work"], path) == found


def test_what_others_typed_is_only_shown() -> None:
    assert clean("\x1b[31mred\x07\u202eback\x9b") == "\ufffd[31mred\ufffd\ufffdback\ufffd"
    assert clean("two\nlines\tand ümläüts ✓") == "two lines and ümläüts ✓"


def test_the_command_needs_nothing_of_the_portal() -> None:
    """In a process of its own: here everything is loaded already."""
    wanted = "import sys, portal.cli.main; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", wanted], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.split()
    assert "portal.cli.main" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {"django", "libvirt", "celery", "workers"}
    assert all(name.startswith("portal.cli") for name in loaded if name.startswith("portal."))
