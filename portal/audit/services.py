"""Writing the audit trail: always in the same transaction as what it tells of.

People and projects are known here by their keys only, so that every app, accounts too, can write its rows.
"""

from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import models

from portal.audit.models import Event


def record(
    actor: AbstractUser | None,
    action: str,
    target: models.Model,
    *,
    project: models.Model | None = None,
    detail: dict[str, Any] | None = None,
    request_ip: str | None = None,
) -> Event:
    """Add a row. `detail` holds no secret. `target.name` or its text names it for later readers."""
    about = project if project is not None else getattr(target, "project", None)
    return Event.objects.create(
        actor_id=actor.pk if actor else None,
        actor_name=actor.get_username() if actor else "",
        action=action,
        target_type=target._meta.model_name or "",
        target_id=str(target.pk),
        target_name=str(target)[:150],
        project_id=about.pk if about is not None else None,
        detail=detail or {},
        request_ip=request_ip,
    )


def record_of_portal(action: str, *, detail: dict[str, Any]) -> Event:
    """Add a row about the portal as a whole, done by whoever may run its commands."""
    return Event.objects.create(action=action, target_type="portal", target_name="Casement", detail=detail)
