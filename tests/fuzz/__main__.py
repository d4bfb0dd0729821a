"""`python -m tests.fuzz [target...]`: coverage-guided fuzzing of the parsers, FUZZ_SECONDS in all (20 by itself).

Each target runs in a process of its own, since the fuzzer ends the one that it is in. What it finds is printed as
Python's bytes, ready for a test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["portal.console.rfb"]):
    from tests.fuzz import properties

_CLIENT = (
    b"\2\0\0\3\0\0\0\7\0\0\0\0\xff\xff\xff\x11",
    b"\3\1\0\0\0\0\2\x80\1\xe0",
    b"\0" * 20,
    b"\4\1\0\0\0\0\0\x61",
    b"\5\1\0\x0a\0\x14",
    b"\6\0\0\0\0\0\0\5hello",
    b"\6\0\0\0\xff\xff\xff\xf8\1\0\0\1abcd",
    b"\x96\1\0\0\0\0\2\x80\1\xe0",
    b"\xf8\0\0\0\0\0\0\1\3abc",
    b"\xfa\0\1\3",
    b"\xfb\0\3\x20\2\x58\1\0" + b"\0" * 16,
    b"\xff\0\0\1\0\0\0\x61\0\0\0\x1e",
    b"\xff\1\0\0",
    b"\xff\1\0\2\3\2\0\0\xac\x44",
)
_INIT = b"\2\x80\1\xe0" + b"\x20\x18\0\1\0\xff\0\xff\0\xff\x10\x08\0\0\0\0" + b"\0\0\0\4QEMU"
# Whole conversations to begin with, each in one piece; the fuzzer finds the ways to cut and to break them.
SEEDS = {
    "client_stream": [b"\0" + message for message in (*_CLIENT, b"".join(_CLIENT))],
    "display": [
        b"\0\0RFB 003.008\n\1\1\0\0\0\0" + _INIT,
        b"\2\0RFB 003.008\n\2\1\2" + b"c" * 16 + b"\0\0\0\0" + _INIT,
        b"\2\0RFB 003.008\n\1\2" + b"c" * 16 + b"\0\0\0\1\0\0\0\3no!",
        b"\2\0RFB 003.007\n\1\2" + b"c" * 16 + b"\0\0\0\1",
        b"\2\0RFB 003.003\n\0\0\0\2" + b"c" * 16 + b"\0\0\0\0" + _INIT,
        b"\0\0RFB 003.008\n\0\0\0\0\3no!",
        # Cut where TLS begins.
        b"\1\1\x1bRFB 003.008\n\1\x13\0\2\0\2\0\0\1\4\0\0\1\5\1\0\0\0\0" + _INIT,
        b"\3\1\x1bRFB 003.008\n\1\x13\0\2\0\2\0\0\1\4\0\0\1\5\1" + b"c" * 16 + b"\0\0\0\0" + _INIT,
    ],
    "browser": [b"\0RFB 003.008\n\1\1", b"\0RFB 003.003\n", b"\0RFB 003.008\n\2"],
}


def main(arguments: list[str]) -> int:
    seconds = max(1, int(os.environ.get("FUZZ_SECONDS", "20")) // len(properties.TARGETS))
    names = arguments or list(properties.TARGETS)
    found = [name for name in names if not _finds_nothing(name, seconds)]
    return 1 if found else 0


def _finds_nothing(name: str, seconds: int) -> bool:
    """Run one target in another process. One that died of anything else has not found nothing."""
    with tempfile.TemporaryDirectory(prefix="casement-fuzz-") as folder:
        corpus, found = Path(folder, "corpus"), Path(folder, "found")
        corpus.mkdir()
        found.mkdir()
        for number, seed in enumerate(SEEDS[name]):
            (corpus / str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=20000", "-timeout=60", "-rss_limit_mb=1024"]
        argv = [
            sys.executable,
            "-m",
            "tests.fuzz",
            "--target",
            name,
            str(corpus),
            f"-artifact_prefix={found}/",
            *options,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
        sys.stdout.write(f"{name}: {_counted(done.stderr)}\n")
        for path in found.iterdir():
            sys.stdout.write(f"{name} fails on {path.read_bytes()!r}\n{done.stdout}{done.stderr[-3000:]}\n")
        return done.returncode == 0


def _counted(said: str) -> str:
    """The fuzzer's last line: how many inputs it has tried."""
    return next((line for line in reversed(said.splitlines()) if line.startswith("Done ")), said[-3000:])


def fuzz(name: str, arguments: list[str]) -> None:
    atheris.Setup([sys.argv[0], *arguments], properties.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))
