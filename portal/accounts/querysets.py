"""Which projects a person can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models

from portal.accounts.permissions import Permission, roles_with

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.accounts.models import Project, User  # noqa: F401


class ProjectQuerySet(models.QuerySet["Project"]):
    def with_permission(self, user: User | AnonymousUser, permission: Permission) -> ProjectQuerySet:
        """Projects in which `user` holds `permission`; operators hold all of them everywhere."""
        if not user.is_active:
            return self.none()
        if user.is_staff:
            return self
        limited_to = getattr(user, "limited_to", None)  # Nobody who is not a User is active.
        projects = self.filter(pk=limited_to) if limited_to else self
        return projects.filter(memberships__user_id=user.pk, memberships__role__in=roles_with(permission))

    def visible_to(self, user: User | AnonymousUser) -> ProjectQuerySet:
        return self.with_permission(user, Permission.PROJECT_VIEW)
