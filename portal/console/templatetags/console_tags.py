"""What templates of other apps ask of the console."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from portal.console.doors import door_ahead
from portal.console.tickets import Mode
from portal.machines.models import Machine

register = template.Library()


@register.simple_tag(takes_context=True)
def screen_door(context: template.RequestContext, machine: Machine, mode: str) -> SafeString:
    """The ticket to a screen that is shown in a page, so that it is opened without asking. Nothing if there is none."""
    door = door_ahead(context["request"], machine.pk, Mode(mode))
    return format_html('<meta name="casement-door" content="{}">', door) if door else SafeString()
