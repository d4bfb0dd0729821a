"""Whose page opens a console's WebSocket: the one question that both doors ask before they let anyone in."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host


def is_ours(origins: Sequence[str], hosts: Sequence[str], *, secure: bool) -> bool:
    """A WebSocket carries the cookies of its target, whoever's page opens it; only the Origin header tells whose.

    It must be there once, and be the very host that is asked for (a host of ours), or one that the settings trust.
    `origins` and `hosts` are all values of these two headers, `secure` is whether the socket itself came by TLS.
    """
    if len(origins) != 1 or len(hosts) != 1:
        return False
    if origins[0] in settings.CSRF_TRUSTED_ORIGINS:
        return True
    origin = urlsplit(origins[0])
    # A page without TLS must not open a socket with it; the reverse is a proxy that ends TLS in front of us.
    schemes = {"https"} if secure else {"http", "https"}
    domain, _port = split_domain_port(hosts[0])
    return (
        origin.scheme in schemes
        and origin.netloc.lower() == hosts[0].lower()
        and validate_host(domain, settings.ALLOWED_HOSTS)
    )
