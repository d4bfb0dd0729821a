"""How a machine looks: one word, one colour and one shape for its condition. `{% load machine_tags %}`."""

from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from django import template
from django.urls import get_script_prefix, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from portal.images.models import Image, Kind
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task

register = template.Library()


@dataclass(frozen=True, slots=True)
class Look:
    word: str | Promise
    tone: str  # A class of base.css: state-<tone>.
    icon: str


_BUSY = {
    Task.BUILDING: _("Building"),
    Task.STARTING: _("Starting"),
    Task.STOPPING: _("Shutting down"),
    Task.REBOOTING: _("Restarting"),
    Task.RESETTING: _("Resetting"),
    Task.FORCING_OFF: _("Forcing off"),
    Task.ADOPTING: _("Being taken over"),
    Task.REPAIRING: _("Being defined again"),
    Task.PAUSING: _("Being paused"),
    Task.RESUMING: _("Going on"),
    Task.HIBERNATING: _("Hibernating"),
    Task.DISCARDING: _("Forgetting its saved memory"),
    Task.RESIZING: _("Getting another size"),
    Task.ACCESS: _("Getting a password or key"),
    Task.BINNING: _("Going into the bin"),
    Task.ATTACHING: _("Attaching a disk"),
    Task.DETACHING: _("Detaching a disk"),
    Task.GROWING: _("Growing a disk"),
    Task.LIMITING: _("Limiting a disk"),
    Task.ADDING_CARD: _("Adding a network card"),
    Task.DROPPING_CARD: _("Removing a network card"),
    Task.COPYING: _("Being copied"),
    Task.REBUILDING: _("Being rebuilt"),
    Task.INSERTING: _("Inserting a disc"),
    Task.EJECTING: _("Ejecting a disc"),
    Task.RESCUING: _("Starting a rescue system"),
    Task.UNRESCUING: _("Coming back from rescue"),
    Task.DELETING: _("Deleting"),
}
_POWER = {
    PowerState.RUNNING: Look(_("Running"), "running", icon="circle-filled"),
    PowerState.PAUSED: Look(_("Paused"), "paused", icon="player-pause-filled"),
    PowerState.SHUT_OFF: Look(_("Shut off"), "off", icon="square-rounded"),
    PowerState.UNKNOWN: Look(_("Host not answering"), "unknown", icon="help-circle"),
}
_HIBERNATED = Look(_("Hibernated"), "paused", icon="zzz")
_BINNED = Look(_("In the bin"), "off", icon="trash")
_MISSING = Look(_("Missing on its host"), "failed", icon="alert-triangle-filled")
_RESCUED = {
    PowerState.RUNNING: Look(_("In rescue"), "busy", icon="lifebuoy"),
    PowerState.PAUSED: Look(_("In rescue, paused"), "paused", icon="lifebuoy"),
    PowerState.SHUT_OFF: Look(_("In rescue, off"), "off", icon="lifebuoy"),
}
_FAILED = Look(_("Failed"), "failed", icon="alert-triangle-filled")
_BY_STATUS = {Status.ERROR: _FAILED, Status.BINNED: _BINNED}
_REQUESTED = Look(_("Requested"), "busy", icon="clock")

_IMAGE_LOOKS = {
    "debian": Look("Debian", "brand", icon="brand-debian"),
    "ubuntu": Look("Ubuntu", "brand", icon="brand-ubuntu"),
    "windows": Look("Windows", "brand", icon="brand-windows"),
}
_KIND_LOOKS = {
    Kind.DESKTOP: Look(_("Desktop"), "kind", icon="device-desktop"),
    Kind.SERVER: Look(_("Server"), "kind", icon="server"),
}


def look_of(machine: Machine) -> Look:
    if machine.task != Task.NONE:
        return Look(_BUSY[Task(machine.task)], "busy", icon="loader-2")
    if machine.status in _BY_STATUS:
        return _BY_STATUS[Status(machine.status)]
    if machine.missing_since is not None:
        return _MISSING
    if machine.status == Status.READY and machine.is_in_rescue and machine.power_state in _RESCUED:
        return _RESCUED[PowerState(machine.power_state)]
    if machine.status == Status.READY:
        return _HIBERNATED if machine.is_hibernated else _POWER[PowerState(machine.power_state)]
    return _REQUESTED


@register.inclusion_tag("machines/_state.html")
def machine_state(machine: Machine) -> dict[str, object]:
    """The condition as a word with colour and shape."""
    return {"look": look_of(machine), "machine": machine}


@register.filter
def tone(machine: Machine) -> str:
    return look_of(machine).tone


@register.filter
def word(machine: Machine) -> str:
    return str(look_of(machine).word)


@register.filter
def hue(machine: Machine) -> int:
    """0 to 5: each machine keeps the same colour of its picture, so that people know it again."""
    return machine.pk.int % 6


@register.filter
def kind_icon(kind: str) -> str:
    return _KIND_LOOKS[Kind(kind)].icon


@register.filter
def image_icon(image: Image) -> str:
    """The mark of the system inside, told by the image's name, or else of its kind."""
    name = image.slug.lower()
    known = next((look for word, look in _IMAGE_LOOKS.items() if word in name), None)
    return known.icon if known else kind_icon(image.kind)


@register.simple_tag
def machine_url(name: str, machine: Machine) -> str:
    """As `{% url name machine.pk %}`, which a list asks for hundreds of times: it is worked out once for each name."""
    return _address_of(name, get_script_prefix()).replace(_NOBODY, str(machine.pk))


_NOBODY = str(UUID(int=0))


@lru_cache(maxsize=64)
def _address_of(name: str, _prefix: str) -> str:
    return reverse(name, args=[_NOBODY])
