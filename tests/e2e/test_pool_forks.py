"""Two forks of one real desktop, each with its own identity: what makes it the one that it is, is shared by no two."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import libvirt
import pytest

from tests.e2e.story import Story
from tests.e2e.studio import parent_in_use, pool_with_a_parent
from tests.integration.hypervisor.harness import Bench, RealBackstage, make_parent_spec
from tests.support.libvirtd import wait_until
from workers.hypervisor import cloud_init, guest_identity
from workers.hypervisor.guest_identity import GuestIdentity
from workers.hypervisor.kvm.driver import KvmDriver
from workers.hypervisor.types import Forked, MachineSpec, ParentSpec, PowerState

pytestmark = [pytest.mark.e2e, pytest.mark.real, pytest.mark.timeout(2700)]

# What nobody may find in a parent, though it was in each of its forks.
MARKER = "alices-own-comment-7c1e"
# One line each; run in the guest, as root.
FACTS = {
    "hostname": "hostname; cat /etc/hostname",
    "machine-id": "cat /etc/machine-id",
    "host keys": "cat /etc/ssh/ssh_host_*_key.pub",
    "password": "grep -E '^(alice|bob):' /etc/shadow",
    "random": "head -c 32 /dev/urandom | od -An -tx1",
    "user": "id -un 1000; find /home -name authorized_keys",
    "cards": "cat /sys/class/net/e*/address",
    "addresses": "ip -4 -o addr show scope global | grep -o 'inet [0-9.]*'",
    "cloud": "readlink /var/lib/cloud/instance",
}


@pytest.fixture
def parent(story: Story) -> ParentSpec:
    """The product's own, which was captured with its desktop on the screen."""
    pool_with_a_parent(story)
    uuid, vcpus, memory_mib = parent_in_use(story)
    return make_parent_spec(uuid4(), uuid=uuid, vcpus=vcpus, memory_mib=memory_mib, desktop=True)


@pytest.fixture
def bench(story: Story) -> Iterator[Bench]:
    """The product's own host. It finds machines there of which it knows nothing, and leaves them alone."""
    product = story.product
    ((uri, network),) = product.rows("SELECT uri, network FROM hosts_host")
    bench = Bench("real", product.driver(), uuid4(), Path(), str(network), RealBackstage(product.uri or str(uri)))
    yield bench
    bench.clean()


def inside(bench: Bench, machine: UUID, script: str) -> str:
    result = bench.driver.run_in_guest(machine, ("/bin/sh", "-c", script), timeout_s=240)
    assert result.exit_code == 0, (script, result.stdout, result.stderr)
    return result.stdout.decode().strip()


def forked(bench: Bench, parent: ParentSpec, user: str, key: str, password_hash: str) -> MachineSpec:
    spec = bench.spec(vcpus=parent.vcpus, memory_mib=parent.memory_mib, desktop=True)
    driver, nic = bench.driver, spec.nics[0]
    seed = cloud_init.seed(
        instance_id=spec.uuid,
        hostname=f"{user}-desktop",
        user=user,
        password_hash=password_hash,
        ssh_keys=(key,),
        mac=nic.mac,
        desktop=True,
    )
    driver.write_seed(spec.uuid, seed)
    assert driver.fork(spec, parent.uuid) == Forked("fork")
    wait_until(lambda: driver.agent_ready(spec.uuid), 240)
    assert inside(bench, spec.uuid, "ls /sys/class/net") == "lo", "it has a card before it has an identity"
    identity = GuestIdentity(f"{user}-desktop", user, password_hash, (key,), os.urandom(64), spec.uuid)
    argv, stdin = guest_identity.program(identity)
    result = driver.run_in_guest(spec.uuid, argv, stdin=stdin, timeout_s=240)
    assert result.exit_code == 0, result
    assert result.stdout.decode().splitlines()[-1] == f"{guest_identity.DONE} {spec.uuid}"
    driver.attach_nic(spec.uuid, nic)
    return spec


def ssh_key(folder: Path, name: str) -> tuple[Path, str]:
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}-{MARKER}", "-f", path], check=True)
    return path, path.with_suffix(".pub").read_text(encoding="ascii").strip()


def facts_of(bench: Bench, spec: MachineSpec) -> dict[str, str]:
    """All of them by one program: the agent takes its time for each."""
    wait_until(lambda: bench.driver.addresses(spec.uuid) != (), 300)
    scripts = (f"echo '== {name}'; ({script}) || exit 1" for name, script in FACTS.items())
    told = inside(bench, spec.uuid, "\n".join(scripts))
    parts = re.split(r"^== (.+)$", told, flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def domain_facts(spec: MachineSpec) -> set[str]:
    conn = libvirt.open("qemu:///system")
    try:
        root = ET.fromstring(conn.lookupByUUIDString(str(spec.uuid)).XMLDesc())  # noqa: S314 - libvirt made it.
    finally:
        conn.close()
    macs = [mac.get("address", "") for mac in root.iterfind("devices/interface/mac")]
    return {*macs, *(root.findtext(name) or "" for name in ("name", "uuid", "genid"))}


def test_two_forks_of_a_desktop_share_nothing_that_makes_them_who_they_are(
    bench: Bench, parent: ParentSpec, tmp_path: Path
) -> None:
    driver = bench.driver
    people = {}
    for user in ("alice", "bob"):
        key, public = ssh_key(tmp_path, user)
        password_hash = cloud_init.hash_password(f"{user}'s password")
        people[user] = (forked(bench, parent, user, public, password_hash), key, password_hash)
    facts = {user: facts_of(bench, spec) for user, (spec, _key, _hash) in people.items()}
    for name in FACTS:
        ours, theirs = facts["alice"][name], facts["bob"][name]
        assert ours, name
        assert not set(ours.split("\n")) & set(theirs.split("\n")), name
    domains = [domain_facts(people[user][0]) for user in ("alice", "bob")]
    assert [len(those) for those in domains] == [4, 4]
    assert not domains[0] & domains[1]

    for user, (spec, key, password_hash) in people.items():
        told = facts[user]
        assert told["hostname"].split() == [f"{user}-desktop"] * 2
        assert told["machine-id"] == spec.uuid.hex
        assert told["cards"] == spec.nics[0].mac
        assert password_hash in told["password"]
        assert told["user"].split() == [user, f"/home/{user}/.ssh/authorized_keys"]
        # The session of the template runs on, as this user's.
        assert user in inside(bench, spec.uuid, "ps -o user= -C xfdesktop")
        # What is started from now on comes up on the screen, also what fits it to the window.
        for who, cookie in ((user, f"/home/{user}/.Xauthority"), ("root", "/run/lightdm/root/:0")):
            screen = inside(bench, spec.uuid, f"su {who} -c 'DISPLAY=:0 XAUTHORITY={cookie} xrandr --query'")
            assert " connected" in screen
        assert "xfce4-panel" in inside(bench, spec.uuid, "ps -o comm= -C xfce4-panel")
        assert inside(bench, spec.uuid, "dmesg | grep -c 'crng reseeded due to virtual machine fork'") != "0"
        assert inside(bench, spec.uuid, f"su {user} -c 'sudo -n id -u'") == "0"
        signs_in(user, key, driver.addresses(spec.uuid)[0], told["host keys"])

    no_secret_in(bench, parent, [password_hash for _spec, _key, password_hash in people.values()])
    stays_who_it_is_after_a_cold_start(bench, people["alice"][0], facts["alice"])


def signs_in(user: str, key: Path, address: str, host_keys: str) -> None:
    """By its own key alone, at a machine that shows the keys that it was given."""
    known = key.with_suffix(".known")
    known.write_text("".join(f"{address} {line}\n" for line in host_keys.splitlines()), encoding="ascii")
    options = [f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes", "BatchMode=yes", "ConnectTimeout=120"]
    argv = ["ssh", "-F", "none", "-i", str(key), *(f"-o{option}" for option in options), f"{user}@{address}", "id -un"]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=300)
    assert done.stdout.decode().strip() == user, done.stderr


def no_secret_in(bench: Bench, parent: ParentSpec, hashes: list[str]) -> None:
    driver = bench.driver
    assert isinstance(driver, KvmDriver)
    folder = driver._storage().parent_folder(parent.uuid)
    secrets = [MARKER, *hashes, "alice-desktop", "bob-desktop"]
    pattern = re.compile(b"|".join(re.escape(secret.encode()) for secret in secrets))
    names = {path.name for path in folder.iterdir()}
    assert {"ram", "state", "whole", "disk.qcow2", "seed.iso"} <= names
    for name in names:
        assert not pattern.search((folder / name).read_bytes()), name


def stays_who_it_is_after_a_cold_start(bench: Bench, spec: MachineSpec, before: dict[str, str]) -> None:
    driver = bench.driver
    driver.shut_down(spec.uuid)
    wait_until(lambda: driver.power_state(spec.uuid) is PowerState.SHUT_OFF, 300)
    driver.start(spec.uuid)
    wait_until(lambda: driver.agent_ready(spec.uuid), 600)
    wait_until(lambda: "alice" in inside(bench, spec.uuid, "ps -o user= -C xfdesktop; true"), 600)
    after = facts_of(bench, spec)
    changing = {"random"}
    assert {name: told for name, told in after.items() if name not in changing} == {
        name: told for name, told in before.items() if name not in changing
    }
    assert inside(bench, spec.uuid, "getent passwd | cut -d: -f1,3 | grep -E ':1[0-9]{3}$'") == "alice:1000"
    assert "done" in inside(bench, spec.uuid, "cloud-init status; true")
