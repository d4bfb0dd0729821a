"""Where bin/run takes its settings from, and what it makes of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tools import envfile
from tools.options import Options, UsageError, installation_id, parse

Make = Callable[..., Options]


def test_defaults_serve_this_machine_only(make_options: Make) -> None:
    options = make_options()
    assert (options.bind, options.port, options.url) == ("127.0.0.1", 8000, "http://localhost:8000")
    assert options.is_local_only


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(make_options: Make, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    envfile.write_once(tmp_path / "home" / "casement.env", {"PORT": "8001", "BIND": "127.0.0.2"})
    assert make_options().port == 8001
    assert make_options(PORT="8002").port == 8002
    assert make_options("--port", "8003", PORT="8002").port == 8003
    assert make_options().bind == "127.0.0.2"


def test_a_made_up_address_follows_the_port_but_a_chosen_one_stays(make_options: Make, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    first = make_options("--port", "8001")
    envfile.write_once(first.env_file, first.first_settings())
    assert make_options().url == "http://localhost:8001"
    assert make_options("--port", "8002").url == "http://localhost:8002"
    assert make_options("--port", "8002", CASEMENT_URL="https://vdi.example.org/").url == "https://vdi.example.org"


@pytest.mark.parametrize("port", ["", "0", "65536", "http", "-1", "8000 "])
def test_a_port_that_is_none_is_refused(make_options: Make, port: str) -> None:
    if port == "":  # An empty variable is no variable.
        assert make_options(PORT=port).port == 8000
        return
    with pytest.raises(UsageError, match="port must be a number"):
        make_options(f"--port={port}")


def test_an_address_that_is_none_is_refused(make_options: Make) -> None:
    with pytest.raises(UsageError, match="BIND must be an address"):
        make_options("--bind", "everywhere")


def test_root_keeps_disks_where_qemus_user_gets_at_them(make_options: Make, tmp_path: Path) -> None:
    assert make_options(is_root=True).pool_dir == Path("/var/lib/libvirt/images") / installation_id(tmp_path / "home")
    assert make_options(is_root=True).libvirt_uri == "qemu:///system"
    assert make_options(is_root=False).pool_dir == tmp_path / "home" / "pool"
    assert make_options(is_root=False).libvirt_uri == "qemu:///session"
    assert make_options(is_root=True, POOL_DIR="/srv/disks").pool_dir == Path("/srv/disks")


def test_a_path_too_long_for_sockets_gets_a_short_folder_that_redis_and_manage_py_agree_on() -> None:
    home = Path("/srv") / ("long-" * 20)
    options = parse([], {"CASEMENT_HOME": str(home)}, is_root=True)
    assert options.run_dir == Path("/run") / installation_id(home)
    assert options.first_settings()["REDIS_URL"] == f"unix://{options.run_dir}/redis.sock"
    as_person = parse([], {"CASEMENT_HOME": str(home), "XDG_RUNTIME_DIR": "/run/user/7"}, is_root=False)
    assert as_person.run_dir == Path("/run/user/7") / installation_id(home)
    with pytest.raises(UsageError, match="too long for UNIX sockets"):
        parse([], {"CASEMENT_HOME": str(home)}, is_root=False)


def test_its_own_redis_is_known_again_and_another_is_left_to_others(make_options: Make) -> None:
    assert make_options().runs_redis
    assert not make_options(REDIS_URL="redis://broker:6379/0").runs_redis
    home = Path("/srv") / ("long-" * 20)
    own = f"unix:///run/user/1/{installation_id(home)}/redis.sock"
    assert parse([], {"CASEMENT_HOME": str(home), "REDIS_URL": own}, is_root=True).runs_redis


def test_children_get_the_mark_and_not_our_python_path(make_options: Make, tmp_path: Path) -> None:
    environment = make_options("--port", "8005", PYTHONPATH="/elsewhere").child_environment()
    assert environment["CASEMENT_SUPERVISED"] == str(tmp_path / "home")
    assert "PYTHONPATH" not in environment
    assert environment["CSRF_TRUSTED_ORIGINS"] == "http://localhost:8005,http://127.0.0.1:8005"


def test_the_settings_file_is_private_and_never_overwritten(make_options: Make, tmp_path: Path) -> None:
    path = tmp_path / "casement.env"
    first = make_options().first_settings()
    assert envfile.write_once(path, first)
    assert not envfile.write_once(path, make_options().first_settings())
    assert envfile.read(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(first["SECRET_KEY"]) >= 50
    assert [entry.name for entry in tmp_path.iterdir()] == ["casement.env"]


def test_the_settings_file_may_be_edited_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "casement.env"
    path.write_text('# a remark\n\nexport PORT = 9000\nNAME="with blanks"\nno equals sign\n', encoding="utf-8")
    assert envfile.read(path) == {"PORT": "9000", "NAME": "with blanks"}
