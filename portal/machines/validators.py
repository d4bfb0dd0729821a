"""What people type about a machine, checked before anything else sees it."""

import re

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from portal.lib.ssh import clean_ssh_key

__all__ = ["clean_ssh_key", "validate_login_user", "validate_machine_name"]

# A host name after RFC 1123: it becomes the guest's name, a DHCP name and a file in the guest.
_HOSTNAME = re.compile(r"\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_LOGIN = re.compile(r"\A[a-z_][a-z0-9_-]{0,31}\Z")
_RESERVED_LOGINS = frozenset({"root", "daemon", "nobody", "sshd", "messagebus", "systemd-network", "lightdm"})


def validate_machine_name(value: str) -> None:
    if not _HOSTNAME.match(value):
        raise ValidationError(
            _("Use lower-case letters, digits and hyphens, at most 63, not beginning or ending with a hyphen."),
            code="machine-name",
        )


def validate_login_user(value: str) -> None:
    if not _LOGIN.match(value) or value in _RESERVED_LOGINS:
        raise ValidationError(
            _("Use a lower-case letter, then letters, digits, hyphens or underscores, at most 32; no system user."),
            code="login-user",
        )
