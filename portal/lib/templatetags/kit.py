"""The kit's small parts for every template: icons, sizes, times, form fields. `{% load kit %}`."""

import datetime as dt
import json
from functools import lru_cache
from pathlib import Path
from urllib.parse import urljoin

from django import template
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.forms import BoundField, CheckboxInput, CheckboxSelectMultiple, RadioSelect, Select
from django.templatetags.static import static
from django.urls import get_script_prefix
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from portal.lib.units import format_bytes, format_mib, percent

register = template.Library()

NOTHING = "\N{EN DASH}"


@register.simple_tag
def icon(name: str, css: str = "") -> SafeString:
    """An icon of the sprite. It is decoration: a word stands beside it, or an aria-label on the button."""
    return _icon(name, css, get_script_prefix())


@lru_cache(maxsize=1024)
def _icon(name: str, css: str, _prefix: str) -> SafeString:
    """Made once: a list of machines has hundreds of them, and finding the sprite's address costs more than the rest."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        css,
        static("icons.svg"),
        name,
    )


@register.simple_tag
def screen_script() -> SafeString:
    """The screen's script, and at once all that it will ask for: one after the other they take four rounds."""
    return format_html('{}<script type="module" src="{}"></script>', _preloads("console"), static("js/console.js"))


@register.simple_tag
def screen_ahead(door: str) -> SafeString:
    """For the head: the ticket that the page brings (`door_ahead`), if it has one, and the script that uses it."""
    brought = format_html('<meta name="casement-door" content="{}">', door)
    script = format_html('<script async src="{}"></script>', static("js/door.js"))
    return format_html("{}{}", brought, script) if door else SafeString()


@register.simple_tag
def screen_soon() -> SafeString:
    """For pages that people come from to a screen: the browser fetches what it needs when it has nothing else to do."""
    scripts = [static("js/door.js"), static("js/console.js"), *_parts("console")]
    wanted = [("style", static("css/console.css")), *(("script", one) for one in scripts)]
    return format_html_join("", '<link rel="prefetch" as="{}" href="{}">', wanted)


def _preloads(script: str) -> SafeString:
    return format_html_join("", '<link rel="modulepreload" href="{}">', ((one,) for one in _parts(script)))


def _parts(script: str) -> list[str]:
    """The addresses of what a script loads; none where the front end is not built. Written by static/build.mjs."""
    known = _known_parts().get(script, {"parts": [], "later": []})
    address = static(f"js/{script}.js") if known["parts"] else ""
    return [urljoin(address, part) for part in (*known["parts"], *known["later"])]


@lru_cache(maxsize=1)
def _known_parts() -> dict[str, dict[str, list[str]]]:
    """As collected beside the scripts that are served; where those are served from the build, from there."""
    name = "js/parts.json"
    collected = staticfiles_storage.path(name)
    file = collected if Path(collected).exists() else finders.find(name)
    found: dict[str, dict[str, list[str]]] = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    return found


@register.simple_tag
def live_url() -> str:
    """Where the live WebSocket is, below the path prefix that the portal is served under."""
    return f"{get_script_prefix()}ws/live/"


@register.filter
def mib(value: int | None) -> str:
    """Memory given in MiB, in the unit that people say: "512 MiB", "2 GiB"."""
    return NOTHING if value is None else format_mib(value)


@register.filter
def filesize(value: int | None) -> str:
    """Bytes in binary units: "900 bytes", "1.4 GiB"."""
    return NOTHING if value is None else format_bytes(value)


@register.filter
def duration(seconds: float | None) -> str:
    """Seconds as people say them: "0.4 s", "12 s", "3 min 5 s", "2 h 10 min"."""
    if seconds is None:
        return ""
    if seconds < 10:
        return _("%(seconds)s s") % {"seconds": f"{seconds:.1f}".removesuffix(".0")}
    whole = round(seconds)
    if whole < 60:
        return _("%(seconds)s s") % {"seconds": whole}
    if whole < 3600 and whole % 60 == 0:
        return _("%(minutes)s min") % {"minutes": whole // 60}
    if whole < 3600:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": whole // 60, "seconds": whole % 60}
    return _("%(hours)s h %(minutes)s min") % {"hours": whole // 3600, "minutes": whole % 3600 // 60}


@register.simple_tag
def when(moment: dt.datetime | None, empty: str = NOTHING) -> str:
    """A moment: whole and in UTC without a script; relative, and exact in the reader's zone on hover, with one."""
    if moment is None:
        return empty
    exact = moment.astimezone(dt.UTC)
    return format_html(
        '<time datetime="{}" title="{}" data-relative>{}</time>',
        exact.isoformat(timespec="seconds"),
        f"{exact:%Y-%m-%d %H:%M:%S} UTC",
        f"{exact:%Y-%m-%d %H:%M} UTC",
    )


@register.simple_tag
def since(moment: dt.datetime | None) -> str:
    """How long ago it began, counting up in the browser: "12 s"."""
    if moment is None:
        return ""
    seconds = max((timezone.now() - moment).total_seconds(), 0)
    return format_html(
        '<time datetime="{}" data-elapsed>{}</time>',
        moment.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
        duration(round(seconds)),
    )


@register.filter
def percent_of(part: float, whole: float) -> int:
    """0 to 100, for bars."""
    return percent(part, whole)


@register.filter
def unlocalised(value: float) -> str:
    """A number as SVG wants it: with a point, whatever the reader's language."""
    return f"{value:g}"


@register.simple_tag
def kit_widget(field: BoundField) -> SafeString:
    """The field's control with the kit's classes and what a screen reader needs to find its help and its errors."""
    widget = field.field.widget
    css = "form-control"
    if isinstance(widget, RadioSelect | CheckboxSelectMultiple):
        css = ""
    elif isinstance(widget, CheckboxInput):
        css = "form-check-input"
    elif isinstance(widget, Select):
        css = "form-select"
    own = widget.attrs.get("class", "")
    attrs: dict[str, str | bool] = {"class": " ".join(filter(None, [css, own, "is-invalid" if field.errors else ""]))}
    described = [f"id_{field.html_name}_help"] if field.help_text else []
    if field.errors:
        described.append(f"id_{field.html_name}_error")
        attrs["aria-invalid"] = "true"
    if described:
        attrs["aria-describedby"] = " ".join(described)
    return field.as_widget(attrs=attrs)


@register.filter
def is_checkbox(field: BoundField) -> bool:
    return isinstance(field.field.widget, CheckboxInput)
