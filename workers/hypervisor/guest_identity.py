"""What runs once in a forked guest, by its agent, so that it is its own machine: `guest_identity.pl`.

One Perl process that does everything itself: every program that starts in a forked guest makes memory its own that it
shared before. Nothing is in its arguments; program, seed, password hash and keys go by standard input. The SSH host
keys are made here, which costs the guest nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from workers.hypervisor import cloud_init

# The user that a template's seed makes, and a fork's own user takes the place of.
TEMPLATE_USER = "casement"
ARGV = ("/usr/bin/perl", "-w", "-")
# The last line that it prints begins with this; the machine's UUID follows.
DONE = "casement: identity"
LEAST_SEED_BYTES = 32
_SCRIPT = Path(__file__).with_suffix(".pl")
_END = b"\n__END__\n"


@dataclass(frozen=True, slots=True)
class GuestIdentity:
    """`machine_id` is the machine's UUID: its machine-id and cloud-init's instance are made from it.

    `seed` are random bytes of the host, for the guest's random stream. No `password_hash`: keys only.
    """

    hostname: str
    user: str
    password_hash: str | None = field(repr=False)
    ssh_keys: tuple[str, ...]
    seed: bytes = field(repr=False)
    machine_id: UUID


def program(identity: GuestIdentity, *, root: str = "") -> tuple[tuple[str, ...], bytes]:
    """Arguments and standard input of the program. It is to be run at once: the guest's clock is set by it.

    It ends with 0 and prints `DONE` and the UUID, or with another code and a line that says why. It may be run again.
    `InvalidSeedError` for what must not get into a guest. `root` is a folder to change instead of the system's.
    """
    cloud_init.check_hostname(identity.hostname)
    cloud_init.check_user(identity.user)
    cloud_init.check_password_hash(identity.password_hash)
    if len(identity.seed) < LEAST_SEED_BYTES:
        raise ValueError("too few random bytes")
    keys = cloud_init.normalise_ssh_keys(identity.ssh_keys)
    values = {
        "root": root,
        "uuid": str(identity.machine_id),
        "hostname": identity.hostname,
        "user": identity.user,
        "template_user": TEMPLATE_USER,
        "password_hash": identity.password_hash or "",
        "ssh_keys": "".join(f"{key}\n" for key in keys),
        "time_us": str(time.time_ns() // 1000),
        **_host_keys(identity.hostname),
    }
    told = {name: value.encode() for name, value in values.items()} | {"seed": identity.seed}
    return ARGV, _SCRIPT.read_bytes() + _END + _lines(told)


def told(stdin: bytes) -> dict[str, str]:
    """What the program is told by this input, by name: for tests, and guests that exist in memory only."""
    _script, _, lines = stdin.partition(_END)
    pairs = (line.split(" ") for line in lines.decode().splitlines())
    return {name: bytes.fromhex(value).decode(errors="replace") for name, value in pairs}


def _lines(values: Mapping[str, bytes]) -> bytes:
    return "".join(f"{name} {value.hex()}\n" for name, value in values.items()).encode()


def _host_keys(hostname: str) -> dict[str, str]:
    keys: dict[str, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ecdsa": ec.generate_private_key(ec.SECP256R1()),
    }
    pairs = {}
    for kind, key in keys.items():
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        pairs[f"{kind}_private"] = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        pairs[f"{kind}_public"] = f"{public.decode()} root@{hostname}\n"
    return pairs
