"""Seeds, read back as cloud-init reads them."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pycdlib import PyCdlib

from workers.hypervisor import cloud_init
from workers.hypervisor.cloud_init import InvalidSeedError
from workers.hypervisor.kvm.seed_iso import seed_iso
from workers.hypervisor.types import SeedSpec

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBKc1nUZ6Zq8mZqV0f0v2f3Zc0QbqgJkqk9kQnU7mXyZ alice@example.com"
HASH = "$6$saltsaltsaltsalt$" + "a" * 86
ODD_NAMES = ["1234", "on", "no", "null", "0x10", "2024-01-01", "1e3", "true", "y", "0b1", "1-2", "0o17", "12-30"]


def make(**changes: Any) -> SeedSpec:
    values: dict[str, Any] = {
        "instance_id": UUID(int=5),
        "hostname": "alice-1",
        "user": "alice",
        "password_hash": None,
        "ssh_keys": (ED25519,),
        "mac": "52:54:00:12:34:56",
        "desktop": False,
        **changes,
    }
    return cloud_init.seed(**values)


def user_data(seed: SeedSpec) -> dict[str, Any]:
    assert seed.user_data.startswith("#cloud-config\n")
    data = yaml.safe_load(seed.user_data)
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_yaml_could_misread_arrives_as_text(name: str) -> None:
    """F19."""
    seed = make(hostname=name)
    assert user_data(seed)["hostname"] == name
    assert user_data(seed)["fqdn"] == name
    assert yaml.safe_load(seed.meta_data) == {"instance-id": str(UUID(int=5)), "local-hostname": name}


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a.b", "a b", "a\n", "x" * 64, "ä", "a\nruncmd: [reboot]", "{{ 7*7 }}"]
)
def test_a_host_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidSeedError):
        make(hostname=name)


@pytest.mark.parametrize("user", ["", "root", "1a", "a b", "Alice", "a:b", "a\n[Seat:*]", "x" * 32, "lightdm"])
def test_a_user_name_that_is_none_is_refused(user: str) -> None:
    with pytest.raises(InvalidSeedError):
        make(user=user, desktop=True)


@pytest.mark.parametrize("user", ["on", "null", "no"])
def test_a_user_name_that_yaml_could_misread_arrives_as_text(user: str) -> None:
    assert user_data(make(user=user))["users"][0]["name"] == user


@pytest.mark.parametrize(
    "key",
    [
        f"{ED25519}\r\n",
        f"\n{ED25519}",
        f"\ufeff{ED25519}",
        ED25519.replace(" ", "\t"),
        f"  {ED25519}  \n\n",
    ],
)
def test_a_key_with_stray_bytes_is_one_line(key: str) -> None:
    """F21."""
    assert user_data(make(ssh_keys=(key, ED25519)))["users"][0]["ssh_authorized_keys"] == [ED25519]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----", "private"),
        (f"{ED25519}\n{ED25519}", "one line"),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAKc1nUZ6Zq8mZqV0", "kind"),
        ('command="reboot" ' + ED25519, "kind"),
        ("ssh-ed25519 !!!!not-base64!!!!", "damaged"),
        ("ssh-ed25519", "damaged"),
        ("", "kind"),
        (ED25519 + "\x1b[2J", "comment"),
    ],
)
def test_a_key_that_is_none_is_refused_in_words(key: str, reason: str) -> None:
    with pytest.raises(InvalidSeedError, match=reason):
        make(ssh_keys=(key,))


def test_without_a_password_only_keys_open_the_door() -> None:
    data = user_data(make())
    assert data["users"][0]["lock_passwd"] is True
    assert "passwd" not in data["users"][0]
    assert data["ssh_pwauth"] is False
    assert data["disable_root"] is True


def test_with_a_password_it_is_a_hash() -> None:
    data = user_data(make(password_hash=HASH))
    assert data["users"][0]["passwd"] == HASH
    assert data["users"][0]["lock_passwd"] is False
    assert data["ssh_pwauth"] is True
    assert HASH not in repr(make(password_hash=HASH))


@pytest.mark.parametrize("not_a_hash", ["", "hunter2", "$1$abc$def", HASH + "\n", "$6$a:b$" + "a" * 86])
def test_a_password_that_is_no_hash_is_refused(not_a_hash: str) -> None:
    with pytest.raises(InvalidSeedError):
        make(password_hash=not_a_hash)


def test_a_desktop_signs_its_owner_in() -> None:
    (file,) = user_data(make(desktop=True))["write_files"]
    assert file["path"] == "/etc/lightdm/lightdm.conf.d/50-casement.conf"
    assert "autologin-user=alice\n" in file["content"]
    assert "write_files" not in user_data(make())


def test_the_network_goes_by_the_cards_address() -> None:
    config = yaml.safe_load(make().network_config)
    (card,) = config["ethernets"].values()
    assert config["version"] == 2
    name = {"use-hostname": False}
    assert card == {"match": {"macaddress": "52:54:00:12:34:56"}, "dhcp4": True, "dhcp4-overrides": name}
    with pytest.raises(InvalidSeedError):
        make(mac="not a mac")


def test_a_mac_of_digits_stays_text() -> None:
    """YAML 1.1 reads 11:22:33 as a number in base 60."""
    seed = make(mac="52:54:00:12:34:56")
    assert "'52:54:00:12:34:56'" in seed.network_config


def test_host_keys_are_handed_on() -> None:
    keys = {"ed25519_private": "-----BEGIN\nKEY: - on\n", "ed25519_public": ED25519}
    assert user_data(make(host_keys=keys))["ssh_keys"] == keys
    with pytest.raises(InvalidSeedError):
        make(host_keys={"runcmd": "reboot"})


@given(st.text(max_size=200))
def test_no_key_adds_anything_to_the_seed(key: str) -> None:
    try:
        seed = make(ssh_keys=(key,))
    except InvalidSeedError:
        return
    assert set(user_data(seed)) == set(user_data(make()))


def test_a_hash_is_made_by_openssl_and_salted() -> None:
    first, second = cloud_init.hash_password("pässword €"), cloud_init.hash_password("pässword €")
    assert first != second
    cloud_init.check_password_hash(first)
    salt = first.split("$")[2]
    again = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "-stdin"],
        input="pässword €".encode(),
        check=True,
        capture_output=True,
    )
    assert again.stdout.decode().strip() == first


@pytest.mark.parametrize("password", ["", "two\nlines", "nul\0"])
def test_a_password_that_would_be_cut_is_refused(password: str) -> None:
    with pytest.raises(InvalidSeedError):
        cloud_init.hash_password(password)


def test_the_iso_holds_the_three_files_under_their_long_names() -> None:
    seed = make(hostname="1234")
    iso = PyCdlib()
    iso.open_fp(BytesIO(seed_iso(seed)))
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"
    expected = {"user-data": seed.user_data, "meta-data": seed.meta_data, "network-config": seed.network_config}
    for name, text in expected.items():
        for path in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            content = BytesIO()
            iso.get_file_from_iso_fp(content, **path)
            assert content.getvalue().decode() == text
    iso.close()


@pytest.mark.skipif(not shutil.which("blkid"), reason="blkid is not installed")
def test_the_iso_is_found_by_its_label(tmp_path: Any) -> None:
    image = tmp_path / "seed.iso"
    image.write_bytes(seed_iso(make()))
    found = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "LABEL", str(image)], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "cidata"
