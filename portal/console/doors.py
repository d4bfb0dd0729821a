"""What a page needs to open a screen: a ticket, and where to bring it."""

from __future__ import annotations

import json
import logging
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from django.urls import get_script_prefix
from redis.exceptions import RedisError

from portal.accounts.models import User
from portal.console import tickets
from portal.console.selectors import best_target_for
from portal.console.tickets import Claim, Kind, Mode
from portal.errors import PortalError

logger = logging.getLogger(__name__)


def door(request: HttpRequest, pk: UUID, wanted: Mode, kind: Kind = Kind.SCREEN) -> dict[str, str]:
    """`{"ticket", "path", "mode", "session"}` of a machine for this browser. A PortalError says why there is none."""
    user = request.user
    assert isinstance(user, User)  # noqa: S101 - LoginRequiredMiddleware lets nobody else through
    mode, _target = best_target_for(user, pk, wanted, kind)
    claim = Claim(user.pk, tickets.session_hash(request.session.session_key), pk, mode, kind=kind)
    return {"ticket": tickets.issue(claim), "path": _path(), "mode": mode, "session": str(claim.number)}


def door_ahead(request: HttpRequest, pk: UUID, wanted: Mode) -> str:
    """As JSON, for `{% screen_ahead %}`: a page that brings it opens its screen while its scripts load.

    Empty when there is none: then the page asks for it and says why. Only for responses that nobody keeps.
    """
    try:
        return json.dumps(door(request, pk, wanted) | {"machine": str(pk)})
    except PortalError:
        return ""
    except RedisError:
        logger.warning("no ticket with the page: Redis does not answer")
        return ""


def _path() -> str:
    """Where the WebSocket is opened: a path here, or the gateway's whole address."""
    return settings.CONSOLE_GATEWAY_URL or f"{get_script_prefix()}ws/console/"
