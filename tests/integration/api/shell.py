"""A person's terminal, in which the `casement` command is run as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 120
COMMAND = (sys.executable, "-W", "error", "-m", "portal.cli")


@dataclass
class Shell:
    """A person's terminal: where the command keeps its settings."""

    home: Path
    url: str
    secret: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
        return {**kept, **more}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment(**environment),
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Whatever a test that failed has left running."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def run(self, *arguments: str, typed: str = "", **environment: str) -> tuple[int, str, str]:
        """Exit code, output, and what was said beside it."""
        process = self.start(*arguments, **environment)
        out, said = process.communicate(typed, timeout=LIMIT_S)
        return process.returncode, out, said

    def data(self, *arguments: str) -> Any:
        code, out, said = self.run("-o", "json", *arguments)
        assert code == 0, said
        return json.loads(out)

    def sign_in(self) -> None:
        code, _out, said = self.run("login", self.url, "--name", "work", typed=f"{self.secret}\n")
        assert (code, "Signed in to work as alice" in said) == (0, True), said
