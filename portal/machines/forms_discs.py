"""What people type to install a machine from an ISO, or to rescue one. The rules are in the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project
from portal.images.models import Kind
from portal.isos.models import Iso
from portal.machines.models import Firmware, Flavour
from portal.machines.selectors import flavours
from portal.machines.validators import validate_machine_name
from portal.volumes.validators import MOST_GIB

_PLAIN = {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}


class InstallForm(forms.Form):
    project = forms.ModelChoiceField(label=_("Project"), queryset=Project.objects.none(), empty_label=None)
    iso = forms.ModelChoiceField(
        label=_("ISO"),
        queryset=Iso.objects.none(),
        error_messages={
            "required": _("Choose what to install from."),
            "invalid_choice": _("This ISO cannot be used in this project, or not yet. Choose another."),
        },
    )
    drivers = forms.ModelChoiceField(
        label=_("Second disc"), queryset=Iso.objects.none(), required=False, empty_label=_("none")
    )
    flavour = forms.ModelChoiceField(
        label=_("Size"),
        queryset=Flavour.objects.none(),
        error_messages={
            "required": _("Choose a size."),
            "invalid_choice": _("This size is no longer offered. Choose another."),
        },
    )
    disk_gib = forms.IntegerField(
        label=_("Disk (GiB)"),
        min_value=1,
        max_value=MOST_GIB,
        help_text=_("Empty at first. It can be made larger later, never smaller."),
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=63,
        validators=[validate_machine_name],
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("Lower-case letters, digits and hyphens. The system inside has the name that you give it there."),
    )
    kind = forms.ChoiceField(label=_("Kind"), choices=Kind.choices, widget=forms.RadioSelect)
    firmware = forms.ChoiceField(
        label=_("Firmware"),
        choices=Firmware.choices,
        help_text=_("UEFI for what is current; Secure Boot starts signed systems only; BIOS for what is old."),
    )
    tpm = forms.BooleanField(
        label=_("TPM 2.0"), required=False, help_text=_("Windows 11 asks for it, together with Secure Boot.")
    )
    request_key = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)

    def __init__(self, *args: Any, projects: Any, isos: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, rows in (("project", projects), ("iso", isos), ("drivers", isos), ("flavour", flavours())):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
            field.queryset = rows


class RescueForm(forms.Form):
    """`system` is the id of an image version or of an ISO."""

    system = forms.ChoiceField(
        label=_("Rescue system"),
        error_messages={
            "required": _("Choose what to start it from."),
            "invalid_choice": _("The machine cannot be started from this, or not yet. Choose another."),
        },
    )

    def __init__(self, *args: Any, choices: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["system"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 - tells mypy which field this is
        field.choices = [(choice, choice) for choice in choices]
