"""Whether a file of checksums is signed: gpgv, as nobody, without a network, with limits.

gpgv trusts every key of its keyring and no other, keeps no state, and asks nobody. What its status lines say counts,
and only all of it together: nothing but good signatures, by digests that are not broken. Of a text with its signature
around it only what was signed is given back; whatever stands before or behind it is not.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from workers.imaging.commands import Limits, run
from workers.imaging.errors import CommandFailed

LIMITS: Final = Limits(address_space=512 * 1024**2, file_size=8 * 1024**2, cpu_seconds=10, timeout=30)
NOBODY: Final = 65534
# By their numbers in OpenPGP: MD5, SHA-1, RIPEMD-160.
_BROKEN_DIGESTS: Final = frozenset({"1", "2", "3"})


class BadSignatureError(Exception):
    """It is not signed by who should have, or not as it is. The text is safe to show."""


def signed_text(data: bytes, signature: bytes | None, keyring: bytes) -> bytes:
    """What was signed: `data` itself if the `signature` comes beside it, else the text inside. BadSignatureError."""
    with tempfile.TemporaryDirectory(prefix="casement-gpgv-") as name:
        folder = Path(name)
        text, keys, beside = folder / "text", folder / "keys", folder / "signature"
        text.write_bytes(data)
        keys.write_bytes(keyring)
        if signature is not None:
            beside.write_bytes(signature)
        home = _nobodys(folder)
        argv = ["gpgv", "--quiet", "--status-fd", "1", "--homedir", str(home), "--keyring", str(keys)]
        if signature is None:
            argv += ["--output", str(home / "signed"), str(text)]
        else:
            argv += [str(beside), str(text)]
        _check(argv)
        return data if signature is not None else (home / "signed").read_bytes()


def _nobodys(folder: Path) -> Path:
    """A folder that gpgv may write into, and that it finds the other files from, whoever it runs as."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    if os.geteuid() == 0:
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o644 if file.is_file() else 0o700)
        os.chown(home, NOBODY, NOBODY)
    return home


def _check(argv: list[str]) -> None:
    try:
        output = run([*_apart(), *argv], limits=LIMITS, keep_lines=None, merge_errors=False)
    except CommandFailed as error:
        raise BadSignatureError("The signature of the checksums is missing, broken, or of another key.") from error
    said = [line.split()[1:] for line in output.splitlines() if line.startswith("[GNUPG:] ")]
    words = [one[0] for one in said if one]
    good, valid = words.count("GOODSIG"), [one for one in said if one[:1] == ["VALIDSIG"]]
    if good < 1 or len(valid) != good or words.count("NEWSIG") != good or words.count("PLAINTEXT") > 1:
        raise BadSignatureError("The checksums are not signed by who should have signed them.")
    if any(len(one) < 9 or one[8] in _BROKEN_DIGESTS for one in valid):
        raise BadSignatureError("The signature of the checksums is of a kind that can be forged.")


@cache
def _apart() -> list[str]:
    """In a network of its own and, started by root, as nobody. Where a system lets nobody have a network of their own,
    without one: gpgv opens no connection anyway.
    """
    if os.geteuid() == 0:
        rights = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--no-new-privs"]
        ways = [["unshare", "--net", "--", "setpriv", *rights, "--"], ["setpriv", *rights, "--"]]
    else:
        alone = ["setpriv", "--no-new-privs", "--"]
        ways = [["unshare", "--user", "--map-current-user", "--net", "--", *alone], alone]
    for way in ways[:-1]:
        try:
            run([*way, "true"], limits=LIMITS)
        except CommandFailed:
            continue
        return way
    return ways[-1]
