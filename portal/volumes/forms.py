"""What people type to get a volume. Rules that hold whoever asks are in `services`; here is only the page's share."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project
from portal.volumes.validators import MOST_GIB

_PLAIN = {"autocomplete": "off", "spellcheck": "false"}


class VolumeForm(forms.Form):
    project = forms.ModelChoiceField(label=_("Project"), queryset=Project.objects.none(), empty_label=None)
    name = forms.CharField(label=_("Name"), max_length=63, widget=forms.TextInput(attrs=_PLAIN))
    size_gib = forms.IntegerField(label=_("Size (GiB)"), min_value=1, max_value=MOST_GIB, initial=10)
    request_key = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)

    def __init__(self, *args: Any, projects: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["project"]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
        field.queryset = projects


class GrowForm(forms.Form):
    size_gib = forms.IntegerField(label=_("New size (GiB)"), min_value=1, max_value=MOST_GIB)
