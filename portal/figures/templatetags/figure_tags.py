"""`{% load figure_tags %}`."""

import json

from django import template

register = template.Library()


@register.filter
def as_json(value: object) -> str:
    """For a data attribute, which the template escapes as any text."""
    return json.dumps(value, separators=(",", ":"))
