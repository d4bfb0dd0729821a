"""Sizes as people read them, in binary units with one decimal at most."""

from django.utils.formats import number_format
from django.utils.translation import gettext as _

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(count: float) -> str:
    """12.4 GiB; below one KiB the plain number of bytes."""
    if abs(count) < 1024:
        return _("%(count)d bytes") % {"count": int(count)}
    value, unit = float(count), ""
    for name in _UNITS:
        value, unit = value / 1024, name
        if abs(value) < 999.95:
            break
    return f"{format_number(value)} {unit}"


def format_mib(count: float) -> str:
    """512 MiB, 1.5 GiB; nothing is 0 GiB."""
    return format_bytes(count * 1024**2) if count else "0 GiB"


def format_number(value: float) -> str:
    """At most one decimal, and none where it would be a zero."""
    rounded = round(value, 1)
    return str(number_format(rounded, decimal_pos=0 if rounded == int(rounded) else 1))


def percent(part: float, whole: float) -> int:
    """0 to 100, for bars; anything of nothing is 100."""
    if whole <= 0:
        return 100 if part > 0 else 0
    return max(0, min(100, round(100 * part / whole)))
