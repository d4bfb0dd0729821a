"""The tests' own PostgreSQL starts, answers and leaves nothing behind."""

from pathlib import Path

import environ
import psycopg
import pytest

from tests.support.postgres import binaries, private_postgres


@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")
def test_it_answers_at_the_address_that_django_understands() -> None:
    with private_postgres() as url:
        settings = environ.Env.db_url_config(url)
        assert settings["ENGINE"] == "django.db.backends.postgresql"
        with psycopg.connect(host=settings["HOST"], user=settings["USER"], dbname=settings["NAME"]) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    assert not Path(settings["HOST"]).exists()
