"""What a log line is about: ids that are bound once and then stand in every line, and the formats of the lines.

The ids are those of `request`, `actor`, `token` (its row's), `machine`, `job` and `host`; a secret is never bound.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_bound: ContextVar[Mapping[str, str]] = ContextVar("casement_log", default={})  # noqa: B039 - it is never changed


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Every line in here carries these ids; empty ones are left out. What is bound inside ends with it, too."""
    token = _bound.set(_with(ids))
    try:
        yield
    finally:
        _bound.reset(token)


def bind(**ids: object) -> None:
    """Add ids until the surrounding `bound`, or the task that calls this, ends."""
    _bound.set(_with(ids))


def _with(ids: Mapping[str, object]) -> Mapping[str, str]:
    return {**_bound.get(), **{name: str(value) for name, value in ids.items() if value}}


# What is a secret by its looks, whoever wrote it into a line: nothing of ours does, but a library's error may hold a
# request, and an address a password.
_SECRETS = re.compile(
    r"(casement_(?=[\w-]{30})|casement\.ticket\.|whsec_|\b[Bb]earer (?=\S{16})|://[^\s/@:]*:(?=[^\s/@]+@))"
    r"[\w.~+/=!$&'*%-]+"
)


def scrubbed(text: str) -> str:
    """Without what looks like a token, a ticket, a webhook's secret, or a password in an address."""
    return _SECRETS.sub(r"\1***", text)


class Lines(logging.Formatter):
    """For people: the message, then what is bound."""

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name} {message}", style="{")

    def format(self, record: logging.LogRecord) -> str:
        return scrubbed(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name}={value}" for name, value in _bound.get().items())
        return f"{super().formatMessage(record)} [{ids}]" if ids else super().formatMessage(record)


class JsonLines(logging.Formatter):
    """For machines: one JSON object a line, with `exc_info` where there is a traceback.

    What callers pass as `extra` is left out: Django's holds the whole request, with its cookies.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_bound.get(),
        }
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack_info"] = record.stack_info
        return scrubbed(json.dumps(line, ensure_ascii=False))


FORMATS = {"line": Lines, "json": JsonLines}
