"""Tokens: what lets a program act as a person, until it expires or is revoked.

A token is 256 random bits behind a prefix by which people and scanners of secrets know it. The database has its SHA-256
only: of so many random bits nobody finds the origin, so a slow hash would add nothing.
"""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import ApiToken, Project, User
from portal.accounts.selectors import roles_of
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from portal.lib.secrets import TOKEN_PREFIX, hash_of

HINT_CHARACTERS: Final = len(TOKEN_PREFIX) + 4
MOST_TOKENS: Final = 50
LONGEST: Final = dt.timedelta(days=366)
# Written down no oftener: each call would be a write otherwise.
_USE_NOTED_EVERY: Final = dt.timedelta(minutes=1)


def make_token(
    user: User,
    *,
    actor: User,
    name: str,
    scope: ApiToken.Scope,
    lifetime: dt.timedelta,
    project: Project | None = None,
    request_ip: str | None = None,
) -> tuple[ApiToken, str]:
    """A token's row and the token itself, which nobody can see again. For oneself only."""
    _own_only(user, actor)
    name = name.strip()
    if not name or len(name) > 100:
        raise InvalidError(_("Give the token a name of at most 100 characters."), field="name")
    if not dt.timedelta(0) < lifetime <= LONGEST:
        raise InvalidError(_("A token lasts for a year at most."), field="lifetime")
    if project is not None and project.pk not in roles_of(user):
        # An operator's office reaches everywhere, and a token for one project carries no office.
        raise InvalidError(_("A token for one project needs a role of yours in it."), field="project")
    if user.api_tokens.count() >= MOST_TOKENS:
        raise ConflictError(_("You have %(most)s tokens already. Revoke one first.") % {"most": MOST_TOKENS})
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    try:
        with transaction.atomic():
            token = ApiToken.objects.create(
                user=user,
                name=name,
                token_hash=hash_of(secret),
                hint=secret[:HINT_CHARACTERS],
                scope=scope,
                project=project,
                expires_at=timezone.now() + lifetime,
            )
            detail = {"scope": str(scope), "until": token.expires_at.isoformat(timespec="seconds")}
            audit.record(actor, "token.made", token, detail=detail, request_ip=request_ip)
    except IntegrityError as error:
        raise ConflictError(
            _("You have a token named “%(name)s” already; choose another name.") % {"name": name}, field="name"
        ) from error
    return token, secret


@transaction.atomic
def revoke_token(token: ApiToken, *, actor: User, request_ip: str | None = None) -> None:
    """It opens nothing any more; screens and streams that were opened with it end within seconds."""
    _own_only(token.user, actor)
    audit.record(actor, "token.revoked", token, request_ip=request_ip)
    token.delete()


def tokens_of(user: User) -> QuerySet[ApiToken]:
    """The person's tokens, newest first, those that have expired too."""
    return ApiToken.objects.filter(user=user).select_related("project", "user")


def token_for(user: User, pk: UUID | str) -> ApiToken:
    token = tokens_of(user).filter(pk=pk).first()
    if token is None:
        raise NotFoundError
    return token


def living_tokens() -> QuerySet[ApiToken]:
    """Those that let in at this moment."""
    return ApiToken.objects.filter(expires_at__gt=timezone.now(), user__is_active=True).select_related("user")


def token_of(secret: str) -> ApiToken | None:
    """The row behind a token that was sent; None when it is unknown, too old, revoked, or its person is locked out."""
    return living_tokens().filter(token_hash=hash_of(secret)).first() if secret.startswith(TOKEN_PREFIX) else None


def person_of(token: ApiToken) -> User:
    """Who acts by the token, with no more than it allows. The row of the person is never saved from here."""
    user: User = token.user
    if token.project_id is not None:
        user.limited_to = token.project_id
        user.is_staff = user.is_superuser = False
    return user


def note_use(token: ApiToken, *, request_ip: str | None) -> None:
    now = timezone.now()
    if token.used_at is not None and token.used_ip == request_ip and now - token.used_at < _USE_NOTED_EVERY:
        return
    rows = ApiToken.objects.filter(Q(used_at=None) | Q(used_at__lt=now) | ~Q(used_ip=request_ip), pk=token.pk)
    rows.update(used_at=now, used_ip=request_ip)


def _own_only(user: User, actor: User) -> None:
    if user.pk != actor.pk or not actor.is_active:
        raise ForbiddenError(_("People manage their own tokens only."))
    if actor.limited_to is not None:
        raise ForbiddenError(_("A token for one project may not manage tokens."))
