"""What more is known of an event than its kind, in one line for people."""

from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.events.models import Event

# The page of each type of subject, of those that everyone in the project may see. What is gone since answers 404.
_PAGES = {"machine": "machines:detail", "volume": "volumes:detail", "job": "jobs:detail"}

_POWER = {
    "running": gettext_lazy("It is running."),
    "paused": gettext_lazy("It is paused."),
    "shut_off": gettext_lazy("It is off."),
    "unknown": gettext_lazy("Its host does not say what it does."),
}
_MODES = {"control": gettext_lazy("to work on it"), "view": gettext_lazy("to watch")}


@dataclass(frozen=True, slots=True)
class Line:
    """An event as people read it. `url` is empty where there is no page to go to; `is_trouble` colours the detail."""

    event: Event
    detail: str
    is_trouble: bool
    url: str


def line_of(event: Event) -> Line:
    data = event.data if isinstance(event.data, dict) else {}
    error = data.get("error")
    if error:
        text = error.get("message", "") if isinstance(error, dict) else str(error)
        return Line(event, text, is_trouble=True, url=_url(event))
    return Line(event, _detail(data), is_trouble=False, url=_url(event))


def _detail(data: dict[str, object]) -> str:
    if data.get("power_state") in _POWER:
        return str(_POWER[str(data["power_state"])])
    if data.get("mode") in _MODES:
        return str(_MODES[str(data["mode"])])
    machine = data.get("machine")
    if isinstance(machine, dict):
        return _("of %(machine)s") % {"machine": machine.get("name", "")}
    if data.get("image") and data.get("flavour"):
        return _("%(image)s, %(size)s") % {"image": data["image"], "size": data["flavour"]}
    if isinstance(size := data.get("size_gib"), int):
        return _("%(size)s GiB") % {"size": size}
    return ", ".join(map(str, addresses)) if isinstance(addresses := data.get("addresses"), list) else ""


def _url(event: Event) -> str:
    page = _PAGES.get(event.subject_type)
    try:
        return reverse(page, args=[event.subject_id]) if page else ""
    except NoReverseMatch:
        return ""
