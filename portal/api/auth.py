"""Who asks: the person of the token in the Authorization header, and nobody else.

Cookies let nobody in here, not even to read. A page of another site can make a browser send its cookies along, and
cannot make it send this header. So the API needs no defence against forged requests, and has none to get wrong.
"""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from ninja.security import HttpBearer

from portal.accounts.http import client_ip
from portal.accounts.models import ApiToken
from portal.accounts.tokens import note_use, person_of, token_of
from portal.api import rates
from portal.api.errors import UnauthenticatedError
from portal.lib import log


class TokenAuth(HttpBearer):
    def __call__(self, request: HttpRequest) -> ApiToken:
        # Whoever the session says it is, is not who asks.
        request.user = AnonymousUser()
        token = super().__call__(request)
        if not isinstance(token, ApiToken):
            raise UnauthenticatedError
        return token

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken | None:
        found = token_of(token)
        if found is None:
            return None
        request.user = person_of(found)
        log.bind(actor=found.user_id, token=found.pk)
        rates.count(request, found.pk)
        note_use(found, request_ip=client_ip(request))
        return found


def token_in(request: HttpRequest) -> ApiToken:
    """The token that let this request in."""
    token = getattr(request, "auth", None)
    if not isinstance(token, ApiToken):
        raise UnauthenticatedError
    return token
