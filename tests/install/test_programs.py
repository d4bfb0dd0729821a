"""The supervisor's configuration: what is started, in which order, and that supervisor reads it as meant."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from supervisor.options import UnhosedConfigParser
from tools import programs
from tools.options import Options
from tools.programs import Program

Make = Callable[..., Options]


def test_redis_starts_first_and_the_clock_last(make_options: Make) -> None:
    wanted = sorted(programs.programs(make_options(), with_libvirtd=True), key=lambda program: program.rank)
    assert [program.name for program in wanted] == [
        "redis",
        "libvirtd",
        "web",
        "worker",
        "images",
        "fetches",
        "hooks",
        "watch",
        "beat",
    ]


def test_another_redis_and_another_libvirtd_are_not_started_twice(make_options: Make) -> None:
    wanted = programs.programs(make_options(REDIS_URL="redis://broker/0"), with_libvirtd=False)
    assert {"redis", "libvirtd"}.isdisjoint(program.name for program in wanted)


def test_a_gateway_is_started_when_it_is_asked_for_and_browsers_are_sent_there(make_options: Make) -> None:
    options = make_options(GATEWAY_PORT="8443")
    assert _argv(options, "gateway")[-5:] == ("gateway", "--bind", "127.0.0.1", "--port", "8443")
    assert options.child_environment()["CONSOLE_GATEWAY_URL"] == "ws://localhost:8443/"
    named = make_options(GATEWAY_PORT="8443", CONSOLE_GATEWAY_URL="ws://localhost/consoles")
    assert named.child_environment()["CONSOLE_GATEWAY_URL"] == "ws://localhost/consoles"
    assert "CONSOLE_GATEWAY_URL" not in make_options().child_environment()


def test_tls_in_front_of_the_portal_is_in_front_of_the_gateway_too(make_options: Make) -> None:
    options = make_options(GATEWAY_PORT="8443", CASEMENT_URL="https://desktops.example.org")
    assert options.child_environment()["CONSOLE_GATEWAY_URL"] == "wss://desktops.example.org:8443/"


@pytest.mark.parametrize(("trust", "believed"), [("", False), ("no", False), ("0", False), ("true", True), ("1", True)])
def test_forwarding_headers_are_believed_only_when_told_so(make_options: Make, trust: str, believed: bool) -> None:
    argv = _argv(make_options(TRUST_PROXY=trust), "web")
    assert ("--proxy-headers" in argv) == believed
    assert ("--no-proxy-headers" in argv) != believed


def test_supervisor_reads_what_was_meant(make_options: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    options = make_options(CASEMENT_HOME=str(tmp_path_factory.mktemp("x") / "with blank and 100%"))
    wanted = programs.programs(options, with_libvirtd=False)
    parser = UnhosedConfigParser()
    parser.expansions = {"here": "/"}
    parser.read_string(programs.supervisor_configuration(options, wanted))
    command = parser.saneget("program:worker", "command")
    assert "worker@%h" in shlex.split(command)
    redis = shlex.split(parser.saneget("program:redis", "command"))
    assert redis[-1] == str(options.run_dir / "redis.conf")
    assert parser.saneget("program:web", "stdout_logfile") == str(options.log_dir / "web.log")


def test_every_process_ends_with_the_supervisor(make_options: Make) -> None:
    options = make_options()
    text = programs.supervisor_configuration(options, programs.programs(options, with_libvirtd=True))
    commands = [line for line in text.splitlines() if line.startswith("command=")]
    assert len(commands) == 9
    assert all(line.startswith("command=setpriv --pdeathsig TERM -- ") for line in commands)


def test_redis_listens_on_a_socket_only(make_options: Make) -> None:
    text = programs.redis_configuration(make_options())
    assert "\nport 0\n" in f"\n{text}"
    assert "unixsocketperm 700" in text


def test_redis_is_found_under_the_name_that_redis_tools_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None if name == "redis-server" else "/usr/bin/other")
    link = Path(programs.redis_server(tmp_path))
    assert (link.name, link.readlink()) == ("redis-server", Path("/usr/bin/other"))
    assert programs.redis_server(tmp_path) == str(link)


def _argv(options: Options, name: str) -> tuple[str, ...]:
    found: dict[str, Program] = {program.name: program for program in programs.programs(options, with_libvirtd=False)}
    return found[name].argv
