"""Commands about ISOs, the drives of machines, and rescue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click

from portal.cli.client import Client, Json
from portal.cli.errors import NOT_FOUND, CliError
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
from portal.cli.pieces import send_file

COLUMNS = ("name", "role", "project.name", "status", "size_bytes", "id")

_machine: Callable[[Any], Any] = click.argument(
    "machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start)
)
_project: Callable[[Any], Any] = click.option(
    "--project", help="In which project, where several have one of this name."
)
_wait: Callable[[Any], Any] = click.option("--wait", is_flag=True, help="Until it is done.")


def _iso_names(ctx: click.Context, _param: click.Parameter, start: str) -> list[Any]:
    return names(ctx, "isos", start, tell="status")


def iso_named(client: Client, wanted: str) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"isos/{wanted}"))
    found = client.get("isos", name=wanted)["items"]
    return only(found, f"ISO “{wanted}”", lambda one: one["id"])


# --- the library --------------------------------------------------------------------------------------------------


@click.group()
def iso() -> None:
    """ISOs: discs that machines are installed or rescued from."""


@iso.command("ls")
@click.option("-s", "--search", "q", help="Look for this.")
@pass_context
def list_isos(context: Context, q: str | None) -> None:
    """List ISOs."""
    context.output.rows(context.client.every("isos", limit=200, q=q), COLUMNS, key="name")


@iso.command("show")
@click.argument("name", shell_complete=_iso_names)
@pass_context
def show_iso(context: Context, name: str) -> None:
    """One ISO, by its name or id."""
    context.output.one(iso_named(context.client, name), key="id")


@iso.command("upload")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="What it is called; else the file's name.")
@click.option("--drivers", is_flag=True, help="A disc with drivers, to be put in beside an installer.")
@click.option("--project", help="For whom, if you have several projects.")
@click.option("--everyone", is_flag=True, help="For everyone; operators may.")
@click.option("--wait", is_flag=True, help="Until it has been checked and can be used.")
@pass_context
def upload_iso(
    context: Context,
    file: Path,
    *,
    name: str | None,
    drivers: bool,
    project: str | None,
    everyone: bool,
    wait: bool,
) -> None:
    """Send an ISO to the portal. If it breaks off, the same command again goes on where it was."""
    send_iso(context, file, name=name, drivers=drivers, project=project, everyone=everyone, wait=wait)


def send_iso(
    context: Context,
    file: Path,
    *,
    name: str | None,
    drivers: bool = False,
    project: str | None,
    everyone: bool,
    wait: bool,
) -> None:
    """What arrived is compared with what was read here."""
    body: Json = {"name": name or file.stem, "role": "drivers" if drivers else "installer"}
    if not everyone:
        body["project"] = project_named(context.client, project)["id"]
    body["upload"], body["sha256"] = send_file(context.client, context.output, file)
    done(context, context.client.send("POST", "isos", body), wait=wait)


@iso.command("rm")
@click.argument("name", nargs=-1, required=True, shell_complete=_iso_names)
@_wait
@click.confirmation_option(prompt="Delete?")
@pass_context
def remove_iso(context: Context, name: tuple[str, ...], *, wait: bool) -> None:
    """Delete ISOs that lie in no machine's drive."""
    for one in name:
        done(context, context.client.send("DELETE", f"isos/{iso_named(context.client, one)['id']}"), wait=wait)


# --- drives -------------------------------------------------------------------------------------------------------


@click.group()
def disc() -> None:
    """What lies in machines' disc drives."""


@disc.command("ls")
@_machine
@_project
@pass_context
def list_discs(context: Context, machine: str, *, project: str | None) -> None:
    """A machine's drives."""
    found = machine_named(context.client, machine, project)
    rows = context.client.get(f"machines/{found['id']}/discs")["items"]
    context.output.rows(rows, ("drive", "iso.name", "task", "id"), key="drive")


@disc.command("insert")
@_machine
@click.argument("iso", shell_complete=_iso_names)
@click.option("--drive", type=click.IntRange(min=0), help="0 or 1; else the first that is empty.")
@_project
@_wait
@pass_context
def insert_disc(
    context: Context, machine: str, iso: str, *, drive: int | None, project: str | None, wait: bool
) -> None:
    """Put an ISO into a machine's drive, at once if it runs."""
    found = machine_named(context.client, machine, project)
    body = {"iso": iso_named(context.client, iso)["id"], "drive": drive}
    done(context, context.client.send("POST", f"machines/{found['id']}/discs", body), wait=wait)


@disc.command("eject")
@_machine
@click.option("--drive", type=click.IntRange(min=0), help="0 or 1, if both have a disc.")
@click.option("--force", is_flag=True, help="Without asking the guest to open the drive.")
@_project
@_wait
@pass_context
def eject_disc(
    context: Context, machine: str, *, drive: int | None, force: bool, project: str | None, wait: bool
) -> None:
    """Take a disc out. It is done when the machine's host says so."""
    found = machine_named(context.client, machine, project)
    lines = context.client.get(f"machines/{found['id']}/discs")["items"]
    full = [line for line in lines if line["id"] and drive in {None, line["drive"]}]
    one = only(full, f"disc in {found['name']}", lambda line: f"--drive {line['drive']}")
    path = f"machines/{found['id']}/discs/{one['id']}{'?force=true' if force else ''}"
    done(context, context.client.send("DELETE", path), wait=wait)


# --- rescue -------------------------------------------------------------------------------------------------------


@click.command()
@_machine
@click.option("--image", help="Start it from this image, with its own disk beside.")
@click.option("--iso", "iso_name", help="Start it from this ISO.", shell_complete=_iso_names)
@click.option("--end", is_flag=True, help="Start it from its own disk again.")
@click.option("--password", is_flag=True, help="Show user and password of the rescue system.")
@_project
@_wait
@pass_context
def rescue(
    context: Context,
    machine: str,
    *,
    image: str | None,
    iso_name: str | None,
    end: bool,
    password: bool,
    project: str | None,
    wait: bool,
) -> None:
    """Start a machine from another system, to mend its own; or back. Its power is cut. Without an option: from what."""
    found = machine_named(context.client, machine, project)
    path = f"machines/{found['id']}/rescue"
    if password:
        context.output.one(context.client.send("POST", f"{path}/secret"), key="password")
    elif end:
        done(context, context.client.send("DELETE", path), wait=wait)
    elif image or iso_name:
        done(context, context.client.send("POST", path, _system(context.client, path, image, iso_name)), wait=wait)
    else:
        context.output.rows(context.client.get(path)["items"], ("title", "image", "iso"), key="title")


def _system(client: Client, path: str, image: str | None, iso_name: str | None) -> Json:
    if iso_name:
        return {"iso": iso_named(client, iso_name)["id"]}
    for one in client.get(path)["items"]:
        if one["image"] and (image == one["image"] or _is_image(client, one["image"], str(image))):
            return {"image": one["image"]}
    raise CliError(f"The machine cannot be started from an image “{image}”.", NOT_FOUND)


def _is_image(client: Client, pk: str, wanted: str) -> bool:
    found = client.get(f"images/{pk}")
    return wanted in {found["slug"], found["title"]}
