"""What people type to get a machine. Rules that hold whoever asks are in `services`; here is only the page's share."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project
from portal.errors import InvalidError
from portal.images.models import Image
from portal.lib.ssh import clean_ssh_key
from portal.machines import userdata
from portal.machines.access import MOST_KEY_CHARACTERS
from portal.machines.models import Flavour, Machine
from portal.machines.selectors import flavours
from portal.machines.validators import validate_login_user, validate_machine_name

_PLAIN = {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}


class MachineForm(forms.Form):
    """`image` is one that can be launched in the project; which of its versions is decided when it is asked for."""

    project = forms.ModelChoiceField(label=_("Project"), queryset=Project.objects.none(), empty_label=None)
    image = forms.ModelChoiceField(
        label=_("Image"),
        queryset=Image.objects.none(),
        error_messages={
            "required": _("Choose what to launch."),
            "invalid_choice": _("This image cannot be launched in this project, or not yet. Choose another."),
        },
    )
    flavour = forms.ModelChoiceField(
        label=_("Size"),
        queryset=Flavour.objects.none(),
        error_messages={
            "required": _("Choose a size."),
            "invalid_choice": _("This size is no longer offered. Choose another."),
        },
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=63,
        validators=[validate_machine_name],
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("Lower-case letters, digits and hyphens. It becomes the machine's host name."),
    )
    login_user = forms.CharField(
        label=_("User in the machine"),
        max_length=32,
        validators=[validate_login_user],
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("You sign in as this user; its first password is shown on the machine's page."),
    )
    ssh_key = forms.CharField(
        label=_("SSH public key"),
        required=False,
        max_length=20_000,
        strip=False,
        widget=forms.Textarea(attrs={**_PLAIN, "rows": 3, "placeholder": "ssh-ed25519 AAAA… me@laptop"}),
        help_text=_("Optional. The key that was used last stands here already."),
    )
    user_data = forms.CharField(
        label=_("cloud-config"),
        required=False,
        max_length=userdata.MOST_BYTES,
        strip=False,
        widget=forms.Textarea(
            attrs={**_PLAIN, "rows": 5, "class": "mono", "placeholder": "#cloud-config\npackages:\n  - htop"}
        ),
        help_text=_("Optional: what the machine does at its first start. Only who may work on it can read it here."),
    )
    request_key = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)

    def __init__(self, *args: Any, projects: Any, images: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, rows in (("project", projects), ("image", images), ("flavour", flavours())):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
            field.queryset = rows

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        try:
            data["user_data"] = userdata.checked(data.get("user_data", ""), login_user=data.get("login_user", ""))
        except InvalidError as error:
            self.add_error("user_data", str(error.message))
        return data

    def clean_ssh_key(self) -> str:
        try:
            return clean_ssh_key(self.cleaned_data["ssh_key"])
        except ValidationError as error:
            raise ValidationError(error.messages) from error


class EditForm(forms.Form):
    name = forms.CharField(
        label=_("Name"),
        max_length=63,
        validators=[validate_machine_name],
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("The system inside keeps the host name that it was built with."),
    )
    description = forms.CharField(
        label=_("What it is for"),
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    labels = forms.CharField(
        label=_("Labels"),
        required=False,
        max_length=600,
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("Words to sort machines by, with spaces between them: lower-case letters, digits and . _ : / = -"),
    )
    protected = forms.BooleanField(
        label=_("Protect from deletion"),
        required=False,
        help_text=_("Nobody can delete it, or put it into the bin, until this is taken off again."),
    )

    @classmethod
    def of(cls, machine: Machine) -> EditForm:
        labels = " ".join(machine.labels.values_list("name", flat=True))
        return cls(
            initial={
                "name": machine.name,
                "description": machine.description,
                "labels": labels,
                "protected": machine.protected,
            }
        )


class ResizeForm(forms.Form):
    flavour = forms.ModelChoiceField(
        queryset=Flavour.objects.none(),
        error_messages={
            "required": _("Choose a size."),
            "invalid_choice": _("This size is no longer offered. Choose another."),
        },
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["flavour"]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
        field.queryset = flavours()


class KeyForm(forms.Form):
    public_key = forms.CharField(
        label=_("Public key"),
        max_length=MOST_KEY_CHARACTERS,
        strip=False,
        widget=forms.Textarea(attrs={**_PLAIN, "rows": 4, "placeholder": "ssh-ed25519 AAAA… me@laptop"}),
    )
