"""The tools of bin/ are no package of the product; tests reach them by the path that bin/run gives them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bin"))

from tools.options import Options, parse  # noqa: E402


@pytest.fixture
def make_options(tmp_path: Path) -> Callable[..., Options]:
    """Options as bin/run would see them, in a home of the test's own."""

    def make(*argv: str, is_root: bool = False, **environ: str) -> Options:
        return parse(
            argv, {"CASEMENT_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", **environ}, is_root=is_root
        )

    return make
