"""Each thing that is wrong with a machine is one sentence with a way out."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tools import preflight
from tools.options import Options

Make = Callable[..., Options]


def test_a_port_in_use_is_told_of(make_options: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        (problem,) = preflight.port_problems(make_options("--port", port))
    assert problem == (
        f"Port {port} on 127.0.0.1 cannot be used (Address already in use): "
        "choose another with --port, or end what uses it."
    )
    assert not list(preflight.port_problems(make_options("--port", port)))


def test_an_address_of_another_machine_is_told_of(make_options: Make) -> None:
    (problem,) = preflight.port_problems(make_options("--bind", "192.0.2.7"))
    assert "Cannot assign requested address" in problem


@pytest.mark.parametrize(
    ("kib", "fits"), [(1_000_000, False), (2_700_000, False), (2_950_000, True), (8_000_000, True)]
)
def test_memory_is_measured_with_some_leniency(tmp_path: Path, kib: int, fits: bool) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {kib} kB\nMemFree: 1 kB\n", encoding="ascii")
    assert (not list(preflight.memory_problems(meminfo))) == fits


def test_a_full_disk_is_told_of_once(make_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "DISK_NEEDED_GIB", 10**9)
    problems = [problem for problem in preflight.find_problems(make_options()) if "GiB free" in problem]
    assert len(problems) == 1


def test_a_folder_closed_to_qemus_user_is_told_of(tmp_path: Path) -> None:
    closed = tmp_path / "root"
    closed.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    problems = list(preflight.closed_folder_problems(closed / "pool"))
    assert any(problem.startswith(f"QEMU's user cannot pass through {closed},") for problem in problems)
    closed.chmod(0o711)
    assert not any(str(closed) + "," in problem for problem in preflight.closed_folder_problems(closed / "pool"))


def test_a_home_too_deep_for_libvirts_sockets_is_told_of() -> None:
    (problem,) = preflight.socket_path_problems({"HOME": "/home/department/wilhelmina.featherstonehaugh"})
    assert problem.startswith("The path /home/department/wilhelmina.featherstonehaugh/.config is too long")
    assert not list(preflight.socket_path_problems({"HOME": "/home/alice"}))
    short = {"HOME": "/home/department/wilhelmina.featherstonehaugh", "XDG_CONFIG_HOME": "/srv/wf"}
    assert not list(preflight.socket_path_problems(short))


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: end.wait(60))
    assert not preflight.own_name_resolves(seconds=0.05)
    end.set()


def test_a_name_that_does_not_resolve_comes_with_the_line_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "nowhere.invalid")
    assert not preflight.own_name_resolves()
    assert preflight.unresolved_name().endswith("add this line to /etc/hosts: 127.0.1.1 nowhere.invalid")


def test_checking_changes_nothing_and_ends_with_one_on_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CASEMENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("POOL_DIR", str(tmp_path / "pool"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert preflight.main(["--check", "--port", str(server.getsockname()[1])]) == 1
    assert "cannot be used" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
