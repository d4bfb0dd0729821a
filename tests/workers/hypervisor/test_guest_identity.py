"""The identity program, run for real on a folder that looks like a forked guest's system."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from workers.hypervisor import guest_identity
from workers.hypervisor.cloud_init import InvalidSeedError
from workers.hypervisor.guest_identity import GuestIdentity

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBhUOjz7Pq0RnMaCrCeMDvkVqWDPDYSVPO6rKbCSzzGY alice@laptop"
HASH = "$6$saltsalt$" + "x" * 86
OLD_ID = "0123456789abcdef0123456789abcdef"
TEMPLATE = uuid4()
# What a template has written of itself, and what it must not lose.
FILES = {
    "etc/hostname": "template\n",
    "etc/hosts": "127.0.1.1 template template\n127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
    "etc/machine-id": f"{OLD_ID}\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\ncasement:x:1000:1000::/home/casement:/bin/bash\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\ncasement:!:19000:0:99999:7:::\n",
    "etc/group": "sudo:x:27:casement\naudio:x:29:pulse,casement,casement2\ncasement:x:1000:\ncasement2:x:1001:\n",
    "etc/gshadow": "sudo:*::casement\ncasement:!::\n",
    "etc/subuid": "casement:100000:65536\n",
    "etc/subgid": "casement:100000:65536\n",
    "etc/sudoers.d/90-cloud-init-users": "# User rules for casement\ncasement ALL=(ALL) NOPASSWD:ALL\n",
    "etc/lightdm/lightdm.conf.d/50-casement.conf": "[Seat:*]\nautologin-user=casement\nautologin-user-timeout=0\n",
    "etc/ssh/ssh_host_ed25519_key": "the template's\n",
    "etc/ssh/ssh_host_rsa_key": "the template's\n",
    "etc/ssh/ssh_host_rsa_key.pub": "the template's\n",
    "etc/ssh/sshd_config.d/50-cloud-init.conf": "PasswordAuthentication no\n",
    "etc/systemd/network/10-cloud-init-eth0.network": "[Match]\nMACAddress=52:54:00:00:00:00\n",
    "home/casement/.Xauthority": "cookie",
    "var/lib/systemd/random-seed": "the template's",
    f"var/lib/cloud/instances/{TEMPLATE}/sem/config_users_groups": "done\n",
    f"var/lib/cloud/instances/{TEMPLATE}/obj.pkl": "pickled\n",
    "var/lib/cloud/data/instance-id": f"{TEMPLATE}\n",
    "var/lib/cloud/data/previous-instance-id": "NO_PREVIOUS_INSTANCE_ID\n",
    f"var/log/journal/{OLD_ID}/system.journal": "lines",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "guest"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (folder / "etc/shadow").chmod(0o640)
    (folder / "etc/sudoers.d/90-cloud-init-users").chmod(0o440)
    (folder / "var/lib/cloud/instance").symlink_to(f"/var/lib/cloud/instances/{TEMPLATE}")
    (folder / "var/lib/dbus").mkdir()
    (folder / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    return folder


def identity(**changes: object) -> GuestIdentity:
    values: dict[str, object] = {
        "hostname": "alice-1",
        "user": "alice",
        "password_hash": HASH,
        "ssh_keys": (KEY,),
        "seed": b"\0\xffrandom\n" * 8,
        "machine_id": uuid4(),
        **changes,
    }
    return GuestIdentity(**values)  # type: ignore[arg-type]  # The tests' changes are of the fields' types.


def run(root: Path, wanted: GuestIdentity) -> subprocess.CompletedProcess[bytes]:
    argv, stdin = guest_identity.program(wanted, root=str(root))
    return subprocess.run(argv, input=stdin, check=False, capture_output=True, timeout=120)


def done(root: Path, wanted: GuestIdentity) -> None:
    result = run(root, wanted)
    assert (result.returncode, result.stderr) == (0, b""), result
    assert result.stdout.decode() == f"{guest_identity.DONE} {wanted.machine_id}\n"


def text(root: Path, name: str) -> str:
    return (root / name).read_text(encoding="utf-8")


def everything(root: Path) -> dict[str, tuple[str, bytes]]:
    """Each file and link with its mode; host keys and the random seed are other ones every time."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()).encode())
        elif path.is_file() and "ssh_host" not in name and "random-seed" not in name:
            found[name] = (oct(path.stat().st_mode), path.read_bytes())
    return found


def test_nothing_of_the_template_is_left_in_its_place(root: Path) -> None:
    wanted = identity()
    done(root, wanted)
    assert text(root, "etc/hostname") == "alice-1\n"
    assert text(root, "etc/hosts") == "127.0.1.1 alice-1 alice-1\n127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
    assert text(root, "etc/machine-id") == f"{wanted.machine_id.hex}\n"
    assert (root / "var/lib/dbus/machine-id").is_symlink()
    assert len((root / "var/lib/systemd/random-seed").read_bytes()) == 512
    assert text(root, f"var/log/journal/{wanted.machine_id.hex}/system.journal") == "lines"
    assert (root / "var/log/journal" / OLD_ID).readlink() == Path(wanted.machine_id.hex)
    assert not list(root.rglob("*.casement"))
    assert not list(root.glob("etc/systemd/network/10-cloud-init-*"))


def test_the_user_takes_the_templates_place_and_its_processes_find_their_home(root: Path) -> None:
    wanted = identity()
    day_before = int(time.time() / 86400)
    done(root, wanted)
    assert "alice:x:1000:1000::/home/alice:/bin/bash\n" in text(root, "etc/passwd")
    days = {day_before, int(time.time() / 86400)}  # Midnight may come in between.
    assert any(f"alice:{HASH}:{day}:0:99999:7:::\n" in text(root, "etc/shadow") for day in days)
    assert text(root, "etc/group") == (
        "sudo:x:27:alice\naudio:x:29:pulse,alice,casement2\nalice:x:1000:\ncasement2:x:1001:\n"
    )
    assert text(root, "etc/gshadow") == "sudo:*::alice\nalice:!::\n"
    assert text(root, "etc/subuid") == text(root, "etc/subgid") == "alice:100000:65536\n"
    assert "alice ALL=(ALL) NOPASSWD:ALL\n" in text(root, "etc/sudoers.d/90-cloud-init-users")
    assert "autologin-user=alice\n" in text(root, "etc/lightdm/lightdm.conf.d/50-casement.conf")
    assert text(root, "home/alice/.Xauthority") == "cookie"
    assert (root / "home/casement").readlink() == Path("/home/alice")
    assert text(root, "home/alice/.ssh/authorized_keys") == f"{KEY}\n"
    assert text(root, "etc/ssh/sshd_config.d/50-cloud-init.conf") == "PasswordAuthentication yes\n"
    modes = {"etc/shadow": 0o640, "etc/sudoers.d/90-cloud-init-users": 0o440, "home/alice/.ssh/authorized_keys": 0o600}
    assert {name: (root / name).stat().st_mode & 0o7777 for name in modes} == modes
    assert "casement:" not in text(root, "etc/passwd") + text(root, "etc/shadow")


def authority(host: bytes, *, family: int = 256) -> bytes:
    """One entry as X keeps it; 256 is a host's own name."""
    parts = (host, b"0", b"MIT-MAGIC-COOKIE-1", b"sixteen bytes it")
    return family.to_bytes(2) + b"".join(len(part).to_bytes(2) + part for part in parts)


def test_programs_that_are_started_later_may_show_themselves_on_the_screen(root: Path) -> None:
    """X asks for what stands there under the host's name."""
    before = authority(b"template") + authority(b"", family=65535)
    mine, theirs = root / "home/casement/.Xauthority", root / "run/lightdm/root/:0"
    theirs.parent.mkdir(parents=True)
    for file in (mine, theirs):
        file.write_bytes(before)
        file.chmod(0o600)
    done(root, identity())
    for file in (root / "home/alice/.Xauthority", theirs):
        assert file.read_bytes() == authority(b"alice-1") + authority(b"", family=65535)
        assert file.stat().st_mode & 0o777 == 0o600
    cut_off = before[:-3]
    theirs.write_bytes(cut_off)
    done(root, identity(hostname="alice-2"))
    assert theirs.read_bytes() == cut_off, "what cannot be read is left as it is"


def test_without_a_password_only_keys_let_somebody_in(root: Path) -> None:
    done(root, identity(password_hash=None, ssh_keys=()))
    assert "alice:!:" in text(root, "etc/shadow")
    assert text(root, "home/alice/.ssh/authorized_keys") == ""
    assert text(root, "etc/ssh/sshd_config.d/50-cloud-init.conf") == "PasswordAuthentication no\n"


def test_the_templates_own_user_may_stay(root: Path) -> None:
    done(root, identity(user=guest_identity.TEMPLATE_USER))
    assert "casement:x:1000:1000::/home/casement:/bin/bash\n" in text(root, "etc/passwd")
    assert (root / "home/casement").is_dir()
    assert not (root / "home/casement").is_symlink()
    assert f"casement:{HASH}:" in text(root, "etc/shadow")


def test_host_keys_are_other_ones_each_time_and_fit_each_other(root: Path) -> None:
    seen = set()
    for _ in range(2):
        done(root, identity())
        names = {path.name for path in (root / "etc/ssh").glob("ssh_host_*")}
        assert names == {f"ssh_host_{kind}_key{end}" for kind in ("ed25519", "ecdsa") for end in ("", ".pub")}
        for kind in ("ed25519", "ecdsa"):
            path = root / f"etc/ssh/ssh_host_{kind}_key"
            assert path.stat().st_mode & 0o7777 == 0o600
            public = load_ssh_private_key(path.read_bytes(), None).public_key()
            line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            assert path.with_suffix(".pub").read_bytes() == line + b" root@alice-1\n"
            seen.add(line)
        _reset_user(root)
    assert len(seen) == 4


def _reset_user(root: Path) -> None:
    """So that the program's second run finds a template again."""
    (root / "home/casement").unlink()
    (root / "home/alice").rename(root / "home/casement")
    for name in ("etc/passwd", "etc/shadow"):
        (root / name).write_text(FILES[name], encoding="utf-8")


def test_cloud_init_finds_the_machines_instance_all_done(root: Path) -> None:
    wanted = identity()
    done(root, wanted)
    cloud = root / "var/lib/cloud"
    assert [path.name for path in (cloud / "instances").iterdir()] == [str(wanted.machine_id)]
    assert (cloud / "instance").readlink() == Path(f"/var/lib/cloud/instances/{wanted.machine_id}")
    assert text(cloud, f"instances/{wanted.machine_id}/sem/config_users_groups") == "done\n"
    assert not (cloud / f"instances/{wanted.machine_id}/obj.pkl").exists()
    for name in ("instance-id", "previous-instance-id"):
        assert text(cloud, f"data/{name}") == f"{wanted.machine_id}\n"


def test_run_again_it_changes_nothing_but_the_keys(root: Path) -> None:
    wanted = identity()
    done(root, wanted)
    before = everything(root)
    done(root, wanted)
    assert everything(root) == before


@pytest.mark.parametrize("moment", range(1, 26))
def test_killed_at_any_file_it_ends_the_same_when_it_is_run_again(root: Path, tmp_path: Path, moment: int) -> None:
    """It dies at its n-th renaming of a file into its place; fewer are left to die at the later ones."""
    wanted = identity(machine_id=UUID(int=7))
    argv, stdin = guest_identity.program(wanted, root=str(root))
    killed = stdin.replace(b"use strict;", b"use strict; our $left = %d;" % moment, 1)
    killed = killed.replace(b"    rename $part,", b"    kill 'KILL', $$ if --$main::left == 0;\n    rename $part,", 1)
    assert killed.count(b"main::left") == 1
    subprocess.run(argv, input=killed, check=False, capture_output=True, timeout=120)
    done(root, wanted)
    assert not list(root.rglob("*.casement"))
    for name in ("etc/passwd", "etc/shadow", "etc/group"):
        assert "alice:" in text(root, name)
        assert "casement:" not in text(root, name)
    assert text(root, "home/alice/.Xauthority") == "cookie"
    assert text(root, "etc/machine-id") == f"{wanted.machine_id.hex}\n"
    assert text(root, f"var/lib/cloud/instances/{wanted.machine_id}/sem/config_users_groups") == "done\n"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: (root / "etc/passwd").unlink(), b"passwd"),
        (lambda root: (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n"), b"not there"),
        (lambda root: (root / "etc/passwd").write_text(FILES["etc/passwd"] + "alice:x:1001:::\n"), b"another user"),
        (lambda root: (root / "home/alice").mkdir(), b"a home of this name"),
        (lambda root: (root / "etc/ssh/ssh_host_dir").mkdir(), b"unlink"),
    ],
)
def test_what_goes_wrong_is_said_and_it_does_not_end_well(root: Path, break_it: object, says: bytes) -> None:
    assert callable(break_it)
    break_it(root)
    result = run(root, identity())
    assert result.returncode != 0
    assert says in result.stderr
    assert guest_identity.DONE.encode() not in result.stdout


def test_no_secret_is_an_argument_and_none_is_shown() -> None:
    wanted = identity()
    argv, stdin = guest_identity.program(wanted)
    assert argv == guest_identity.ARGV
    assert HASH not in repr(wanted)
    assert repr(wanted.seed) not in repr(wanted)
    told = guest_identity.told(stdin)
    assert (told["uuid"], told["hostname"], told["password_hash"]) == (str(wanted.machine_id), "alice-1", HASH)
    assert abs(int(told["time_us"]) / 1e6 - time.time()) < 60


@pytest.mark.parametrize(
    "change",
    [
        {"hostname": "alice\nroot"},
        {"user": "root"},
        {"user": "al:ice"},
        {"password_hash": "secret"},
        {"password_hash": "$6$a:0:0\n"},
        {"ssh_keys": ("ssh-ed25519 AAAA\nroot",)},
    ],
)
def test_what_must_not_get_into_a_guest_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidSeedError):
        guest_identity.program(identity(**change))


def test_a_short_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="random"):
        guest_identity.program(identity(seed=b"short"))
