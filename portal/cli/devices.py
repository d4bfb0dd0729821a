"""Commands about volumes, and about what machines have plugged in: disks and network cards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click

from portal.cli.client import Client, Json
from portal.cli.errors import CliError
from portal.cli.parts import (
    Context,
    done,
    is_id,
    machine_named,
    machine_names,
    names,
    only,
    pass_context,
    project_named,
)

_machine: Callable[[Any], Any] = click.argument(
    "machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start)
)
_project: Callable[[Any], Any] = click.option(
    "--project", help="In which project, where several have one of this name."
)
_wait: Callable[[Any], Any] = click.option("--wait", is_flag=True, help="Until it is done.")


def _volume_names(ctx: click.Context, _param: click.Parameter, start: str) -> list[Any]:
    return names(ctx, "volumes", start, tell="status")


# --- volumes ------------------------------------------------------------------------------------------------------


@click.group()
def volume() -> None:
    """Volumes: disks of their own. See: casement ls volumes."""


@volume.command("show")
@click.argument("name", shell_complete=_volume_names)
@_project
@pass_context
def show_volume(context: Context, name: str, project: str | None) -> None:
    """One volume, by its name or id."""
    context.output.one(_volume(context.client, name, project), key="id")


@volume.command("create")
@click.argument("name", required=False)
@click.option("--size", "size_gib", type=click.IntRange(min=1), required=True, metavar="GIB")
@click.option("--project", help="Where, if you have several projects.")
@_wait
@pass_context
def create_volume(context: Context, name: str | None, *, size_gib: int, project: str | None, wait: bool) -> None:
    """Have a volume made. Without a name one is chosen."""
    body = {"project": project_named(context.client, project)["id"], "size_gib": size_gib, "name": name}
    done(context, context.client.send("POST", "volumes", body), wait=wait)


@volume.command("grow")
@click.argument("name", shell_complete=_volume_names)
@click.argument("size_gib", type=click.IntRange(min=1), metavar="GIB")
@_project
@_wait
@pass_context
def grow_volume(context: Context, name: str, size_gib: int, *, project: str | None, wait: bool) -> None:
    """Make a volume larger, whether a machine has it or not."""
    found = _volume(context.client, name, project)
    held = found["attached"]
    path = f"machines/{held['machine']['id']}/disks/{held['disk']}" if held else f"volumes/{found['id']}"
    done(context, context.client.send("POST", f"{path}/grow", {"size_gib": size_gib}), wait=wait)


@volume.command("rm")
@click.argument("name", nargs=-1, required=True, shell_complete=_volume_names)
@_project
@_wait
@click.confirmation_option(prompt="All that is on it is lost. Delete?")
@pass_context
def remove_volume(context: Context, name: tuple[str, ...], *, project: str | None, wait: bool) -> None:
    """Delete volumes that no machine has."""
    for one in name:
        found = _volume(context.client, one, project)
        done(context, context.client.send("DELETE", f"volumes/{found['id']}"), wait=wait)


def _volume(client: Client, wanted: str, project: str | None) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"volumes/{wanted}"))
    of = project_named(client, project)["id"] if project else None
    found = client.get("volumes", name=wanted, project=of)["items"]
    return only(found, f"volume “{wanted}”", lambda one: one["project"]["name"])


# --- disks of machines --------------------------------------------------------------------------------------------


@click.command()
@_machine
@click.argument("volume", required=False, shell_complete=_volume_names)
@click.option("--new", "size_gib", type=click.IntRange(min=1), metavar="GIB", help="A new volume of this size.")
@click.option("--delete-with-machine", is_flag=True, help="It goes when the machine is deleted.")
@_project
@_wait
@pass_context
def attach(
    context: Context,
    machine: str,
    volume: str | None,
    *,
    size_gib: int | None,
    delete_with_machine: bool,
    project: str | None,
    wait: bool,
) -> None:
    """Attach a volume to a machine, at once if it runs. With --new it is made first, and may be given a name."""
    found = machine_named(context.client, machine, project)
    body: Json = {"delete_with_machine": delete_with_machine}
    if size_gib is not None:
        body |= {"size_gib": size_gib, "name": volume}
    elif volume is not None:
        # A machine can have only what is its own project's.
        body["volume"] = _volume(context.client, volume, found["project"]["id"])["id"]
    else:
        raise click.UsageError("Name a volume, or have one made by --new.")
    done(context, context.client.send("POST", f"machines/{found['id']}/disks", body), wait=wait)


@click.command()
@_machine
@click.argument("volume", shell_complete=_volume_names)
@_project
@_wait
@pass_context
def detach(context: Context, machine: str, volume: str, *, project: str | None, wait: bool) -> None:
    """Detach a volume from a machine; it is kept. It is done when the machine's host says so."""
    found = machine_named(context.client, machine, project)
    disk = _disk(context.client, found, volume)
    done(context, context.client.send("DELETE", f"machines/{found['id']}/disks/{disk['id']}"), wait=wait)


@click.command()
@_machine
@click.argument("disk", shell_complete=_volume_names)
@click.option("--iops", type=click.IntRange(min=0), default=0, help="Operations a second; 0 for no limit.")
@click.option("--mib-per-s", type=click.IntRange(min=0), default=0, help="MiB a second; 0 for no limit.")
@_project
@_wait
@pass_context
def limit(
    context: Context, machine: str, disk: str, *, iops: int, mib_per_s: int, project: str | None, wait: bool
) -> None:
    """Limit what a machine's disk does in a second, reading and writing together; without limits, take them away.
    DISK is a volume, or root."""
    found = machine_named(context.client, machine, project)
    one = _disk(context.client, found, disk)
    body = {"iops": iops, "mib_per_s": mib_per_s}
    done(context, context.client.send("PUT", f"machines/{found['id']}/disks/{one['id']}/limits", body), wait=wait)


def _disk(client: Client, machine: Json, wanted: str) -> Json:
    disks = client.get(f"machines/{machine['id']}/disks")["items"]
    mine = [disk for disk in disks if wanted in {disk["name"], disk["id"], disk["volume"]}]
    return only(mine, f"disk “{wanted}” in {machine['name']}", lambda one: str(one["id"]))


# --- network cards ------------------------------------------------------------------------------------------------


@click.group()
def card() -> None:
    """Network cards of machines. Which there are: casement show."""


@card.command("add")
@_machine
@_project
@_wait
@pass_context
def add_card(context: Context, machine: str, *, project: str | None, wait: bool) -> None:
    """Plug another network card into a machine, at once if it runs."""
    found = machine_named(context.client, machine, project)
    done(context, context.client.send("POST", f"machines/{found['id']}/cards"), wait=wait)


@card.command("rm")
@_machine
@click.argument("mac")
@_project
@_wait
@pass_context
def remove_card(context: Context, machine: str, mac: str, *, project: str | None, wait: bool) -> None:
    """Unplug a network card, by its MAC address or id. It is done when the machine's host says so."""
    found = machine_named(context.client, machine, project)
    cards = context.client.get(f"machines/{found['id']}/cards")["items"]
    one = only(
        [one for one in cards if mac.lower() in {one["mac"], one["id"]}], f"card “{mac}”", lambda one: one["mac"]
    )
    if one["id"] is None:
        raise CliError("The first network card stays with its machine.")
    done(context, context.client.send("DELETE", f"machines/{found['id']}/cards/{one['id']}"), wait=wait)
