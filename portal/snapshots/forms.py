"""What people type about snapshots. Rules that hold whoever asks are in `services`; here is only the page's share."""

from __future__ import annotations

import datetime as dt

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.snapshots.models import MOST_KEPT
from portal.snapshots.states import Every

_PLAIN = {"autocomplete": "off", "spellcheck": "false"}
WEEKDAYS = [
    (0, _("Monday")),
    (1, _("Tuesday")),
    (2, _("Wednesday")),
    (3, _("Thursday")),
    (4, _("Friday")),
    (5, _("Saturday")),
    (6, _("Sunday")),
]


class TakeForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=63, required=False, widget=forms.TextInput(attrs=_PLAIN))
    description = forms.CharField(label=_("What for"), max_length=2000, required=False)
    with_memory = forms.BooleanField(label=_("With its memory"), required=False)


class ChangeForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=63, widget=forms.TextInput(attrs=_PLAIN))
    description = forms.CharField(label=_("What for"), max_length=2000, required=False)


class ScheduleForm(forms.Form):
    """`at` is UTC; of an hourly schedule its minutes count."""

    every = forms.ChoiceField(label=_("How often"), choices=Every.choices)
    at = forms.TimeField(label=_("At (UTC)"), initial=dt.time(3), input_formats=["%H:%M", "%H:%M:%S"])
    weekday = forms.TypedChoiceField(label=_("Day, if weekly"), choices=WEEKDAYS, coerce=int)
    keep = forms.IntegerField(label=_("Keep the newest"), min_value=1, max_value=MOST_KEPT, initial=7)


class RestoreForm(forms.Form):
    take_first = forms.BooleanField(required=False)
