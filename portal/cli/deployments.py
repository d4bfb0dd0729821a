"""Commands about deployments: one desktop for each person of a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import click

from portal.cli.client import Client, Json
from portal.cli.copies import image_named
from portal.cli.jobs import wait_for
from portal.cli.parts import Context, is_id, only, pass_context, project_named

COLUMNS: Final = ("name", "project.name", "people", "running", "image.title", "flavour", "id")
SEATS: Final = ("number", "person", "account", "machine.name", "machine.status", "machine.power_state", "here", "id")
RESULTS: Final = ("name", "job.status", "refused")

_one: Callable[[Any], Any] = click.argument("deployment")
_project: Callable[[Any], Any] = click.option(
    "--project", help="Of which project, where several have one of this name."
)
_people: Callable[[Any], Any] = click.option(
    "--person", "people", multiple=True, help="Only this one, as the list names them; repeat it."
)
_wait: Callable[[Any], Any] = click.option("--wait", is_flag=True, help="Until all of it is done.")
_list: Callable[[Any], Any] = click.option(
    "--list", "file", type=click.File(), help="A file with the people: one a line, or CSV; - reads it from a pipe."
)
_add: Callable[[Any], Any] = click.option("--add", "names", multiple=True, metavar="PERSON", help="Repeat it.")
_group: Callable[[Any], Any] = click.option("--group", help="All members of a group.")
_partly: Callable[[Any], Any] = click.option(
    "--partly", is_flag=True, help="Without room for all: as many as there is room for, rather than none."
)


@click.group()
def deployment() -> None:
    """Deployments: one desktop for each person of a list, and a link for who has no account."""


@deployment.command("ls")
@click.option("-s", "--search", "q", help="Look for this.")
@click.option("--own", is_flag=True, help="The desktops that are yours, instead.")
@pass_context
def list_(context: Context, q: str | None, *, own: bool) -> None:
    """The deployments of your projects."""
    if own:
        rows = context.client.get("seats")["items"]
        context.output.rows(rows, ("deployment.name", "machine.name", "machine.power_state", "id"), key="id")
        return
    context.output.rows(context.client.every("deployments", q=q, limit=200), COLUMNS, key="name")


@deployment.command("show")
@_one
@_project
@click.option("--state", type=click.Choice(["running", "off", "busy", "failed", "none", "watched"]))
@pass_context
def show(context: Context, deployment: str, project: str | None, state: str | None) -> None:
    """The people of a deployment with their desktops, and who is at which screen."""
    found = _named(context.client, deployment, project)
    rows = [_told(row) for row in context.client.every(f"deployments/{found['id']}/seats", state=state, limit=200)]
    context.output.rows(rows, SEATS, key="person")


def _told(seat: Json) -> Json:
    """Who is at the screen, in words of one column."""
    if seat["refused"] and not seat["machine"]:
        seat = {**seat, "machine": {"name": seat["refused"]}}
    return {**seat, "here": [{"name": one["username"]} for one in seat["here"]]}


@deployment.command("create")
@click.argument("name")
@click.option("--image", required=True, help="An image, by its short name or id.")
@click.option("--flavour", required=True, help="A size; see: casement ls flavours.")
@click.option("--project", help="Where, if you have several projects.")
@click.option("--called", default="desktop", show_default=True, help="What the desktops are called, before a number.")
@_list
@_add
@_group
@_partly
@click.option("--check", is_flag=True, help="Say who is meant and whether there is room, and make nothing.")
@pass_context
def create(
    context: Context,
    name: str,
    *,
    image: str,
    flavour: str,
    project: str | None,
    called: str,
    file: Any,
    names: tuple[str, ...],
    group: str | None,
    partly: bool,
    check: bool,
) -> None:
    """Have a desktop made for each person of a list."""
    client = context.client
    body = _people_of(file, names, group, partly) | {
        "project": project_named(client, project)["id"],
        "flavour": flavour,
    }
    if check:
        told = client.send("POST", "deployments/check", body)
        context.output.rows(told["people"], ("person", "account"), key="person")
        context.output.note(f"There is room for {told['fitting']} of {told['machines']}.")
        for line in told["shortfalls"]:
            context.output.note(line)
        return
    body |= {"name": name, "image": image_named(client, image)["id"], "desktops_are_called": called}
    context.output.one(client.send("POST", "deployments", body), key="id")


@deployment.command("add")
@_one
@_list
@_add
@_group
@_partly
@_project
@pass_context
def add(
    context: Context,
    deployment: str,
    *,
    file: Any,
    names: tuple[str, ...],
    group: str | None,
    partly: bool,
    project: str | None,
) -> None:
    """Add people to a deployment; who has a desktop there is left out."""
    found = _named(context.client, deployment, project)
    body = _people_of(file, names, group, partly)
    rows = context.client.send("POST", f"deployments/{found['id']}/people", body)["items"]
    context.output.rows([_told(row) for row in rows], SEATS, key="person")


def _people_of(file: Any, names: Sequence[str], group: str | None, partly: bool) -> Json:
    if not file and not names and not group:
        raise click.UsageError("Say for whom: --list FILE, --add PERSON or --group GROUP.")
    return {"people": list(names), "table": file.read() if file else "", "group": group, "partly": partly}


def _act(name: str, word: str, sentence: str, prompt: str) -> None:
    """A command that asks something of all desktops, or of some."""

    def run(
        context: Context, deployment: str, *, people: tuple[str, ...], project: str | None, wait: bool, **_yes: Any
    ) -> None:
        found = _named(context.client, deployment, project)
        body: Json = {"action": word, "seats": _seats_of(context.client, found, people)}
        _shown(context, context.client.send("POST", f"deployments/{found['id']}/act", body), wait=wait)

    run.__doc__ = sentence
    command: Any = pass_context(run)
    decorators = [_one, _people, _project, _wait]
    if prompt:
        decorators.append(click.confirmation_option(prompt=prompt))
    for decorate in decorators:
        command = decorate(command)
    deployment.command(name, help=sentence)(command)


_act("start", "start", "Start all desktops, or some; who has none gets one.", "")
_act("stop", "stop", "Ask all desktops, or some, to shut down.", "")
_act(
    "reset",
    "reset",
    "Make all desktops, or some, anew from the image. What people saved on them is lost.",
    "Everything that these people saved on their desktops is lost. Reset?",
)
_act(
    "remove",
    "remove",
    "Take people from the list, and delete their desktops.",
    "Their desktops are deleted, and links stop working. Remove?",
)


@deployment.command("message")
@_one
@click.argument("text", required=False, default="")
@_people
@_project
@pass_context
def message(context: Context, deployment: str, text: str, *, people: tuple[str, ...], project: str | None) -> None:
    """Show a message on all screens, or some. Without a text the last one is taken away."""
    found = _named(context.client, deployment, project)
    body = {"text": text, "seats": _seats_of(context.client, found, people)}
    told = context.client.send("POST", f"deployments/{found['id']}/message", body)
    context.output.note(f"On {told['desktops']} screens." if text else "Taken away.")


@deployment.command("links")
@_one
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="For how long they work.")
@_people
@_project
@pass_context
def links(context: Context, deployment: str, *, days: int, people: tuple[str, ...], project: str | None) -> None:
    """Make a link for each person without an account. They are shown this once; earlier ones work no more."""
    found = _named(context.client, deployment, project)
    body = {"lifetime_s": days * 86_400, "seats": _seats_of(context.client, found, people)}
    made = context.client.send("POST", f"deployments/{found['id']}/links", body)
    context.output.rows(made["links"], ("person", "url"), key="url")


@deployment.command("unlink")
@_one
@click.argument("person")
@_project
@pass_context
def unlink(context: Context, deployment: str, person: str, project: str | None) -> None:
    """Revoke a person's link. Whoever came by it is out at once."""
    found = _named(context.client, deployment, project)
    [seat] = _seats_of(context.client, found, (person,))
    context.client.send("DELETE", f"seats/{seat}/link")
    context.output.note(f"{person}'s link works no more.")


@deployment.command("rm")
@_one
@_project
@_wait
@click.confirmation_option(prompt="All its desktops go with it, and links stop working. Delete?")
@pass_context
def delete(context: Context, deployment: str, project: str | None, *, wait: bool) -> None:
    """Delete a deployment with all its desktops."""
    found = _named(context.client, deployment, project)
    answer = context.client.send("DELETE", f"deployments/{found['id']}")
    _shown(context, answer["desktops"], wait=wait)
    if not answer["gone"]:
        context.output.note(f"{found['name']} is left, with the desktops that could not be deleted.")
        click.get_current_context().exit(1)


def _shown(context: Context, batch: Json, *, wait: bool) -> None:
    """What became of each; with an error at the end if something was refused, or failed."""
    items = batch["items"]
    if wait:
        items = [
            {**item, "job": wait_for(context.client, context.output, item["job"])} if item["job"] else item
            for item in items
        ]
    context.output.rows(items, RESULTS, key="name")
    if any(item["refused"] for item in items):
        click.get_current_context().exit(1)


def _named(client: Client, wanted: str, project: str | None) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"deployments/{wanted}"))
    of = project_named(client, project)["id"] if project else None
    found = client.get("deployments", name=wanted, project=of)["items"]
    return only(found, f"deployment “{wanted}”", lambda one: one["project"]["name"])


def _seats_of(client: Client, deployment: Json, people: Sequence[str]) -> list[str]:
    """The ids of these people's seats; none stands for all of them."""
    if not people:
        return []
    seats = list(client.every(f"deployments/{deployment['id']}/seats", limit=200))
    found = [[seat for seat in seats if name in {seat["person"], seat["account"], seat["id"]}] for name in people]
    return [
        cast(str, only(mine, f"person “{name}” in it", lambda one: str(one["number"]))["id"])
        for name, mine in zip(people, found, strict=True)
    ]
