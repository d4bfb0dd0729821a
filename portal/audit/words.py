"""What the audit trail's actions are called for people. An action that is not here is shown as it is."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from portal.audit.models import Event

Words = str | Promise

AREAS: dict[str, Words] = {
    "machine": _("Machines"),
    "disk": _("Disks"),
    "card": _("Network cards"),
    "profile": _("People's files"),
    "volume": _("Volumes"),
    "snapshot": _("Snapshots"),
    "console": _("Screens"),
    "image": _("Images"),
    "iso": _("ISOs"),
    "parent": _("Running copies"),
    "disc": _("Discs"),
    "project": _("Projects"),
    "member": _("Members"),
    "key": _("SSH keys"),
    "token": _("API tokens"),
    "host": _("Hosts"),
    "pool": _("Desktop pools"),
    "desktop": _("Desktops"),
    "deployment": _("Deployments"),
    "job": _("Jobs"),
    "webhook": _("Webhooks"),
    "portal": _("Portal"),
}

ACTIONS: dict[str, Words] = {
    "machine.requested": _("asked for the machine"),
    "machine.clone": _("asked for the clone"),
    "machine.cloned": _("cloned the machine"),
    "machine.captured": _("had an image made of the machine"),
    "machine.rebuild": _("had the machine rebuilt from an image"),
    "machine.retried": _("had the machine built again"),
    "machine.start": _("started the machine"),
    "machine.stop": _("shut the machine down"),
    "machine.reboot": _("restarted the machine"),
    "machine.reset": _("reset the machine"),
    "machine.force_off": _("forced the machine off"),
    "machine.pause": _("paused the machine"),
    "machine.resume": _("let the machine go on"),
    "machine.hibernate": _("hibernated the machine"),
    "machine.discard": _("had its saved memory forgotten"),
    "machine.resize": _("gave the machine another size"),
    "machine.password": _("had a new password set"),
    "machine.ssh_key": _("had an SSH key added"),
    "machine.changed": _("changed name, labels or protection"),
    "machine.user_data": _("looked at the cloud-config"),
    "machine.bin": _("put the machine into the bin"),
    "machine.restored": _("took the machine out of the bin"),
    "machine.delete": _("deleted the machine"),
    "machine.adopted": _("took the machine over"),
    "machine.repair": _("had the machine defined again"),
    "machine.secret": _("looked at the first password"),
    "machine.rescue": _("started the machine from a rescue system"),
    "machine.unrescue": _("had the machine start from its own disk again"),
    "machine.rescue_secret": _("looked at the rescue system's password"),
    "disc.insert": _("had a disc inserted"),
    "disc.eject": _("had a disc ejected"),
    "disc.first": _("chose whether it starts from its disc"),
    "console.open": _("opened the screen"),
    "console.open_serial": _("opened the serial console"),
    "console.control": _("passed on control of the screen"),
    "console.ask": _("asked for control of the screen"),
    "console.kick": _("removed somebody from the screen"),
    "console.let_in": _("let somebody back on to the screen"),
    "console.end": _("ended somebody's session"),
    "console.watch": _("watched somebody's screen"),
    "console.take_over": _("took the screen over on another device"),
    "console.share": _("made a share link"),
    "console.unshare": _("revoked a share link"),
    "console.link_opened": _("opened a share link"),
    "disk.attach": _("had a disk attached"),
    "disk.detach": _("had a disk detached"),
    "disk.grow": _("had a disk made larger"),
    "disk.limits": _("limited a disk"),
    "disk.first": _("chose the disk that it starts from"),
    "disk.kept": _("chose what becomes of a disk"),
    "card.add": _("had a network card added"),
    "card.remove": _("had a network card removed"),
    "snapshot.take": _("took a snapshot"),
    "snapshot.restore": _("restored a snapshot"),
    "snapshot.delete": _("deleted a snapshot"),
    "snapshot.changed": _("renamed the snapshot"),
    "snapshot.scheduled": _("set when snapshots are taken"),
    "snapshot.unscheduled": _("stopped snapshots by themselves"),
    "profile.attach": _("had a person's files brought to the machine"),
    "profile.detach": _("had a person's files put away"),
    "profile.delete": _("deleted a person's files"),
    "volume.create": _("created the volume"),
    "volume.grow": _("made the volume larger"),
    "volume.delete": _("deleted the volume"),
    "image.registered": _("added the image"),
    "image.build": _("had a version built"),
    "image.uploaded": _("uploaded the image"),
    "image.fetch": _("had the image fetched from an address"),
    "image.capture": _("had a version made of a machine"),
    "image.deleted": _("deleted a version"),
    "parent.wished": _("had a running copy of the image kept ready"),
    "parent.unwished": _("had no running copy of the image kept ready any more"),
    "parent.retried": _("had the running copy made again"),
    "iso.uploaded": _("uploaded the ISO"),
    "iso.delete": _("deleted the ISO"),
    "project.created": _("created the project"),
    "project.quota": _("changed the quota"),
    "project.bin": _("changed the days in the bin"),
    "member.added": _("added a member"),
    "member.role": _("changed a role"),
    "member.removed": _("removed a member"),
    "key.added": _("added an SSH key"),
    "key.deleted": _("deleted an SSH key"),
    "token.made": _("made an API token"),
    "token.revoked": _("revoked an API token"),
    "host.registered": _("registered the host"),
    "host.changed": _("changed settings of the host"),
    "host.enabled": _("let the host take new machines"),
    "host.disabled": _("stopped new machines on the host"),
    "host.copy_removed": _("removed a copy from the host"),
    "pool.created": _("created the desktop pool"),
    "pool.changed": _("changed the desktop pool"),
    "pool.hours": _("changed the hours of the desktop pool"),
    "pool.entitled": _("entitled somebody to the desktop pool"),
    "pool.unentitled": _("took an entitlement to the desktop pool away"),
    "pool.maintenance": _("changed the maintenance of the desktop pool"),
    "pool.message": _("sent a message to the desktop pool"),
    "pool.recompose": _("gave the desktop pool another image version"),
    "pool.deleted": _("deleted the desktop pool"),
    "desktop.taken": _("was given a desktop"),
    "desktop.left": _("signed out of a desktop"),
    "desktop.ended": _("ended a desktop session"),
    "desktop.disconnect": _("disconnected a desktop session"),
    "desktop.recycle": _("had a desktop made new"),
    "deployment.made": _("made the deployment"),
    "deployment.added": _("added people to the deployment"),
    "deployment.removed": _("removed somebody from the deployment"),
    "deployment.deleted": _("deleted the deployment"),
    "deployment.links": _("made links for people without an account"),
    "deployment.unlink": _("revoked somebody's link"),
    "deployment.link_opened": _("came in by a link"),
    "deployment.message": _("sent a message to the screens of a deployment"),
    "deployment.step_in": _("looked at somebody's screen in a deployment"),
    "deployment.own_start": _("started their own desktop"),
    "job.cancelled": _("cancelled the job"),
    "webhook.added": _("added the webhook"),
    "webhook.changed": _("changed the webhook"),
    "webhook.enabled": _("switched the webhook on"),
    "webhook.disabled": _("switched the webhook off"),
    "webhook.stopped": _("switched the webhook off after it had failed for long"),
    "webhook.deleted": _("deleted the webhook"),
    "webhook.tested": _("tried the webhook"),
    "webhook.resent": _("had an event sent again"),
    "webhook.secret": _("looked at the webhook's secret"),
    "webhook.new_secret": _("gave the webhook a new secret"),
    "portal.backed_up": _("backed the portal up"),
    "portal.restored": _("brought the portal back from a backup"),
}


def words_for(action: str) -> Words:
    return ACTIONS.get(action, action)


# The page of each type of target. What was deleted since answers 404 there, like everything that is not there.
PAGES = {
    "machine": "machines:detail",
    "host": "hosts:detail",
    "image": "images:detail",
    "project": "accounts:project",
    "job": "jobs:detail",
    "volume": "volumes:detail",
    "iso": "isos:detail",
}


@dataclass(frozen=True, slots=True)
class Line:
    """An event as people read it. `url` is empty where there is no page to go to."""

    event: Event
    words: Words
    detail: str
    url: str


def lines_of(events: Iterable[Event]) -> list[Line]:
    return [Line(event, words_for(event.action), _detail(event), _url(event)) for event in events]


def _url(event: Event) -> str:
    page = PAGES.get(event.target_type)
    try:
        return reverse(page, args=[event.target_id]) if page else ""
    except NoReverseMatch:
        return ""


def _detail(event: Event) -> str:
    """The event's detail on one line: what it was and what it became where both are known, else names and values."""
    detail = event.detail if isinstance(event.detail, dict) else {}
    before, after = detail.get("before"), detail.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        parts = [f"{name}: {before.get(name)} → {value}" for name, value in after.items() if value != before.get(name)]
        return ", ".join(parts)
    if "person" in detail:
        roles = [str(detail[name]) for name in ("before", "after", "role") if name in detail]
        return f"{detail['person']} ({' → '.join(roles)})" if roles else str(detail["person"])
    return ", ".join(f"{name}: {value}" for name, value in detail.items())
