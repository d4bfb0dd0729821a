"""Writing the audit trail: always in the same transaction as what it tells of."""

from typing import Any

from django.db import models

from portal.accounts.models import Project, User
from portal.audit.models import Event


def record(
    actor: User | None,
    action: str,
    target: models.Model,
    *,
    project: Project | None = None,
    detail: dict[str, Any] | None = None,
    request_ip: str | None = None,
) -> Event:
    """Add a row. `detail` holds no secret. `target.name` or its text names it for later readers."""
    return Event.objects.create(
        actor=actor,
        actor_name=actor.get_username() if actor else "",
        action=action,
        target_type=target._meta.model_name or "",
        target_id=str(target.pk),
        target_name=str(target)[:150],
        project=project if project is not None else getattr(target, "project", None),
        detail=detail or {},
        request_ip=request_ip,
    )
