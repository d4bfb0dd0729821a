import time
from pathlib import Path

import pytest

from workers.imaging.commands import Limits, run
from workers.imaging.errors import CommandFailed


def test_output_comes_line_by_line() -> None:
    seen: list[str] = []
    assert run(["printf", "a\\nb\\rc\\n"], on_line=seen.append) == "a\nb\nc"
    assert seen == ["a", "b", "c"]


def test_a_failure_tells_tool_and_code_but_no_path(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["ls", str(tmp_path / "nothing")])
    assert caught.value.message == "ls failed with exit code 2."
    assert "nothing" in caught.value.log_tail


def test_a_tool_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(CommandFailed):
        run(["casement-no-such-tool"])


def test_the_time_limit_ends_the_whole_group() -> None:
    started = time.monotonic()
    with pytest.raises(CommandFailed, match="longer than"):
        run(["sh", "-c", "sleep 60 & wait"], limits=Limits(timeout=0.3))
    assert time.monotonic() - started < 5


def test_an_exception_in_the_watcher_ends_the_tool(tmp_path: Path) -> None:
    def cancel(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(["sh", "-c", "echo $$; exec sleep 60"], on_line=cancel)
    assert not Path("/proc", str(caught.value)).exists()


def test_the_workers_secrets_are_not_in_the_tools_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    assert "secret" not in run(["env"])


def test_standard_input_is_handed_over() -> None:
    assert run(["cat"], stdin="label: gpt\n") == "label: gpt"


def test_limits_reach_the_tool() -> None:
    assert run(["sh", "-c", "ulimit -v"], limits=Limits(address_space=64 * 1024 * 1024)) == "65536"
