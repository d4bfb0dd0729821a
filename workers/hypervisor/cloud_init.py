"""NoCloud seeds: what a machine learns about itself at its first boot.

Everything goes through a YAML serialiser, so a name like `1234` or `on` arrives as text, and nothing that a person
typed can become another key. What cannot be put right is refused in words (`InvalidSeedError`).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import yaml

from workers.hypervisor.types import SeedSpec

_HOSTNAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_RESERVED_USERS = frozenset({"root", "daemon", "bin", "sys", "nobody", "sshd", "messagebus", "lightdm"})
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HASH = re.compile(r"\$(6|y)\$[./A-Za-z0-9$=,]{20,200}")
_KEY_KINDS = re.compile(
    r"ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,3}")
_COMMENT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{0,200}")
_HOST_KEY_NAMES = re.compile(r"(ed25519|ecdsa|rsa)_(private|public|certificate)")
_MOST_KEYS = 50
_BYTE_ORDER_MARK = "\ufeff"
_LIGHTDM = "/etc/lightdm/lightdm.conf.d/50-casement.conf"


class InvalidSeedError(ValueError):
    """Something that must not get into a seed. `message` is a sentence for the person who typed it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def seed(
    *,
    instance_id: UUID,
    hostname: str,
    user: str,
    password_hash: str | None,
    ssh_keys: tuple[str, ...],
    mac: str,
    desktop: bool,
    host_keys: dict[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> SeedSpec:
    """The three files of a NoCloud seed. `host_keys` are cloud-init's `ssh_keys`, e.g. {"ed25519_private": "…"}.

    `extra` is a person's own cloud-config; see `merged`.
    """
    check_hostname(hostname)
    check_user(user)
    if not _MAC.fullmatch(mac):
        raise InvalidSeedError("The network card's address is not a MAC in lower case.")
    keys = normalise_ssh_keys(ssh_keys)
    check_password_hash(password_hash)
    user_data = _user_data(hostname, user, password_hash, keys, desktop=desktop)
    if extra:
        user_data = merged(user_data, extra)
    if host_keys:
        user_data["ssh_keys"] = _checked_host_keys(host_keys)
        user_data["ssh_deletekeys"] = True
    return SeedSpec(
        meta_data=_dump({"instance-id": str(instance_id), "local-hostname": hostname}),
        user_data="#cloud-config\n" + _dump(user_data),
        network_config=_dump(_network_config(mac)),
    )


# What makes the machine known: its name and its keys are never a person's to set here.
IDENTITY = frozenset({"hostname", "fqdn", "preserve_hostname", "manage_etc_hosts", "ssh_keys", "ssh_deletekeys"})


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Their settings over ours, but for lists, which come behind ours, and users: the machine's own stays first.

    `InvalidSeedError` for a setting of the machine's identity, and for a second user of the same name.
    """
    if named := sorted(IDENTITY & theirs.keys()):
        raise InvalidSeedError(f"{named[0]} is set by Casement.")
    names = {user["name"] for user in ours["users"]}
    for user in theirs.get("users") or []:
        if (user.get("name") if isinstance(user, dict) else user) in names:
            raise InvalidSeedError("The machine's own user cannot be described twice.")
    both = {name: [*ours[name], *theirs[name]] for name in ours.keys() & theirs.keys() if isinstance(ours[name], list)}
    return {**ours, **theirs, **both}


def _user_data(
    hostname: str, user: str, password_hash: str | None, keys: list[str], *, desktop: bool
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "hostname": hostname,
        "fqdn": hostname,
        # In place of a name in DNS: sudo and desktops wait for the machine's own name to resolve.
        "manage_etc_hosts": True,
        "preserve_hostname": False,
        "users": [_user(user, password_hash, keys)],
        "disable_root": True,
        "ssh_pwauth": password_hash is not None,
        # The image is up to date when it is built; a fleet that updates at its first boot drowns its host.
        "package_update": False,
        "package_upgrade": False,
        "growpart": {"mode": "auto", "devices": ["/"]},
        "resize_rootfs": True,
    }
    if desktop:
        data["write_files"] = [_autologin(user)]
    return data


def _user(user: str, password_hash: str | None, keys: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": user,
        "groups": ["sudo", "audio", "video"],
        "shell": "/bin/bash",
        "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
        "lock_passwd": password_hash is None,
    }
    if password_hash is not None:
        entry["passwd"] = password_hash
    if keys:
        entry["ssh_authorized_keys"] = keys
    return entry


def _autologin(user: str) -> dict[str, str]:
    """The portal has asked who it is already. `user` is checked, so no line can be added."""
    content = f"[Seat:*]\nautologin-user={user}\nautologin-user-timeout=0\n"
    return {"path": _LIGHTDM, "permissions": "0644", "owner": "root:root", "content": content}


def _network_config(mac: str) -> dict[str, Any]:
    # It has its name from here. For one from the network a guest would start a service at each of its boots.
    card = {"match": {"macaddress": mac}, "dhcp4": True, "dhcp4-overrides": {"use-hostname": False}}
    return {"version": 2, "ethernets": {"casement0": card}}


def _dump(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1_000_000)


def check_hostname(hostname: str) -> None:
    """A DNS label in lower case; `1234` or `0x10` are fine."""
    if not _HOSTNAME.fullmatch(hostname):
        raise InvalidSeedError(
            "A host name has 1 to 63 small letters, digits and dashes, and neither begins nor ends with a dash."
        )


def check_user(user: str) -> None:
    if not _USER.fullmatch(user):
        raise InvalidSeedError(
            "A user name has up to 31 small letters, digits, dashes and underscores, and begins with a letter."
        )
    if user in _RESERVED_USERS:
        raise InvalidSeedError(f"The user name {user} belongs to the system.")


def check_password_hash(password_hash: str | None) -> None:
    """None means no password at all: keys only. A plain password is refused, it would lie about in the seed."""
    if password_hash is not None and not _HASH.fullmatch(password_hash):
        raise InvalidSeedError("The password is not given as a hash.")


def normalise_ssh_keys(keys: tuple[str, ...]) -> list[str]:
    """Public keys of one line each, without byte order mark and stray line ends, each once."""
    if len(keys) > _MOST_KEYS:
        raise InvalidSeedError(f"More than {_MOST_KEYS} SSH keys are not taken.")
    return list(dict.fromkeys(normalise_ssh_key(key) for key in keys))


def normalise_ssh_key(key: str) -> str:
    line = key.removeprefix(_BYTE_ORDER_MARK).strip()
    if "PRIVATE KEY" in line:
        raise InvalidSeedError("This is a private SSH key. Keep it secret; the public one ends in .pub.")
    if "\n" in line or "\r" in line:
        raise InvalidSeedError("An SSH key is one line; this one has several.")
    kind, _, rest = line.replace("\t", " ").partition(" ")
    body, _, comment = rest.strip().partition(" ")
    if not _KEY_KINDS.fullmatch(kind):
        raise InvalidSeedError("An SSH key begins with its kind, such as ssh-ed25519 or ssh-rsa (ssh-dss is too weak).")
    if not _BASE64.fullmatch(body):
        raise InvalidSeedError("The SSH key is damaged: its middle part is not Base64.")
    if not _COMMENT.fullmatch(comment.strip()):
        raise InvalidSeedError("The SSH key's comment is too long or holds control characters.")
    return " ".join(part for part in (kind, body, comment.strip()) if part)


def _checked_host_keys(host_keys: dict[str, str]) -> dict[str, str]:
    for name in host_keys:
        if not _HOST_KEY_NAMES.fullmatch(name):
            raise InvalidSeedError("A host key's name is not one that cloud-init knows.")
    return dict(host_keys)


def hash_password(password: str) -> str:
    """A salted SHA-512 crypt hash ($6$) by OpenSSL: Python's own `crypt` is gone since 3.13.

    The password goes by standard input, so it is never in the process list.
    """
    if not password or any(character in password for character in "\n\r\0"):
        raise InvalidSeedError("A password is not empty and has no line breaks.")
    command = ["openssl", "passwd", "-6", "-stdin"]
    done = subprocess.run(command, input=password.encode(), check=True, capture_output=True, timeout=10)
    return done.stdout.decode("ascii").strip()
