"""Makers who sign: real keys and signatures by gpg, whose agent ends with the block."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Maker:
    """Who signs, by one key of their own. `home` is gpg's."""

    home: Path

    @property
    def key(self) -> bytes:
        return self._gpg("--export")

    @property
    def armored_key(self) -> str:
        return self._gpg("--armor", "--export").decode()

    def signed(self, text: bytes, *options: str) -> bytes:
        """With the signature around it, as Fedora has it."""
        return self._gpg(*options, "--clearsign", stdin=text)

    def signature(self, text: bytes, *options: str) -> bytes:
        """By itself, as Ubuntu has it; with `--armor` as AlmaLinux has."""
        return self._gpg(*options, "--detach-sign", stdin=text)

    def _gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
        argv += ["--passphrase", "", *arguments]
        return subprocess.run(argv, input=stdin, capture_output=True, check=True, timeout=60).stdout


@contextmanager
def maker(*, expires: str = "2y") -> Iterator[Maker]:
    """A folder with a short name: the agent's socket is in it."""
    with tempfile.TemporaryDirectory(prefix="gpg-") as name:
        found = Maker(Path(name))
        try:
            found._gpg("--quick-gen-key", "Maker of images <images@example.org>", "ed25519", "sign", expires)
            yield found
        finally:
            kill = ["gpgconf", "--homedir", name, "--kill", "all"]
            subprocess.run(kill, capture_output=True, check=True, timeout=60)
