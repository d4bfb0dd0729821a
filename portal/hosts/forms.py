from django import forms
from django.utils.translation import gettext_lazy as _


class TakesMachinesForm(forms.Form):
    """Whether a host takes new machines."""

    enabled = forms.ChoiceField(choices=[("yes", _("Yes")), ("no", _("No"))])
