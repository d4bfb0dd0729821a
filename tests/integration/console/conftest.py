from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path for a UNIX socket; pytest's own directories may be too long for one."""
    with TemporaryDirectory(prefix="casement-vnc-") as directory:
        yield str(Path(directory) / "vnc.sock")
