"""What the people's panel sends."""

import datetime as dt

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.console.models import ConsoleLink
from portal.console.tickets import Mode

LIFETIMES = {
    "15m": (_("15 minutes"), dt.timedelta(minutes=15)),
    "1h": (_("1 hour"), dt.timedelta(hours=1)),
    "1d": (_("1 day"), dt.timedelta(days=1)),
    "1w": (_("1 week"), dt.timedelta(weeks=1)),
}


class PersonForm(forms.Form):
    person = forms.ModelChoiceField(User.objects.filter(is_active=True))


class LinkForm(forms.Form):
    link = forms.UUIDField()


class ShareForm(forms.Form):
    mode = forms.ChoiceField(choices=ConsoleLink.Mode.choices)
    lifetime = forms.ChoiceField(choices=[(key, words) for key, (words, _time) in LIFETIMES.items()])

    def mode_wanted(self) -> Mode:
        return Mode(self.cleaned_data["mode"])

    def lifetime_wanted(self) -> dt.timedelta:
        return LIFETIMES[self.cleaned_data["lifetime"]][1]
