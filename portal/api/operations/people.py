"""Who asks: oneself, one's SSH keys and tokens."""

from typing import Final
from uuid import UUID

from django.http import HttpRequest

from portal.accounts import services, tokens
from portal.accounts.http import client_ip, person
from portal.accounts.models import ApiToken, SshKey
from portal.accounts.selectors import key_for, keys_of
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.paging import Listed
from portal.api.schemas import KeyIn, KeyOut, MeOut, TokenOut

TAG: Final = "You"


@operation("GET", "me", tag=TAG, answers=MeOut)
def show_me(request: HttpRequest) -> MeOut:
    """Who you are here, and by which token."""
    return MeOut.of(person(request), token_in(request))


@operation("GET", "keys", tag=TAG, answers=Listed[KeyOut], pages=("accounts:keys",))
def list_keys(request: HttpRequest) -> Listed[KeyOut]:
    """Your SSH keys, the one used last first."""
    return Listed[KeyOut](items=[KeyOut.of(key) for key in keys_of(person(request))], next=None)


def show_key(request: HttpRequest, pk: int) -> KeyOut:
    return KeyOut.of(key_for(person(request), pk))


@operation(
    "POST",
    "keys",
    tag=TAG,
    answers=KeyOut,
    status=201,
    pages=("accounts:keys",),
    personal=True,
    links={"delete_key": {"pk": "id"}},
)
def add_key(request: HttpRequest, body: KeyIn) -> KeyOut:
    """Add an SSH key of yours."""
    user = person(request)
    key = services.add_key(user, actor=user, public_key=body.public_key, name=body.name, request_ip=client_ip(request))
    return KeyOut.of(key)


@operation(
    "DELETE",
    "keys/{int:pk}",
    tag=TAG,
    status=204,
    pages=("accounts:key-delete",),
    personal=True,
    guards=Guard(SshKey, show_key),
)
def delete_key(request: HttpRequest, pk: int) -> None:
    """Delete an SSH key of yours; machines that hold it keep it."""
    services.delete_key(key_for(person(request), pk), actor=person(request), request_ip=client_ip(request))


@operation("GET", "tokens", tag=TAG, answers=Listed[TokenOut], pages=("accounts:tokens",))
def list_tokens(request: HttpRequest) -> Listed[TokenOut]:
    """Your tokens, newest first. They are made on your page only: a stolen one makes no other."""
    return Listed[TokenOut](items=[TokenOut.of(one) for one in tokens.tokens_of(person(request))], next=None)


def show_token(request: HttpRequest, pk: UUID) -> TokenOut:
    return TokenOut.of(tokens.token_for(person(request), pk))


@operation(
    "DELETE",
    "tokens/{uuid:pk}",
    tag=TAG,
    status=204,
    pages=("accounts:token-revoke",),
    personal=True,
    guards=Guard(ApiToken, show_token),
)
def revoke_token(request: HttpRequest, pk: UUID) -> None:
    """Revoke a token of yours, this one too."""
    tokens.revoke_token(tokens.token_for(person(request), pk), actor=person(request), request_ip=client_ip(request))
