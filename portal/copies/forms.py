"""What people say when they clone a machine, make an image of it, or have it rebuilt."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.copies.states import Identity
from portal.images.models import Image, ImageVersion
from portal.machines.models import Machine
from portal.machines.validators import validate_machine_name
from portal.snapshots.models import Snapshot

_PLAIN = {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
NEW_IMAGE = "new"
FOR_EVERYONE = "everyone"
FOR_PROJECT = "project"


class CopyForm(forms.Form):
    """What clones and images have in common: what of the machine is copied, and what becomes of its identity."""

    identity = forms.ChoiceField(
        label=_("Identity"), choices=Identity.choices, initial=Identity.NEW, widget=forms.RadioSelect
    )
    # What makes a request unique, so that a double click or a retry makes one copy.
    request_key = forms.UUIDField(required=False, initial=uuid4, widget=forms.HiddenInput)
    snapshot = forms.ModelChoiceField(
        label=_("What is copied"),
        queryset=Snapshot.objects.none(),
        required=False,
        empty_label=_("The disk as it is now"),
        error_messages={"invalid_choice": _("This snapshot is not there any more.")},
    )

    def __init__(self, *args: Any, snapshots: QuerySet[Snapshot], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.has_snapshots = snapshots.exists()
        field = self.fields["snapshot"]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
        field.queryset = snapshots

    @property
    def chosen_identity(self) -> Identity:
        return Identity(self.cleaned_data["identity"])

    @property
    def chosen_snapshot(self) -> Snapshot | None:
        chosen: Snapshot | None = self.cleaned_data["snapshot"]
        return chosen


class CloneForm(CopyForm):
    name = forms.CharField(
        label=_("Name"),
        max_length=63,
        validators=[validate_machine_name],
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("Lower-case letters, digits and hyphens. It becomes the clone's host name."),
    )
    kind = forms.ChoiceField(
        label=_("Kind of clone"),
        choices=[("linked", _("Linked")), ("full", _("Full"))],
        initial="linked",
        widget=forms.RadioSelect,
    )

    @property
    def is_linked(self) -> bool:
        return bool(self.cleaned_data["kind"] == "linked")


class CaptureForm(CopyForm):
    """`images` are those that may get another version of this machine."""

    image = forms.ChoiceField(label=_("Version of"), initial=NEW_IMAGE)
    title = forms.CharField(
        label=_("Name of the new image"),
        required=False,
        max_length=100,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    owner = forms.ChoiceField(label=_("Who can use it"), initial=FOR_PROJECT, widget=forms.RadioSelect)

    def __init__(self, *args: Any, user: User, machine: Machine, images: list[Image], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.images = {str(image.pk): image for image in images}
        identity = self.fields["identity"]
        assert isinstance(identity, forms.ChoiceField)  # noqa: S101 - for mypy
        identity.choices = [(Identity.NEW, _("Removed")), (Identity.KEPT, Identity.KEPT.label)]
        image, owner = self.fields["image"], self.fields["owner"]
        assert isinstance(image, forms.ChoiceField) and isinstance(owner, forms.ChoiceField)  # noqa: S101 - for mypy
        image.choices = [(NEW_IMAGE, _("A new image")), *((pk, one.title) for pk, one in self.images.items())]
        owner.choices = [(FOR_PROJECT, _("Project %(name)s") % {"name": machine.project.name})]
        if user.is_staff:
            owner.choices = [*owner.choices, (FOR_EVERYONE, _("Everyone"))]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("image") == NEW_IMAGE and not data.get("title", "").strip() and "title" not in self.errors:
            self.add_error("title", self.fields["title"].error_messages["required"])
        return data

    @property
    def chosen_image(self) -> Image | None:
        return self.images.get(self.cleaned_data["image"])

    @property
    def for_everyone(self) -> bool:
        return bool(self.cleaned_data["owner"] == FOR_EVERYONE)


class RebuildForm(forms.Form):
    """Of the images that the project can use, each with the version that new machines get."""

    image = forms.ModelChoiceField(
        label=_("Image"),
        queryset=ImageVersion.objects.none(),
        empty_label=None,
        error_messages={"invalid_choice": _("This image cannot be used in this project, or not now.")},
    )
    confirm = forms.CharField(
        label=_("Type the machine's name to confirm"),
        max_length=63,
        widget=forms.TextInput(attrs=_PLAIN),
    )

    def __init__(self, *args: Any, versions: list[ImageVersion], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["image"]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
        found = ImageVersion.objects.filter(pk__in=[version.pk for version in versions])
        field.queryset = found.select_related("image").order_by("image__title")
