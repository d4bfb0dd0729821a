"""Who may do what: a permission is an enum member, a role is a set of them. Nothing else grants anything."""

import enum

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Permission(enum.StrEnum):
    PROJECT_VIEW = "project.view"
    PROJECT_MANAGE = "project.manage"
    MACHINE_VIEW = "machine.view"
    MACHINE_CREATE = "machine.create"
    MACHINE_OPERATE = "machine.operate"
    MACHINE_DELETE = "machine.delete"
    MACHINE_PURGE = "machine.purge"
    MACHINE_CONSOLE = "machine.console"
    MACHINE_CONSOLE_VIEW = "machine.console-view"
    MACHINE_SECRET = "machine.secret"  # noqa: S105 - the name of a permission
    IMAGE_VIEW = "image.view"
    IMAGE_CREATE = "image.create"
    IMAGE_DELETE = "image.delete"


class Role(TextChoices):
    OWNER = "owner", _("Owner")
    MEMBER = "member", _("Member")
    VIEWER = "viewer", _("Viewer")


_VIEWER = frozenset(
    {Permission.PROJECT_VIEW, Permission.MACHINE_VIEW, Permission.MACHINE_CONSOLE_VIEW, Permission.IMAGE_VIEW}
)
_MEMBER = _VIEWER | {
    Permission.MACHINE_CREATE,
    Permission.MACHINE_OPERATE,
    Permission.MACHINE_DELETE,
    Permission.MACHINE_CONSOLE,
    Permission.MACHINE_SECRET,
    Permission.IMAGE_CREATE,
}
_OWNER = _MEMBER | {Permission.PROJECT_MANAGE, Permission.MACHINE_PURGE, Permission.IMAGE_DELETE}

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.OWNER: frozenset(_OWNER),
    Role.MEMBER: frozenset(_MEMBER),
    Role.VIEWER: _VIEWER,
}

ROLE_DESCRIPTIONS = {
    Role.OWNER: _("Everything a member may, and members, roles and images of the project."),
    Role.MEMBER: _("Creates machines, works on their screens, starts, stops and deletes them."),
    Role.VIEWER: _("Sees machines and watches their screens, without touching them."),
}


def roles_with(permission: Permission) -> list[Role]:
    """The roles that hold `permission`, for use in a query."""
    return [role for role, granted in ROLE_PERMISSIONS.items() if permission in granted]
