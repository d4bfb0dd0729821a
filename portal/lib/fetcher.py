"""Fetches from addresses that people typed: images by URL, and webhooks. Whoever needs such an address goes this way.

What stands in a URL may lead into the portal's own network, so:

- https only, certificates checked, no name or password in the URL, no proxy from the environment;
- the name is resolved once, every address of it must be a public one, and the connection goes to one of these and to no
  other: what the name means a moment later is not asked. SNI, certificate and Host are those of the name;
- a redirect is followed only where the caller allows it, at most `Limits.redirects` times, each by all of these rules;
- bytes, seconds from the first to the last, seconds of silence and the least speed are limited. The end of the time
  shuts the socket, wherever the other side dawdles: in the handshake, in its headers or in the body.

`SETTINGS`: FETCH_PRIVATE_NETWORKS are networks that are let in although they are private.
"""

from __future__ import annotations

import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import urllib3.exceptions
from django.conf import settings
from django.utils.translation import gettext as _
from urllib3 import HTTPResponse
from urllib3.connection import HTTPSConnection

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

URL_MAX: Final = 2000
PIECE: Final = 256 * 1024
_SPEED_OVER_S: Final = 30.0
_USER_AGENT: Final = "Casement"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class FetchError(Exception):
    """It was not fetched. `message` is safe to show; `retryable`: it may go well another time."""

    retryable = True

    def __init__(self, message: str, *, code: str = "unreachable") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class RefusedError(FetchError):
    """The address is not one that the portal goes to, or what came back is more than it takes."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. `total_s` runs from the first look at the name to the last byte, redirects included."""

    max_bytes: int
    total_s: float
    connect_s: float = 10.0
    silence_s: float = 20.0
    redirects: int = 5
    least_bytes_per_s: int = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says, once it is found to be fit."""

    host: str
    port: int
    path: str


@dataclass(slots=True)
class Answer:
    """A response whose body has not been read yet. Header names are in lower case."""

    url: str
    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]

    @property
    def length(self) -> int | None:
        """What the other side says that its body has, in bytes."""
        return number_of(self.headers.get("content-length", ""))


def number_of(text: str) -> int | None:
    """A number as headers have them; None for what is none, or is longer than any file is."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def target_of(url: str) -> Target:
    """RefusedError unless the URL is one that may be gone to at all; what its name leads to is looked at later."""
    if len(url) > URL_MAX or re.search(r"[^\x21-\x7e]|\\", url):
        raise RefusedError(_("This address is too long, or has blanks or characters that no address has."), code="url")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise RefusedError(_("This is not an address."), code="url") from error
    if parts.scheme != "https":
        raise RefusedError(_("Only addresses that begin with https:// are gone to."), code="not-https")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise RefusedError(_("An address must not hold a user name or a password."), code="credentials")
    if not host or port == 0 or not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise RefusedError(_("This address names no host."), code="url")
    path = parts.path or "/"
    return Target(host, port or 443, f"{path}?{parts.query}" if parts.query else path)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise RefusedError(_("The address leads on to something that is no address."), code="url") from error


def is_public(address: Address) -> bool:
    """True for what can be reached from anywhere. An address that holds another one is what the other one is."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_V6 and address.is_global and address not in _SIX_TO_FOUR


def system_resolve(host: str, port: int) -> Sequence[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Fetcher:
    """`private`: networks that are let in although they are not public. `trust` holds the authorities to believe.

    A test gives a resolver of its own; everything else is as it is in use.
    """

    def __init__(
        self,
        *,
        private: Sequence[Network] = (),
        resolve: Resolve = system_resolve,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._private = tuple(private)
        self._resolve = resolve
        self._trust = trust

    @contextmanager
    def get(self, url: str, *, limits: Limits, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """The answer at the end of all redirects, whatever its status. FetchError while it or its body comes."""
        clock = _Clock(limits)
        for _hop in range(limits.redirects + 1):
            with self._asked("GET", url, clock, headers=headers) as answer:
                if answer.status not in _REDIRECTS or "location" not in answer.headers:
                    yield answer
                    return
                url = _joined(url, answer.headers["location"])
        raise RefusedError(_("The address leads on to others too many times."), code="redirects")

    def post(self, url: str, body: bytes, *, limits: Limits, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """The status and the first `max_bytes` bytes of the answer. A redirect is not followed: it is an answer."""
        clock = _Clock(replace(limits, least_bytes_per_s=0))
        with self._asked("POST", url, clock, headers=headers, body=body) as answer:
            found = b""
            with suppress(RefusedError):  # That there is more does not matter.
                for piece in answer.pieces:
                    found += piece
            return answer.status, found[: limits.max_bytes]

    @contextmanager
    def _asked(
        self, method: str, url: str, clock: _Clock, *, headers: Mapping[str, str] | None, body: bytes | None = None
    ) -> Iterator[Answer]:
        target = target_of(url)
        connection = _Pinned(target, self._addresses(target, clock), clock, self._trust or _system_trust())
        sent = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", "Connection": "close", **(headers or {})}
        response: HTTPResponse | None = None
        try:
            with _told(clock):
                connection.request(
                    method, target.path, body=body, headers=sent, preload_content=False, decode_content=False
                )
                response = connection.getresponse()
            yield Answer(url, response.status, _lower(response.headers), _pieces(response, clock))
        finally:
            connection.cut()
            if response is not None:
                response.close()
            connection.close()

    def _addresses(self, target: Target, clock: _Clock) -> list[Address]:
        """All that the name means now. One that is not public refuses them all: it is there on purpose."""
        found = _within(lambda: self._resolve(target.host, target.port), clock.left())
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in dict.fromkeys(found)]
        if not addresses:
            raise FetchError(_("The name %(host)s is not known.") % {"host": target.host}, code="unknown-host")
        for address in addresses:
            if not is_public(address) and not any(address in network for network in self._private):
                raise RefusedError(
                    _("%(host)s is in a private network; the portal does not go there.") % {"host": target.host},
                    code="private",
                )
        return addresses


def fetcher() -> Fetcher:
    """The one for use, by the settings."""
    return Fetcher(private=settings.FETCH_PRIVATE_NETWORKS)


def _system_trust() -> ssl.SSLContext:
    """The system's authorities; OpenSSL's own variables (SSL_CERT_FILE) name others."""
    return ssl.create_default_context()


class _Clock:
    """The time that is left for all of it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._ends = time.monotonic() + limits.total_s

    def left(self) -> float:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise _too_slow()
        return left

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._ends


def _too_slow() -> FetchError:
    return FetchError(_("The other side is too slow: its time is over."), code="timeout")


class _Pinned(HTTPSConnection):
    """Goes to the given addresses only; the host's name is for SNI, the certificate and the Host header."""

    def __init__(self, target: Target, addresses: Sequence[Address], clock: _Clock, trust: ssl.SSLContext) -> None:
        super().__init__(
            target.host, target.port, timeout=clock.limits.silence_s, ssl_context=trust, cert_reqs=ssl.CERT_REQUIRED
        )
        self._addresses = addresses
        self._clock = clock
        self._guard: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def _new_conn(self) -> socket.socket:
        """urllib3 has this hook for whoever connects in another way, as its own SOCKS support does."""
        last: OSError | None = None
        for address in self._addresses:
            wait_s = min(self._clock.limits.connect_s, self._clock.left())
            try:
                connected = socket.create_connection((str(address), self.port or 443), wait_s)
            except OSError as error:
                last = error
                continue
            connected.settimeout(self._clock.limits.silence_s)
            self._watch(connected)
            return connected
        raise last or OSError("no address")

    def _watch(self, connected: socket.socket) -> None:
        """A descriptor of our own shuts the connection when the time is over, whatever TLS made of the first."""
        self._guard = connected.dup()
        self._timer = threading.Timer(self._clock.left(), self._shut)
        self._timer.daemon = True
        self._timer.start()

    def _shut(self) -> None:
        guard = self._guard
        if guard is not None:
            with suppress(OSError):
                guard.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Nothing more is wanted, even of a body that is still on its way."""
        if self._timer is not None:
            self._timer.cancel()
        self._shut()
        if self._guard is not None:
            self._guard.close()
            self._guard = None


def _pieces(response: HTTPResponse, clock: _Clock) -> Iterator[bytes]:
    """The body as it comes, at most PIECE bytes at a time."""
    limits, done = clock.limits, 0
    since, since_bytes = time.monotonic(), 0
    while True:
        with _told(clock):
            piece = response.read1(PIECE, decode_content=False)
        if not piece:
            if response.length_remaining:
                raise FetchError(_("The connection broke off half-way."), code="cut-off")
            clock.left()  # A socket that was shut for its time looks like one that came to its end.
            return
        done += len(piece)
        if done > limits.max_bytes:
            yield piece[: len(piece) - (done - limits.max_bytes)]
            raise RefusedError(_("It is larger than what is allowed here."), code="too-large")
        yield piece
        passed = time.monotonic() - since
        if passed > _SPEED_OVER_S:
            if done - since_bytes < limits.least_bytes_per_s * passed:
                raise _too_slow()
            since, since_bytes = time.monotonic(), done


@contextmanager
def _told(clock: _Clock) -> Iterator[None]:
    """Whatever goes wrong on the way, as one kind of error. What a library says may hold addresses: it is not shown."""
    try:
        yield
    except FetchError:
        raise
    except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError) as error:
        if clock.is_over:
            raise _too_slow() from error
        raise _in_words(error) from error


def _in_words(error: Exception) -> FetchError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError | ssl.CertificateError):
            return FetchError(_("Its certificate is not one that is trusted, or TLS failed."), code="tls")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return FetchError(_("The other side does not answer."), code="timeout")
    if isinstance(error, http.client.HTTPException | urllib3.exceptions.HTTPError | ValueError):
        return FetchError(_("The answer is not HTTP, or it broke off."), code="bad-answer")
    return FetchError(_("The other side cannot be reached."), code="unreachable")


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _within(work: Callable[[], Sequence[str]], seconds: float) -> Sequence[str]:
    """The system's resolver has no time limit of its own."""
    found: queue.SimpleQueue[Sequence[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put(work())
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    try:
        result = found.get(timeout=seconds)
    except queue.Empty:
        raise _too_slow() from None
    if isinstance(result, OSError | UnicodeError):
        raise FetchError(_("The host's name is not known."), code="unknown-host") from result
    return result
