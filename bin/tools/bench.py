"""`bin/bench`: list the benchmarks of tests/bench, or run one; a table for people, JSON rows for machines."""

import argparse
import ast
import importlib
import sys
from pathlib import Path

from tools.options import ROOT

FOLDER = ROOT / "tests" / "bench"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bin/bench", description="Run a benchmark, or list them all.")
    parser.add_argument("name", nargs="?", help="one of those that are listed without a name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args(argv)
    files = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in {"__init__", "rows"}]
    known = {path.stem.replace("_", "-"): path for path in files}
    if arguments.name is None:
        for name, path in known.items():
            print(f"{name:20} {summary(path)}")
        return 0
    if arguments.name not in known:
        print(f"There is no benchmark {arguments.name!r}; there are: {', '.join(known) or 'none'}.", file=sys.stderr)
        return 2
    # Benchmarks need more than the standard library, which is all that listing them may take.
    rows = importlib.import_module("tests.bench.rows")
    results = importlib.import_module(f"tests.bench.{known[arguments.name].stem}").run()
    print(rows.table(results))
    if arguments.json is not None:
        arguments.json.write_text(rows.to_json(results), encoding="utf-8")
    return 0 if all(row.ok is not False for row in results) else 1


def summary(path: Path) -> str:
    """The first line of a module's docstring, without running the module."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
