"""How benchmarks are listed and shown."""

import json
from pathlib import Path

import pytest
from tools import bench

from tests.bench.rows import Row, table, to_json

ROWS = [
    Row("relay", 2916.4, "MB/s", peer="websockify", peer_value=1306, ratio=2.233, target=">= 1.5", ok=True),
    Row("start", 0.25, "s"),
]


def test_the_table_is_aligned() -> None:
    lines = table(ROWS).splitlines()
    assert lines[0].split() == ["name", "value", "unit", "peer", "peer's", "ratio", "target", "ok", "spread"]
    assert lines[1].split() == ["relay", "2,916", "MB/s", "websockify", "1,306", "2.23", ">=", "1.5", "yes"]
    assert lines[2].split() == ["start", "0.25", "s"]
    assert lines[1].index("MB/s") == lines[2].index("s", 6) == lines[0].index("unit")


def test_the_rows_are_whole_in_json() -> None:
    assert json.loads(to_json(ROWS))[1] == {
        "name": "start",
        "value": 0.25,
        "unit": "s",
        "peer": "",
        "peer_value": None,
        "ratio": None,
        "target": "",
        "ok": None,
        "spread": None,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    (tmp_path / "relay.py").write_text('"""How fast the relay is.\n\nMore.\n"""\nraise SystemExit\n', encoding="utf-8")
    (tmp_path / "rows.py").write_text('"""Not a benchmark."""\n', encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_without_a_name_they_are_listed_and_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([]) == 0
    assert capsys.readouterr().out.split() == ["relay", "How", "fast", "the", "relay", "is."]


@pytest.mark.usefixtures("folder")
def test_an_unknown_name_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["speed"]) == 2
    assert capsys.readouterr().err == "There is no benchmark 'speed'; there are: relay.\n"
