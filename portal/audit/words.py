"""What the audit trail's actions are called for people. An action that is not here is shown as it is."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Words = str | Promise

AREAS: dict[str, Words] = {
    "machine": _("Machines"),
    "console": _("Screens"),
    "image": _("Images"),
    "project": _("Projects"),
    "member": _("Members"),
    "key": _("SSH keys"),
    "host": _("Hosts"),
    "job": _("Jobs"),
}

ACTIONS: dict[str, Words] = {
    "machine.requested": _("asked for the machine"),
    "machine.retried": _("had the machine built again"),
    "machine.start": _("started the machine"),
    "machine.stop": _("shut the machine down"),
    "machine.reboot": _("restarted the machine"),
    "machine.reset": _("reset the machine"),
    "machine.force_off": _("forced the machine off"),
    "machine.delete": _("deleted the machine"),
    "machine.secret": _("looked at the first password"),
    "console.open": _("opened the screen"),
    "image.registered": _("added the image"),
    "image.build": _("had a version built"),
    "image.uploaded": _("uploaded the image"),
    "image.deleted": _("deleted a version"),
    "project.created": _("created the project"),
    "project.quota": _("changed the quota"),
    "member.added": _("added a member"),
    "member.role": _("changed a role"),
    "member.removed": _("removed a member"),
    "key.added": _("added an SSH key"),
    "key.deleted": _("deleted an SSH key"),
    "host.registered": _("registered the host"),
    "host.enabled": _("let the host take new machines"),
    "host.disabled": _("stopped new machines on the host"),
    "job.cancelled": _("cancelled the job"),
}


def words_for(action: str) -> Words:
    return ACTIONS.get(action, action)
