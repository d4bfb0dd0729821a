"""Commands about a machine's disk as a whole: clones, images of machines, rebuilding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click

from portal.cli.client import Client, Json
from portal.cli.parts import Context, done, is_id, machine_named, machine_names, only, pass_context

_machine: Callable[[Any], Any] = click.argument(
    "machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start)
)
_project: Callable[[Any], Any] = click.option(
    "--project", help="In which project, where several have one of this name."
)
_wait: Callable[[Any], Any] = click.option("--wait", is_flag=True, help="Until it is done.")
_from: Callable[[Any], Any] = click.option(
    "--snapshot", help="One of its snapshots, by name or id; else its disk as it is now."
)
_keep: Callable[[Any], Any] = click.option(
    "--keep-identity", is_flag=True, help="Leave machine-id and keys in the copy, of a system that is not known here."
)


@click.command()
@_machine
@click.argument("name", required=False)
@click.option("--full", is_flag=True, help="With a disk that stands alone, rather than reading from the original's.")
@_from
@_keep
@_project
@_wait
@pass_context
def clone(
    context: Context,
    machine: str,
    name: str | None,
    *,
    full: bool,
    snapshot: str | None,
    keep_identity: bool,
    project: str | None,
    wait: bool,
) -> None:
    """Have a machine made of another one's disk, beside it. Without a name a free one is chosen."""
    found = machine_named(context.client, machine, project)
    body = {"name": name, "kind": "full" if full else "linked", "identity": _identity(keep_identity)}
    body["snapshot"] = _snapshot_id(context.client, found, snapshot)
    done(context, context.client.send("POST", f"machines/{found['id']}/clone", body), wait=wait)


@click.command()
@_machine
@click.option("--image", help="By its short name or id; else the one that the machine is made of.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for its name.")
@_project
@_wait
@pass_context
def rebuild(context: Context, machine: str, *, image: str | None, yes: bool, project: str | None, wait: bool) -> None:
    """Replace a machine's root disk by a new one of an image. It keeps its name, address, size and volumes."""
    found = machine_named(context.client, machine, project)
    if not yes:
        click.echo(f"Everything on the root disk of {found['name']} will be lost.", err=True)
    typed = found["name"] if yes else click.prompt("Type its name to confirm", err=True)
    body: Json = {"confirm": typed}
    if image:
        body["image"] = image_named(context.client, image)["id"]
    done(context, context.client.send("POST", f"machines/{found['id']}/rebuild", body), wait=wait)


@click.group()
def image() -> None:
    """Images of machines. See: casement ls images; a file becomes one by casement cp."""


@image.command("capture")
@_machine
@click.option("--title", help="What a new image is called.")
@click.option("--as", "existing", metavar="IMAGE", help="Another version of this image, by its short name or id.")
@click.option("--everyone", is_flag=True, help="For everyone; operators may.")
@_from
@_keep
@_project
@_wait
@pass_context
def capture(
    context: Context,
    machine: str,
    *,
    title: str | None,
    existing: str | None,
    everyone: bool,
    snapshot: str | None,
    keep_identity: bool,
    project: str | None,
    wait: bool,
) -> None:
    """Make an image of a machine's disk, without its identity, people's keys, histories and logs."""
    if (title is None) == (existing is None):
        raise click.UsageError("Say what the new image is called (--title), or which one gets a version (--as).")
    found = machine_named(context.client, machine, project)
    body: Json = {"everyone": everyone, "identity": _identity(keep_identity)}
    body["snapshot"] = _snapshot_id(context.client, found, snapshot)
    body |= {"title": title} if title else {"image": image_named(context.client, cast(str, existing))["id"]}
    done(context, context.client.send("POST", f"machines/{found['id']}/image", body), wait=wait)


def _identity(keep: bool) -> str:
    return "kept" if keep else "new"


def _snapshot_id(client: Client, machine: Json, wanted: str | None) -> str | None:
    if wanted is None or is_id(wanted):
        return wanted
    found = [one for one in client.every(f"machines/{machine['id']}/snapshots", limit=200) if one["name"] == wanted]
    return cast(str, only(found, f"snapshot “{wanted}”", lambda one: one["id"])["id"])


def image_named(client: Client, wanted: str) -> Json:
    """By its id, short name or title."""
    if is_id(wanted):
        return cast(Json, client.get(f"images/{wanted}"))
    found = [one for one in client.every("images", limit=200) if wanted in {one["slug"], one["title"]}]
    return only(found, f"image “{wanted}”", lambda one: one["id"])


COMMANDS = (clone, rebuild, image)
