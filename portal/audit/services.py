"""Writing the audit trail: always in the same transaction as what it tells of.

People and projects are known here by their keys only, so that every app, accounts too, can write its rows.
"""

from collections.abc import Iterable
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
    event = _event(actor, action, target, project=project, detail=detail, request_ip=request_ip)
    event.save(force_insert=True)
    return event


def record_many(
    actor: AbstractUser | None, action: str, targets: Iterable[models.Model], *, detail: dict[str, Any] | None = None
) -> None:
    """As `record`, of many things to which the same was done at once."""
    Event.objects.bulk_create([_event(actor, action, target, detail=detail) for target in targets])


def _event(
    actor: AbstractUser | None,
    action: str,
    target: models.Model,
    *,
    project: models.Model | None = None,
    detail: dict[str, Any] | None = None,
    request_ip: str | None = None,
) -> Event:
    about = project if project is not None else getattr(target, "project", None)
    return Event(
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
