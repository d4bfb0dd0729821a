import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import uvloop

from tests.support.redis import redis_db, redis_url

__all__ = ["redis_db", "redis_url"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The stream uses the connection itself, which uvicorn's two event loops make differently."""
    if item.path.name == "test_stream.py":
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path for a UNIX socket; pytest's own directories may be too long for one."""
    with TemporaryDirectory(prefix="casement-vnc-") as directory:
        yield str(Path(directory) / "vnc.sock")
