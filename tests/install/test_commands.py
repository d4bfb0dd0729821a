"""The commands that bin/run brings a new portal up with: each does its work once."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.hosts.models import Host
from portal.machines.models import Flavour

pytestmark = pytest.mark.django_db


def _printed(*argv: str, **options: Any) -> str:
    out = StringIO()
    call_command(*argv, stdout=out, **options)
    return out.getvalue()


def test_the_first_administrator_gets_a_password_that_works_and_is_shown_once() -> None:
    match = re.fullmatch(
        r'Sign in as "admin" with the password (\S{20}) \(shown this once\)\.\n', _printed("create_first_admin")
    )
    assert match
    admin = User.objects.get()
    assert admin.check_password(match[1])
    assert (admin.is_superuser, admin.is_staff) == (True, True)
    assert match[1] not in admin.password
    assert _printed("create_first_admin") == ""


def test_an_administrator_who_may_not_sign_in_does_not_count() -> None:
    User.objects.create_superuser("gone", is_active=False)
    assert "admin" in _printed("create_first_admin")


def test_a_new_portal_has_sizes_and_a_project_of_the_administrators(tmp_path: Path) -> None:
    _printed("create_first_admin")
    assert _printed("bootstrap", pool_dir=str(tmp_path / "not" / "yet")) == 'Made the project "Default".\n'
    assert list(Flavour.objects.values_list("name", flat=True)) == ["micro", "small", "medium", "large"]
    project = Project.objects.get()
    assert project.max_vcpus >= 4
    assert project.max_memory_mib >= 1024
    assert project.max_disk_gib > 0
    membership = Membership.objects.get()
    assert (membership.user.username, membership.project, membership.role) == ("admin", project, Role.OWNER)


def test_what_an_administrator_deleted_does_not_come_back() -> None:
    call_command("bootstrap", verbosity=0)
    Flavour.objects.exclude(name="small").delete()
    Project.objects.update(name="Renamed")
    assert _printed("bootstrap") == ""
    assert (Flavour.objects.count(), Project.objects.get().name) == (1, "Renamed")


def test_a_host_is_registered_once_and_brought_up_to_date() -> None:
    text = _printed("register_host", "local", uri="qemu:///system", pool_dir="/srv/a")
    assert text == "local: qemu:///system, disks in /srv/a\n"
    call_command("register_host", "local", "--uri", "qemu:///session", "--pool-dir", "/srv/b", verbosity=0)
    host = Host.objects.get()
    assert (host.uri, host.pool_dir, host.network) == ("qemu:///session", "/srv/b", "casement")


def test_a_host_with_a_name_that_no_queue_can_have_is_refused() -> None:
    with pytest.raises(CommandError, match="letters, digits"):
        call_command("register_host", "two words", uri="qemu:///system", pool_dir="/srv")
