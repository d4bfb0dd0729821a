"""What is to be known of an ISO. Rules that hold whoever asks are in `services`; here is only the page's share."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.isos.models import Role

FOR_EVERYONE = "everyone"
_PLAIN = {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}


class IsoForm(forms.Form):
    """`upload` is the id of what the page's script has sent piece by piece."""

    upload = forms.UUIDField(
        widget=forms.HiddenInput, error_messages={"required": _("Choose the file."), "invalid": _("Choose the file.")}
    )
    name = forms.CharField(label=_("Name"), max_length=100)
    owner = forms.ChoiceField(label=_("Who can use it"))
    role = forms.ChoiceField(
        label=_("What it is"), choices=Role.choices, initial=Role.INSTALLER, widget=forms.RadioSelect
    )
    sha256 = forms.CharField(
        label=_("SHA-256"),
        required=False,
        max_length=80,
        widget=forms.TextInput(attrs={**_PLAIN, "class": "mono"}),
        help_text=_("Optional: as its maker publishes it. What arrives is compared with it."),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projects = {str(project.pk): project for project in projects_for(user, Permission.IMAGE_CREATE)}
        choices = [(pk, _("Project %(name)s") % {"name": project.name}) for pk, project in self.projects.items()]
        if user.is_staff:
            choices.insert(0, (FOR_EVERYONE, str(_("Everyone"))))
        owner = self.fields["owner"]
        assert isinstance(owner, forms.ChoiceField)  # noqa: S101 - tells mypy which field this is
        owner.choices = choices

    def project(self) -> Project | None:
        """The chosen project; None for everyone."""
        return self.projects.get(self.cleaned_data["owner"])
