"""The commands."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, cast, get_args

import click
from click.shell_completion import get_completion_class

from portal.cli import (
    config,
    copies,
    deployments,
    desktops,
    devices,
    files,
    isos,
    parents,
    pools,
    snapshots,
    telling,
    vnc,
)
from portal.cli.client import Client, Json
from portal.cli.config import Config, Portal
from portal.cli.console_log import console_log
from portal.cli.errors import NOT_FOUND, CliError
from portal.cli.jobs import wait_for
from portal.cli.output import Form, Output, clean
from portal.cli.parts import Context, done, is_id, machine_named, machine_names, only, pass_context, project_named
from portal.cli.pieces import send_file
from portal.cli.webhooks import webhook

COLUMNS: Final = {
    "machines": ("name", "project.name", "status", "power_state", "task", "addresses", "flavour", "id"),
    "volumes": ("name", "project.name", "size_gib", "status", "task", "attached.machine", "id"),
    "bin": ("name", "project.name", "owner", "disk_gib", "binned_at", "purge_at", "id"),
    "images": ("title", "slug", "kind", "project.name", "id"),
    "isos": isos.COLUMNS,
    "files": files.COLUMNS,
    "projects": ("name", "role", "id"),
    "flavours": ("name", "title", "vcpus", "memory_mib", "disk_gib"),
    "jobs": ("title", "target.name", "status", "progress", "actor", "created_at", "id"),
    "hosts": ("name", "enabled", "is_answering", "cpus", "load", "machine_count", "id"),
    "keys": ("name", "fingerprint", "id"),
    "tokens": ("name", "hint", "scope", "project.name", "expires_at", "id"),
    "sessions": ("username", "machine_name", "mode", "started_at", "id"),
}
KEYS: Final = {
    "machines": "name",
    "volumes": "name",
    "bin": "name",
    "images": "slug",
    "isos": "name",
    "projects": "name",
    "flavours": "name",
    "hosts": "name",
}


class Group(click.Group):
    """Says what went wrong in one line, and by the exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CliError as error:
            click.echo(f"casement: {clean(error)}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            # Whoever read the output has read enough; nothing is left to be written at the end either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None})
@click.option("-p", "--portal", metavar="NAME", help="Another portal than the one signed in to last.")
@click.option(
    "-o", "--output", "form", type=click.Choice(get_args(Form)), default="table", help="What is shown, and how."
)
@click.option("-q", "--quiet", is_flag=True, help="Short for -o quiet: names or ids only.")
@click.pass_context
def casement(ctx: click.Context, portal: str | None, form: str, quiet: bool) -> None:
    """Desktops and servers of a Casement portal, from the command line.

    \b
    Exit codes: 0 done, 1 failed, 2 typed wrongly, 3 not signed in,
                4 no such thing, 5 in another state, 6 no answer.
    """
    ctx.obj = Context(portal, Output(cast(Form, "quiet" if quiet else form)))
    ctx.call_on_close(lambda: ctx.obj._client and ctx.obj._client.close())


def main() -> None:
    casement(prog_name="casement")


# --- signing in ---------------------------------------------------------------------------------------------------


@casement.command()
@click.argument("url")
@click.option("--name", help="What the portal is called here; else its host.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False, resolve_path=True), help="Certificates to trust.")
@pass_context
def login(context: Context, url: str, name: str | None, ca: str | None) -> None:
    """Sign in to a portal by a token, which is made on its page API tokens. It is read from the terminal or a pipe."""
    url = config.checked_url(url)
    name = name or url.split("://")[1].split("/")[0]
    typed = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    portal = Portal(name, url, typed.strip(), ca or "")
    client = Client(portal)
    try:
        me = client.get("me")
    finally:
        client.close()
    known = config.load()
    config.save(Config(name, {**known.portals, name: portal}))
    context.output.note(f"Signed in to {name} as {me['username']}; the token ends on {me['token']['expires_at'][:10]}.")


@casement.command()
@click.argument("name", required=False)
@pass_context
def logout(context: Context, name: str | None) -> None:
    """Forget a portal and its token here. The token itself is revoked on the portal's page."""
    known = config.load()
    chosen = known.chosen(name or context.portal_name).name
    left = {key: one for key, one in known.portals.items() if key != chosen}
    config.save(Config(next(iter(left), "") if known.current == chosen else known.current, left))
    context.output.note(f"{chosen} is forgotten here.")


@casement.command()
@pass_context
def portals(context: Context) -> None:
    """The portals that you are signed in to."""
    known = config.load()
    rows = [
        {"name": one.name, "url": one.url, "current": "*" * (one.name == known.current)}
        for one in known.portals.values()
    ]
    context.output.rows(rows, ("current", "name", "url"), key="name")


# --- looking ------------------------------------------------------------------------------------------------------


@casement.command("ls")
@click.argument("what", type=click.Choice(list(COLUMNS)), default="machines")
@click.option("-s", "--search", "q", help="Look for this.")
@click.option("--status", help="Machines: running, off, hibernated, busy, failed …; volumes: available, in_use …")
@click.option("-l", "--label", help="Machines with this label.")
@click.option("--project", help="Machines or volumes of this project.")
@click.option("--all", "everything", is_flag=True, help="All of them; else the newest 200.")
@pass_context
def list_(
    context: Context,
    what: str,
    *,
    q: str | None,
    status: str | None,
    label: str | None,
    project: str | None,
    everything: bool,
) -> None:
    """List machines, or volumes, what is in the bin, images, ISOs, people's files, projects, flavours, jobs, hosts,
    keys, tokens or sessions."""
    client = context.client
    params: Json = {"q": q}
    if what in {"machines", "volumes"}:
        params["status"] = status
    if what == "machines":
        params["label"] = label
    if project:
        params["project"] = project_named(client, project)["id"]
    rows: Iterable[Json] = (
        client.every(what, limit=200, **params) if everything else client.get(what, limit=200, **params)["items"]
    )
    context.output.rows(rows, COLUMNS[what], key=KEYS.get(what, "id"))


@casement.command()
@click.argument("machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start))
@click.option("--project", help="In which project, where several have one of this name.")
@pass_context
def show(context: Context, machine: str, project: str | None) -> None:
    """One machine, by its name or id, with its disks and network cards. Of a volume: casement volume show."""
    found = machine_named(context.client, machine, project)
    of_it = {what: context.client.get(f"machines/{found['id']}/{what}")["items"] for what in ("disks", "cards")}
    context.output.one(found | of_it, key="id")


@casement.command()
@click.argument("machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start))
@click.option("--project", help="In which project, where several have one of this name.")
@click.option("-f", "--follow", is_flag=True, help="Wait for the job that works on it now.")
@click.option("-c", "--console", is_flag=True, help="What it printed on its serial port, instead.")
@click.option("-s", "--search", "q", help="Only the console's lines with this.")
@pass_context
def logs(context: Context, machine: str, *, project: str | None, follow: bool, console: bool, q: str | None) -> None:
    """What happened to a machine: its jobs, and what people did. With -c its console log."""
    found = machine_named(context.client, machine, project)
    if console or q:
        _show_console_log(context, found, q)
        return
    rows = context.client.get(f"machines/{found['id']}/activity")["items"]
    context.output.rows(rows, ("at", "title", "who", "job"), key="title")
    if follow and found["job"]:
        wait_for(context.client, context.output, context.client.get(f"jobs/{found['job']}"))


def _show_console_log(context: Context, machine: Json, q: str | None) -> None:
    log = console_log(context.client, machine, q)
    if context.output.form == "json":
        context.output.json(log)
        return
    if log["matching"] > len(log["lines"]):
        context.output.note(f"The newest {len(log['lines'])} of {log['matching']} lines:")
    for line in log["lines"]:
        context.output.line(line["text"])


# --- a new one ----------------------------------------------------------------------------------------------------


@casement.command()
@click.argument("name", required=False)
@click.option("--image", help="An image, by its short name or id.")
@click.option("--iso", "iso_name", help="An ISO in place of an image: to install from, on to an empty disk.")
@click.option("--drivers", help="With --iso: another ISO in the second drive.")
@click.option("--disk", "disk_gib", type=click.IntRange(min=1), metavar="GIB", help="With --iso: the disk's size.")
@click.option("--firmware", type=click.Choice(["bios", "uefi", "uefi_secure"]), help="With --iso; else uefi.")
@click.option("--tpm", is_flag=True, help="With --iso: a TPM 2.0.")
@click.option("--flavour", required=True, help="A size; see: casement ls flavours.")
@click.option("--project", help="Where, if you have several projects.")
@click.option("--key", type=click.File(), help="A file with the public key that lets in.")
@click.option("--user", help="The user inside.")
@click.option("--wait", is_flag=True, help="Until it is up.")
@pass_context
def launch(
    context: Context,
    /,
    name: str | None,
    *,
    image: str | None,
    iso_name: str | None,
    flavour: str,
    project: str | None,
    key: Any,
    user: str | None,
    wait: bool,
    **of_iso: Any,
) -> None:
    """Have a machine made: of an image, or with an empty disk and an ISO to install from."""
    client = context.client
    if (image is None) == (iso_name is None):
        raise click.UsageError("Say an --image, or an --iso.")
    if iso_name:
        body = {"flavour": flavour, "name": name, **of_iso}
        done(context, _install(client, iso_name, project, body), wait=wait)
        return
    if any(of_iso.values()):
        raise click.UsageError("--drivers, --disk, --firmware and --tpm go with --iso.")
    body = {
        "project": project_named(client, project)["id"],
        "image": copies.image_named(client, str(image))["id"],
        "flavour": flavour,
        "name": name,
        "login_user": user,
        "ssh_key": key.read() if key else "",
    }
    job = client.send("POST", "machines", {field: value for field, value in body.items() if value is not None})
    done(context, job, wait=wait)


def _install(client: Client, iso_name: str, project: str | None, body: Json) -> Json:
    drivers = body.pop("drivers")
    body |= {
        "project": project_named(client, project)["id"],
        "iso": isos.iso_named(client, iso_name)["id"],
        "drivers": isos.iso_named(client, drivers)["id"] if drivers else None,
    }
    given = {field: value for field, value in body.items() if value is not None}
    return cast(Json, client.send("POST", "machines/from-iso", given))


# --- what it can be told ------------------------------------------------------------------------------------------


def _told(name: str, sentence: str, method: str, path: str) -> None:
    """A command that has one machine told something, and may wait for it."""

    def tell(
        context: Context,
        machine: tuple[str, ...],
        project: str | None,
        *,
        wait: bool,
        force: bool = False,
        purge: bool = False,
        keep_volumes: bool = False,
    ) -> None:
        said = {"purge": purge, "keep_volumes": keep_volumes}
        query = "&".join(f"{name}=true" for name, is_so in said.items() if is_so)
        for one in machine:
            found = machine_named(context.client, one, project)
            word = "/force-off" if force else f"{path}?{query}" if query else path
            done(context, context.client.send(method, f"machines/{found['id']}{word}"), wait=wait)

    tell.__doc__ = sentence
    command: Any = pass_context(tell)
    decorators: list[Callable[[Any], Any]] = [
        click.argument(
            "machine", nargs=-1, required=True, shell_complete=lambda ctx, _param, start: machine_names(ctx, start)
        ),
        click.option("--project", help="In which project, where several have one of this name."),
        click.option("--wait", is_flag=True, help="Until it is done."),
    ]
    if name == "stop":
        decorators.append(click.option("--force", is_flag=True, help="Cut the power: what is not saved is lost."))
    if name == "rm":
        decorators.append(click.option("--purge", is_flag=True, help="For good, past its project's bin."))
        decorators.append(click.option("--keep-volumes", is_flag=True, help="Also those that were to go with it."))
        decorators.append(click.confirmation_option(prompt="Its root disk goes with it. Delete?"))
    for decorate in decorators:
        command = decorate(command)
    casement.command(name, help=sentence)(command)


_told("start", "Switch machines on.", "POST", "/start")
_told("stop", "Ask machines to shut down.", "POST", "/stop")
_told("reboot", "Ask machines to restart.", "POST", "/reboot")
_told("reset", "Reset machines, as by the button.", "POST", "/reset")
_told("pause", "Stop machines' processors; their memory stays.", "POST", "/pause")
_told("resume", "Let paused machines go on.", "POST", "/resume")
_told("hibernate", "Save machines' memory to disk and switch them off; start wakes them.", "POST", "/hibernate")
_told("wake", "Wake hibernated machines, as start does.", "POST", "/start")
_told("rm", "Delete machines: into their project's bin, if it has one.", "DELETE", "")


@casement.command()
@click.argument("machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start))
@click.argument("flavour", required=False)
@click.option("--project", help="In which project, where several have one of this name.")
@click.option("--wait", is_flag=True, help="Until it is done.")
@pass_context
def resize(context: Context, machine: str, flavour: str | None, *, project: str | None, wait: bool) -> None:
    """Give a machine another size. Without one: the sizes, and what of each comes now or at the next start."""
    found = machine_named(context.client, machine, project)
    if flavour:
        done(context, context.client.send("POST", f"machines/{found['id']}/resize", {"flavour": flavour}), wait=wait)
        return
    rows = context.client.get(f"machines/{found['id']}/sizes")["items"]
    rows = [{**row, **row["flavour"], "processors": row["vcpus"], "memory": row["memory"]} for row in rows]
    columns = ("name", "vcpus", "processors", "memory_mib", "memory", "reason")
    context.output.rows(rows, columns, key="name")


@casement.command()
@click.argument("machine")
@click.option("--project", help="In which project, where several have one of this name.")
@pass_context
def undelete(context: Context, machine: str, project: str | None) -> None:
    """Take a machine out of the bin, switched off."""
    found = _binned(context.client, machine, project)
    back = context.client.send("POST", f"bin/{found['id']}/restore")
    if context.output.form == "table":
        context.output.note(f"{back['name']} is back, switched off.")
    else:
        context.output.one(back, key="id")


@casement.command()
@click.argument("machine")
@click.option("--project", help="In which project, where several have one of this name.")
@click.option("--wait", is_flag=True, help="Until it is done.")
@click.confirmation_option(prompt="Nobody can take it back then. Delete it for good?")
@pass_context
def purge(context: Context, machine: str, *, project: str | None, wait: bool) -> None:
    """Delete a machine that lies in the bin for good."""
    found = _binned(context.client, machine, project)
    done(context, context.client.send("DELETE", f"bin/{found['id']}"), wait=wait)


for further in (
    *(devices.volume, devices.attach, devices.detach, devices.limit, devices.card),
    *(snapshots.snapshot, snapshots.restore),
    *copies.COMMANDS,
    deployments.deployment,
    *(isos.iso, isos.disc, isos.rescue),
    *telling.COMMANDS,
    *desktops.COMMANDS,
    *pools.COMMANDS,
    parents.parent,
    files.files,
    webhook,
):
    casement.add_command(further)


@casement.command("console")
@click.argument("machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start))
@click.option("--project", help="In which project, where several have one of this name.")
@click.option("--watch", is_flag=True, help="Look only: nothing that is typed reaches the machine.")
@click.option(
    "--escape", default="^]", show_default=True, metavar="KEY", help="The key with Ctrl that leaves, or none."
)
@pass_context
def open_console(context: Context, machine: str, *, project: str | None, watch: bool, escape: str) -> None:
    """A machine's serial console in this terminal. It comes back when the machine restarts; Ctrl-] leaves."""
    from portal.cli import console  # noqa: PLC0415 - where there are no such terminals, the rest of the command works

    try:
        leaves = console.escape_of(escape)
    except ValueError:
        raise click.BadParameter("It is like ^] or ^Q, or none.", param_hint="--escape") from None
    found = machine_named(context.client, machine, project)
    console.open_console(context.client, found, watch=watch, escape=leaves, note=context.output.aside)


@casement.command("vnc")
@click.argument("machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start))
@click.option("--project", help="In which project, where several have one of this name.")
@click.option("--watch", is_flag=True, help="Look only: nothing that is typed reaches the machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="A port of this machine; else any free one.")
@click.option("--viewer", help="A program to start with the address, such as vncviewer or remote-viewer.")
@pass_context
def open_vnc(
    context: Context, machine: str, *, project: str | None, watch: bool, port: int, viewer: str | None
) -> None:
    """Open a machine's screen on a local port, for a VNC viewer. It closes with the command."""
    found = machine_named(context.client, machine, project)
    if viewer and not shutil.which(viewer):
        raise CliError(f"There is no {viewer} here.", NOT_FOUND)

    def ready(bound: int) -> list[str] | None:
        if context.output.form == "json":
            context.output.json({"host": vnc.HOST, "port": bound})
        elif not viewer:
            context.output.line(f"{vnc.HOST}:{bound}")
        sys.stdout.flush()
        return [viewer, _address_for(viewer, bound)] if viewer else None

    vnc.serve(context.client, found, watch=watch, port=port, ready=ready)


def _address_for(viewer: str, port: int) -> str:
    """remote-viewer takes an address with a scheme; VNC's own viewers take two colons before a port."""
    is_remote_viewer = Path(viewer).name == "remote-viewer"
    return f"vnc://{vnc.HOST}:{port}" if is_remote_viewer else f"{vnc.HOST}::{port}"


# --- anything else ------------------------------------------------------------------------------------------------


@casement.command("cp")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--title", help="What the image is called; else the file's name.")
@click.option("--project", help="For whom, if you have several projects.")
@click.option("--everyone", is_flag=True, help="For everyone; operators may.")
@click.option("--kind", type=click.Choice(["server", "desktop"]), default="server")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), default="bios")
@click.option("--iso", "is_iso", is_flag=True, help="It is an ISO, and goes into that library.")
@click.option("--wait", is_flag=True, help="Until it has been checked and can be launched.")
@pass_context
def copy(
    context: Context,
    file: Path,
    *,
    title: str | None,
    project: str | None,
    everyone: bool,
    kind: str,
    firmware: str,
    is_iso: bool,
    wait: bool,
) -> None:
    """Copy a disk (qcow2 or raw) to the portal, as an image; or an ISO. If it breaks off, do it again: it goes on."""
    if is_iso or file.suffix.lower() == ".iso":
        isos.send_iso(context, file, name=title, project=project, everyone=everyone, wait=wait)
        return
    fields: Json = {"title": title or file.stem, "kind": kind, "firmware": firmware}
    if not everyone:
        fields["project"] = project_named(context.client, project)["id"]
    fields["upload"], _sum = send_file(context.client, context.output, file)
    done(context, context.client.send("POST", "images/from-upload", fields), wait=wait)


@casement.command("api")
@click.argument("path")
@click.option("-X", "--method", default=None, help="GET, or POST where something is sent.")
@click.option("-f", "--field", "fields", multiple=True, metavar="NAME=VALUE", help="A field of the body; may be JSON.")
@click.option("--input", "file", type=click.File(), help="A file with the body; - reads it from a pipe.")
@pass_context
def api_(context: Context, path: str, *, method: str | None, fields: tuple[str, ...], file: Any) -> None:
    """Ask the API for anything else: casement api machines?limit=1"""
    body: Any = None
    if file:
        try:
            body = json.load(file)
        except json.JSONDecodeError as error:
            raise CliError(f"{file.name} is no JSON: {error}") from error
    elif fields:
        body = dict(_field(one) for one in fields)
    wanted = (method or ("GET" if body is None else "POST")).upper()
    path = path.removeprefix("/api/v1").lstrip("/")
    if "://" in path or path.startswith(".."):
        raise CliError("A path of the API is like machines or jobs?state=active.")
    answer = context.client.get(path) if wanted == "GET" else context.client.send(wanted, path, body)
    if answer is not None:
        context.output.json(answer)


@casement.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """What a shell needs to complete commands and names: eval "$(casement completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click knows all three
    click.echo(kind(casement, {}, "casement", "_CASEMENT_COMPLETE").source())


# --- parts --------------------------------------------------------------------------------------------------------


def _field(text: str) -> tuple[str, Any]:
    """`cpus=2` is a number, `name=lamp` a text; what is JSON is taken as such."""
    name, equals, value = text.partition("=")
    if not equals:
        raise CliError(f"{text!r} is no NAME=VALUE.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _binned(client: Client, wanted: str, project: str | None) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"bin/{wanted}"))
    of = project_named(client, project)["id"] if project else None
    found = client.get("bin", name=wanted, project=of)["items"]
    return only(found, f"machine “{wanted}” in the bin", lambda one: one["project"]["name"])
