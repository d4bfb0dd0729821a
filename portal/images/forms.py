from typing import Any
from uuid import uuid4

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.images.models import Firmware, Kind
from portal.images.official import OFFICIAL, Official
from portal.images.signing import MOST_KEY_CHARACTERS
from portal.lib.fetcher import URL_MAX

FOR_EVERYONE = "everyone"


class ImageForm(forms.Form):
    """What is to be known of a disk wherever it comes from. Whom it is for: among what the person may choose."""

    title = forms.CharField(label=_("Name"), max_length=100)
    owner = forms.ChoiceField(label=_("Who can use it"))
    kind = forms.ChoiceField(label=_("Kind"), choices=Kind.choices, initial=Kind.SERVER, widget=forms.RadioSelect)
    firmware = forms.ChoiceField(
        label=_("Firmware"),
        choices=Firmware.choices,
        initial=Firmware.BIOS,
        help_text=_("What the disk was installed with. If you do not know, try BIOS first."),
    )
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

    def project(self) -> Project | None:
        """The chosen project; None for everyone."""
        return self.projects.get(self.cleaned_data["owner"])


class UploadForm(ImageForm):
    # An empty file is let through to the service, which says what happened.
    file = forms.FileField(label=_("Disk"), allow_empty_file=True, max_length=255)
    # The id of what the page's script has sent piece by piece, in place of a file.
    upload = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, user=user, **kwargs)
        self.fields["file"].required = not self.data.get("upload")
        file = self.fields["file"].widget
        file.attrs.update(
            {
                "accept": ".qcow2,.img,.raw",
                "data-most-bytes": settings.IMAGE_MAX_UPLOAD_BYTES,
                "aria-describedby": "id_file_help",  # The limits, which stand above the field.
            }
        )


OTHER = "other"
_ADDRESS = {"inputmode": "url", "autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}


class ImportForm(ImageForm):
    """An official image by name, or any other by its address and checksum. An official one says the rest itself."""

    source = forms.ChoiceField(label=_("Image"), widget=forms.RadioSelect)
    # Checked by the service, whose words say what is wrong with an address.
    url = forms.CharField(
        label=_("Address of the disk"),
        required=False,
        max_length=URL_MAX,
        widget=forms.TextInput(attrs=_ADDRESS | {"placeholder": "https://"}),
        help_text=_("Begins with https://, and leads to a qcow2 file or a raw disk."),
    )
    checksum = forms.CharField(
        label=_("Checksum, or address of a file with it"),
        required=False,
        max_length=URL_MAX,
        widget=forms.TextInput(attrs=_ADDRESS),
        help_text=_(
            "SHA-256 or SHA-512, as the maker publishes it; or the https:// address of SHA256SUMS or the like."
        ),
    )

    signing_key = forms.CharField(
        label=_("Public key of who signs the checksums"),
        required=False,
        max_length=MOST_KEY_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 3, "class": "mono", "autocomplete": "off", "spellcheck": "false"}),
        help_text=_("Optional, as gpg --armor --export writes it. What is not signed by it is then refused."),
    )
    signature_url = forms.CharField(
        label=_("Address of the signature"),
        required=False,
        max_length=URL_MAX,
        widget=forms.TextInput(attrs=_ADDRESS | {"placeholder": "https://"}),
        help_text=_("Such as SHA256SUMS.gpg; left empty, the file of checksums holds its signature itself."),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, user=user, **kwargs)
        source = self.fields["source"]
        assert isinstance(source, forms.ChoiceField)  # noqa: S101 - tells mypy which field this is
        source.choices = [(one.slug, one.title) for one in OFFICIAL.values()] + [(OTHER, _("Another address"))]
        source.initial = source.choices[0][0]
        for name in ("title", "kind", "firmware"):
            self.fields[name].required = False
        self.fields["title"].help_text = _("Left empty, an official image is called as it is above.")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("source") == OTHER:
            for name in ("title", "kind", "firmware", "url", "checksum"):
                if not data.get(name) and name not in self.errors:
                    self.add_error(name, self.fields[name].error_messages["required"])
        return data

    def official(self) -> Official | None:
        return OFFICIAL.get(self.cleaned_data["source"])
