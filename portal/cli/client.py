"""Talking to the API: what comes back as data, what went wrong as one sentence."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

import httpx

from portal.cli.config import Portal
from portal.cli.errors import UNREACHABLE, CliError, of_status

TIMEOUT_S: Final = 30.0
TRIES: Final = 4
# Longer than this nobody waits before a terminal without being told why.
LONGEST_PAUSE_S: Final = 65.0
_AGAIN: Final = frozenset({429, 502, 503, 504})

Json = dict[str, Any]


class Client:
    """One portal, as the person of the token. Redirects are not followed: they would take the token along."""

    def __init__(self, portal: Portal, *, transport: httpx.BaseTransport | None = None) -> None:
        self.portal = portal
        self._http = httpx.Client(
            base_url=f"{portal.url}/api/v1/",
            headers={"Authorization": f"Bearer {portal.token}", "User-Agent": "casement"},
            timeout=TIMEOUT_S,
            verify=_trusted(portal),
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """`path` may have a query of its own if no `params` are given: httpx puts the one in the other's place."""
        return self._asked("GET", path, params=_given(params) or None).json()

    def every(self, path: str, **params: Any) -> Iterator[Json]:
        """Every item of a list, over all of its pages."""
        cursor: str | None = None
        while True:
            page = self.get(path, cursor=cursor, **params)
            yield from page["items"]
            cursor = page["next"]
            if not cursor:
                return

    def send(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Any:
        """A change. A POST carries a key, so that trying again after a lost answer does nothing twice."""
        keyed = {"Idempotency-Key": uuid4().hex} if method == "POST" else {}
        answer = self._asked(method, path, json=body, headers={**keyed, **(headers or {})})
        return answer.json() if answer.content else None

    def add_piece(self, path: str, piece: bytes, offset: int) -> Any:
        """Not tried again here: only whoever knows how much has arrived knows where to go on."""
        headers = {"Content-Type": "application/octet-stream"}
        return self._once("PATCH", path, content=piece, params={"offset": offset}, headers=headers).json()

    @contextmanager
    def following(self, path: str) -> Iterator[Iterator[tuple[str, Json]]]:
        """Server-sent events: the name and data of each."""
        try:
            with self._http.stream("GET", path, timeout=httpx.Timeout(TIMEOUT_S)) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal(answer)
                yield _events(answer)
        except httpx.HTTPError as error:
            raise _unreachable(self.portal, error) from error

    def _asked(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Tried again where the portal says when to come back, or did not answer and trying again does no harm."""
        harmless = method in {"GET", "PUT", "DELETE"} or "Idempotency-Key" in (options.get("headers") or {})
        for attempt in range(1, TRIES + 1):
            last = attempt == TRIES or not harmless
            try:
                answer = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                if last:
                    raise _unreachable(self.portal, error) from error
                time.sleep(2**attempt / 10)
                continue
            if last or answer.status_code not in _AGAIN or _pause(answer, attempt) > LONGEST_PAUSE_S:
                return _checked(answer)
            time.sleep(_pause(answer, attempt))
        raise AssertionError("the last try gives an answer or an error")

    def _once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return _checked(self._http.request(method, path, **options))
        except httpx.HTTPError as error:
            raise _unreachable(self.portal, error) from error


def _trusted(portal: Portal) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=portal.ca) if portal.ca else True


def _given(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value not in {None, ""}}


def _pause(answer: httpx.Response, attempt: int) -> float:
    try:
        return float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return float(2**attempt)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    raise _refusal(answer)


def _refusal(answer: httpx.Response) -> CliError:
    """The portal's own sentence, if it is the portal that answered."""
    try:
        problem = answer.json()
        return of_status(answer.status_code, str(problem["detail"]), str(problem["code"]))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return of_status(answer.status_code, f"{answer.url} answered {answer.status_code}: is it a Casement?", "")


def _unreachable(portal: Portal, error: Exception) -> CliError:
    return CliError(f"{portal.url} does not answer: {str(error) or type(error).__name__}", UNREACHABLE)


def _events(answer: httpx.Response) -> Iterator[tuple[str, Json]]:
    name = "message"
    for line in answer.iter_lines():
        kind, _, value = line.partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)
