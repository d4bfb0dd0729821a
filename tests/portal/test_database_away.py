"""A real PostgreSQL goes away under a real web server, and comes back: people get a word for it, never a traceback."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from environ import Env

from tests.support import postgres
from tests.support.product import free_port

ROOT = Path(__file__).resolve().parents[2]
COOKIE = "casement_session=whoever0000000000000000000000000"
# Of these, who asks is looked up before the view; the sign-in page's own view is the first to ask for anything.
PAGES = ["/machines/", "/admin/", "/"]


@dataclass(frozen=True)
class Server:
    port: int
    database: str
    log: Path

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, headers={"Cookie": COOKIE, **headers})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with postgres.private_postgres() as url:
        environment = {
            "PATH": os.environ["PATH"],
            "CASEMENT_HOME": str(home),
            "DATABASE_URL": url,
            "REDIS_URL": f"unix://{home}/none.sock",
            "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz" * 2,
            "LOG_FORMAT": "json",
            # Static files are those of the sources, so none have to be collected.
            "CASEMENT_TESTING": "1",
        }
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
        port, log = free_port(), home / "web.log"
        argv = ["-m", "uvicorn", "portal.asgi:application", "--port", str(port), "--lifespan", "off", "--no-access-log"]
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *argv], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            found = Server(port, url, log)
            _wait_for(found, "/healthz", 200)
            yield found
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(server: Server, path: str, status: int) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            if server.get(path)[0] == status:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.1)


def test_what_people_get_while_it_is_away_and_after(server: Server) -> None:
    assert server.get("/machines/")[0] == 302
    postgres.stop(server.database)
    try:
        for page in PAGES:
            status, headers, body = server.get(page)
            assert (page, status) == (page, 503)
            assert headers["retry-after"] == "5"
            assert "set-cookie" not in headers
            assert "cannot reach its database" in body
            assert "Traceback" not in body
        status, headers, body = server.get("/machines/", Accept="application/json")
        assert (status, headers["content-type"]) == (503, "application/json")
        assert '"code": "unavailable"' in body
        status, _headers, body = server.get("/machines/", **{"HX-Request": "true"})
        assert status == 503
        assert "data-error-text" in body and "<html" not in body
        assert server.get("/healthz")[0] == 200, "the process is well: nobody should restart it"
        status, _headers, body = server.get("/readyz")
        assert status == 503
        assert '"database": "away"' in body
    finally:
        postgres.start(server.database)
    _wait_for(server, "/machines/", 302)
    log = server.log.read_text()
    assert "the database is away" in log
    assert "Traceback" not in log
    assert all(line.startswith("{") for line in log.splitlines()[2:]), "uvicorn's lines, too, once Django is set up"


def test_requests_share_a_few_connections(server: Server) -> None:
    """PostgreSQL begins each with empty caches, which every page would wait for."""
    with _connected(server) as connection:
        ours = "SELECT pid FROM pg_stat_activity WHERE usename = 'casement' AND pid != pg_backend_pid()"
        seen = set()
        for _request in range(12):
            assert server.get("/machines/")[0] == 302
            seen |= {pid for (pid,) in connection.execute(ours).fetchall()}
    assert 0 < len(seen) <= 4, seen


def test_who_finds_all_connections_taken_waits_for_one(server: Server) -> None:
    """Twice as many people want what is locked as there are connections, for longer than a database may be away."""
    with _connected(server) as holder, ThreadPoolExecutor(80) as people:
        holder.autocommit = False
        holder.execute("LOCK TABLE django_session IN ACCESS EXCLUSIVE MODE")
        asked = [people.submit(server.get, "/machines/") for _person in range(80)]
        done = wait(asked, timeout=5).done
        holder.rollback()
        assert [one.result()[0] for one in done] == [], "nobody is told that it is away"
        assert {one.result()[0] for one in asked} == {302}


def _connected(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    settings = Env.db_url_config(server.database)
    return psycopg.connect(host=settings["HOST"], user="casement", dbname=settings["NAME"], autocommit=True)


def test_a_fault_of_ours_is_no_outage(server: Server) -> None:
    """A table that is missing is not the database's being away; people must not be told to wait for it."""
    with _connected(server) as connection:
        connection.execute("ALTER TABLE django_session RENAME TO gone")
        try:
            assert server.get("/machines/")[0] == 500
        finally:
            connection.execute("ALTER TABLE gone RENAME TO django_session")
