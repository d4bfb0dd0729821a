from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import ROLE_DESCRIPTIONS, ROLE_PERMISSIONS, Permission, Role
from portal.accounts.quota import Amount
from portal.accounts.services import MOST, MOST_BIN_DAYS, MOST_KEY_CHARACTERS


class LimitsForm(forms.Form):
    """A quota. Memory is typed in GiB, as people think of it, and kept in MiB."""

    max_machines = forms.IntegerField(label=_("Machines"), min_value=0, max_value=MOST, initial=10)
    max_vcpus = forms.IntegerField(label=_("vCPUs"), min_value=0, max_value=MOST, initial=20)
    max_memory_gib = forms.DecimalField(
        label=_("Memory (GiB)"), min_value=0, max_value=MOST // 1024, decimal_places=2, initial=20
    )
    max_disk_gib = forms.IntegerField(label=_("Disk (GiB)"), min_value=0, max_value=MOST, initial=200)

    @classmethod
    def of(cls, project: Project) -> LimitsForm:
        return cls(
            initial={
                "max_machines": project.max_machines,
                "max_vcpus": project.max_vcpus,
                "max_memory_gib": f"{project.max_memory_mib / 1024:.2f}".rstrip("0").rstrip("."),
                "max_disk_gib": project.max_disk_gib,
            }
        )

    def limits(self) -> Amount:
        data = self.cleaned_data
        return Amount(
            machines=data["max_machines"],
            vcpus=data["max_vcpus"],
            memory_mib=int(data["max_memory_gib"] * 1024),
            disk_gib=data["max_disk_gib"],
        )


class ProjectForm(LimitsForm):
    """A new project: what it is called, who owns it, what it may use."""

    name = forms.CharField(label=_("Name"), max_length=100)
    description = forms.CharField(
        label=_("What it is for"), required=False, max_length=2000, widget=forms.Textarea(attrs={"rows": 2})
    )
    owner = forms.ModelChoiceField(
        label=_("First owner"),
        queryset=User.objects.none(),
        required=False,
        to_field_name="username",
        empty_label=_("Nobody yet"),
        help_text=_("Can add the other members. Without one, only operators can."),
    )
    field_order = ("name", "description", "owner")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        owner = self.fields["owner"]
        assert isinstance(owner, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
        owner.queryset = User.objects.filter(is_active=True).order_by("username")


class BinForm(forms.Form):
    bin_days = forms.IntegerField(
        label=_("Days until what is deleted is gone"),
        min_value=0,
        max_value=MOST_BIN_DAYS,
        help_text=_("0: it is gone at once. What lies in the bin already keeps the day that it was given."),
    )


class MemberForm(forms.Form):
    person = forms.CharField(
        label=_("User name or e-mail address"),
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )
    role = forms.ChoiceField(label=_("Role"), choices=Role.choices, initial=Role.MEMBER)


class RoleForm(forms.Form):
    role = forms.ChoiceField(label=_("Role"), choices=Role.choices)


class KeyForm(forms.Form):
    name = forms.CharField(
        label=_("Name"), required=False, max_length=100, help_text=_("Left empty, the key's own comment is taken.")
    )
    public_key = forms.CharField(
        label=_("Public key"),
        max_length=MOST_KEY_CHARACTERS,
        strip=False,
        widget=forms.Textarea(
            attrs={
                "rows": 4,
                "spellcheck": "false",
                "autocomplete": "off",
                "placeholder": "ssh-ed25519 AAAA… me@laptop",
            }
        ),
    )


class KeyDeleteForm(forms.Form):
    key = forms.IntegerField(min_value=0, max_value=2**63 - 1)


# What a role may do, in the order and the words of the project's page.
ABILITIES = (
    (Permission.MACHINE_VIEW, _("See machines and their state")),
    (Permission.MACHINE_CONSOLE_VIEW, _("Watch their screens")),
    (Permission.MACHINE_CONSOLE, _("Work on their screens")),
    (Permission.MACHINE_OPERATE, _("Start, stop and restart them")),
    (Permission.MACHINE_CREATE, _("Create and delete machines")),
    (Permission.MACHINE_PURGE, _("Empty the bin before its time")),
    (Permission.IMAGE_CREATE, _("Upload images for the project")),
    (Permission.IMAGE_DELETE, _("Delete images of the project")),
    (Permission.PROJECT_MANAGE, _("Add and remove members, set roles")),
)
ABILITY_TABLE = [(words, [permission in ROLE_PERMISSIONS[role] for role in Role]) for permission, words in ABILITIES]
ROLE_CHOICES = [(role, role.label, ROLE_DESCRIPTIONS[role]) for role in Role]
