"""What volumes may be called, and how large they may be."""

import re

from django.utils.translation import gettext as _

from portal.errors import InvalidError

MOST_GIB = 65_536
_NAME = re.compile(r"\w[\w .-]{0,62}")


def clean_name(name: str) -> str:
    """InvalidError for what cannot be read out and typed again."""
    stripped = name.strip()
    if not _NAME.fullmatch(stripped):
        raise InvalidError(
            _("A name has 1 to 63 letters, digits, spaces, dots, hyphens and underscores, a letter or digit first."),
            field="name",
        )
    return stripped


def check_size(size_gib: int, *, more_than: int = 0) -> None:
    """InvalidError unless it is a size that a disk can be given. One that there is already never gets smaller."""
    if size_gib <= more_than:
        raise InvalidError(
            _("A disk can only grow: it has %(size)s GiB, choose more.") % {"size": more_than}
            if more_than
            else _("A disk has at least 1 GiB."),
            field="size_gib",
        )
    if size_gib > MOST_GIB:
        raise InvalidError(_("A disk has at most %(most)s GiB.") % {"most": MOST_GIB}, field="size_gib")
