from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project


class TakesMachinesForm(forms.Form):
    """Whether a host takes new machines."""

    enabled = forms.ChoiceField(choices=[("yes", _("Yes")), ("no", _("No"))])


class AdoptForm(forms.Form):
    """Into which project what was found on a host goes, and as what."""

    project = forms.ModelChoiceField(Project.objects.all(), label=_("Project"))
    name = forms.CharField(label=_("Name"), max_length=63)
