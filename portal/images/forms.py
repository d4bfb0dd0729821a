from typing import Any
from uuid import uuid4

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.images.models import Firmware, Kind

FOR_EVERYONE = "everyone"


class UploadForm(forms.Form):
    """A disk and what is to be known of it. Whom it is for is chosen among what the person may choose."""

    title = forms.CharField(label=_("Name"), max_length=100)
    owner = forms.ChoiceField(label=_("Who can use it"))
    kind = forms.ChoiceField(label=_("Kind"), choices=Kind.choices, initial=Kind.SERVER, widget=forms.RadioSelect)
    firmware = forms.ChoiceField(
        label=_("Firmware"),
        choices=Firmware.choices,
        initial=Firmware.BIOS,
        help_text=_("What the disk was installed with. If you do not know, try BIOS first."),
    )
    # An empty file is let through to the service, which says what happened.
    file = forms.FileField(label=_("Disk"), allow_empty_file=True, max_length=255)
    # What makes a request unique, so that a double click or a retry makes one image.
    request_key = forms.UUIDField(required=False, initial=uuid4, widget=forms.HiddenInput)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projects = {str(project.pk): project for project in projects_for(user, Permission.IMAGE_CREATE)}
        choices = [(pk, _("Project %(name)s") % {"name": project.name}) for pk, project in self.projects.items()]
        if user.is_staff:
            choices.insert(0, (FOR_EVERYONE, str(_("Everyone"))))
        owner = self.fields["owner"]
        assert isinstance(owner, forms.ChoiceField)  # noqa: S101 - tells mypy which field this is
        owner.choices = choices
        self.can_upload = bool(choices)  # False if there is no project in which the person may add an image.
        file = self.fields["file"].widget
        file.attrs.update(
            {
                "accept": ".qcow2,.img,.raw",
                "data-most-bytes": settings.IMAGE_MAX_UPLOAD_BYTES,
                "aria-describedby": "id_file_help",  # The limits, which stand above the field.
            }
        )

    def project(self) -> Project | None:
        """The chosen project; None for everyone."""
        return self.projects.get(self.cleaned_data["owner"])
