"""Commands about pools of desktops, for operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import click
from click.shell_completion import CompletionItem

from portal.cli.client import Client, Json
from portal.cli.copies import image_named
from portal.cli.desktops import SESSIONS
from portal.cli.errors import NOT_FOUND, CliError
from portal.cli.parts import Context, is_id, names, only, pass_context, project_named

COLUMNS: Final = (
    "name",
    "title",
    "kind",
    "project.name",
    "minimum",
    "maximum",
    "spare",
    "enabled",
    "maintenance",
    "id",
)
DESKTOPS: Final = ("name", "state", "person", "machine.name", "image_version.number", "state_since", "error", "id")
ENTITLED: Final = ("person", "project.name", "group", "id")
HOURS: Final = ("day", "from", "to", "spare")
MINUTES: Final = ("idle_warn", "idle_disconnect", "idle_sign_out", "limit")
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _names(ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    return names(ctx, "pools", start, tell="title")


_pool: Callable[[Any], Any] = click.argument("pool", shell_complete=_names)
_how: Callable[[Any], Any] = click.option(
    "--how",
    type=click.Choice(["rolling", "at_once", "at_time"]),
    default="rolling",
    show_default=True,
    help="Each when it is free, all at once with notice, or at a time.",
)


def _settings(command: Any) -> Any:
    """What `create` and `set` have in common. Times are minutes."""
    for option in reversed(
        [
            click.option("--title", help="What people read on its tile."),
            click.option("--min", "minimum", type=click.IntRange(min=0), help="There are always so many."),
            click.option("--max", "maximum", type=click.IntRange(min=0), help="Beyond it, people wait."),
            click.option("--spare", type=click.IntRange(min=0), help="So many are ready and free."),
            click.option("--names", "name_pattern", help="Such as lab-{n}."),
            click.option("--per-person", "desktops_per_person", type=click.IntRange(1, 10)),
            click.option("--time-zone", help="Such as Europe/Berlin."),
            click.option("--idle-warn", type=click.IntRange(min=0), help="Minutes; 0 for never, as all of these."),
            click.option("--idle-disconnect", type=click.IntRange(min=0), help="After the warning."),
            click.option("--idle-sign-out", type=click.IntRange(min=0), help="After the disconnect."),
            click.option("--limit", type=click.IntRange(min=0), help="The longest session."),
            click.option("--files/--no-files", "keeps_files", default=None, help="People's own files follow them."),
            click.option("--on/--off", "enabled", default=None, help="Whether it is offered."),
        ]
    ):
        command = option(command)
    return command


def _body(settings: Json) -> Json:
    """Those that were given; minutes become seconds."""
    given = {name: value for name, value in settings.items() if value is not None}
    minutes = {name: given.pop(name) for name in MINUTES if name in given}
    return given | {f"{name}_s": value * 60 for name, value in minutes.items()}


@click.group()
def pool() -> None:
    """Pools of desktops, for operators. What you use yourself: casement desktop."""


@pool.command("ls")
@click.option("-s", "--search", "q", help="Look for this.")
@pass_context
def list_pools(context: Context, q: str | None) -> None:
    """List pools."""
    context.output.rows(context.client.every("pools", limit=200, q=q), COLUMNS, key="name")


@pool.command("show")
@_pool
@pass_context
def show_pool(context: Context, pool: str) -> None:
    """One pool: its settings, and how it is now."""
    found = pool_named(context.client, pool)
    context.output.one(found | context.client.get(f"pools/{found['id']}/now"), key="id")


@pool.command("create")
@click.argument("name")
@click.option("--image", required=True, help="By its short name, title or id.")
@click.option("--version", type=int, help="Its version; else the newest.")
@click.option("--flavour", required=True, help="A size, by its name.")
@click.option("--project", help="Where its machines live, if there are several.")
@click.option("--kind", type=click.Choice(["floating", "assigned", "named"]), default="floating", show_default=True)
@_settings
@pass_context
def create_pool(
    context: Context,
    /,
    name: str,
    *,
    image: str,
    version: int | None,
    flavour: str,
    project: str | None,
    kind: str,
    **settings: Any,
) -> None:
    """Make a pool. Say then who may use it: casement pool allow."""
    body = {
        "name": name,
        "kind": kind,
        "flavour": flavour,
        "project": project_named(context.client, project)["id"],
        "image_version": _version(context.client, image, version),
        **_body(settings),
    }
    context.output.one(context.client.send("POST", "pools", body), key="id")


@pool.command("set")
@_pool
@click.option("--flavour", help="Another size, for new desktops.")
@_settings
@pass_context
def change_pool(context: Context, /, pool: str, **settings: Any) -> None:
    """Change some of a pool's settings."""
    found = pool_named(context.client, pool)
    context.output.one(context.client.send("PATCH", f"pools/{found['id']}", _body(settings)), key="id")


@pool.command("rm")
@_pool
@click.option("--empty", is_flag=True, help="Sign everybody off and delete its desktops first; it goes when they have.")
@click.confirmation_option(prompt="What is on its desktops is lost. Delete?")
@pass_context
def remove_pool(context: Context, pool: str, *, empty: bool) -> None:
    """Delete a pool that has no desktops; or empty it."""
    found = pool_named(context.client, pool)
    if empty:
        context.output.one(context.client.send("POST", f"pools/{found['id']}/empty"), key="id")
        return
    context.client.send("DELETE", f"pools/{found['id']}")
    context.output.note(f"{found['name']} is deleted.")


# --- as it is now ---------------------------------------------------------------------------------------------------


@pool.command("desktops")
@_pool
@click.option("--state", type=click.Choice(["building", "spare", "taken", "recycling", "failed"]))
@pass_context
def list_desktops(context: Context, pool: str, state: str | None) -> None:
    """A pool's desktops."""
    found = pool_named(context.client, pool)
    rows = context.client.every(f"pools/{found['id']}/desktops", limit=200, state=state)
    context.output.rows(rows, DESKTOPS, key="name")


@pool.command("recycle")
@_pool
@click.argument("desktop", nargs=-1, required=True)
@pass_context
def recycle(context: Context, pool: str, desktop: tuple[str, ...]) -> None:
    """Have desktops made new, by name or id. Who is on one is signed off."""
    found = pool_named(context.client, pool)
    there = list(context.client.every(f"pools/{found['id']}/desktops", limit=200))
    for wanted in desktop:
        one = only([row for row in there if wanted in {row["id"], row["name"]}], f"desktop “{wanted}”", _id)
        context.output.one(context.client.send("POST", f"pools/desktops/{one['id']}/recycle"), key="id")


@pool.command("sessions")
@_pool
@pass_context
def list_sessions(context: Context, pool: str) -> None:
    """Who is on a desktop of a pool."""
    found = pool_named(context.client, pool)
    rows = context.client.every(f"pools/{found['id']}/sessions", limit=200)
    context.output.rows(rows, ("person", *SESSIONS[1:]), key="id")


@pool.command("line")
@_pool
@pass_context
def list_line(context: Context, pool: str) -> None:
    """Who waits for a desktop of a pool, in order."""
    found = pool_named(context.client, pool)
    context.output.rows(
        context.client.every(f"pools/{found['id']}/line", limit=200), ("person", "asked_at"), key="person"
    )


@pool.command("sign-off")
@_pool
@click.argument("person", nargs=-1)
@click.option("--all", "everybody", is_flag=True, help="All who are on a desktop of it.")
@click.confirmation_option(prompt="What they have not saved is lost. Sign off?")
@pass_context
def sign_off(context: Context, pool: str, person: tuple[str, ...], *, everybody: bool) -> None:
    """Sign people off, by user name; or all."""
    if everybody == bool(person):
        raise click.UsageError("Say whom, or --all.")
    found = pool_named(context.client, pool)
    path = f"pools/{found['id']}"
    if everybody:
        context.output.one(context.client.send("POST", f"{path}/sign-off"), key="signed_off")
        return
    there = list(context.client.every(f"{path}/sessions", limit=200))
    for name in person:
        of_them = [one for one in there if one["person"] == name]
        if not of_them:
            raise CliError(f"{name} is on no desktop of {found['name']}.", NOT_FOUND)
        for one in of_them:
            context.output.one(context.client.send("DELETE", f"desktop-sessions/{one['id']}"), key="id")


@pool.command("maintenance")
@_pool
@click.argument("state", type=click.Choice(["on", "off"]))
@pass_context
def maintenance(context: Context, pool: str, state: str) -> None:
    """While it is on, nobody new gets a desktop."""
    found = pool_named(context.client, pool)
    answer = context.client.send("POST", f"pools/{found['id']}/maintenance", {"on": state == "on"})
    context.output.one(answer, key="id")


@pool.command("message")
@_pool
@click.argument("text", required=False, default="")
@pass_context
def message(context: Context, pool: str, text: str) -> None:
    """A line on the screens of all who are on its desktops or wait for one. Without a text it is taken away."""
    found = pool_named(context.client, pool)
    context.output.one(context.client.send("POST", f"pools/{found['id']}/message", {"text": text}), key="id")


# --- versions -------------------------------------------------------------------------------------------------------


@pool.command("recompose")
@_pool
@click.option("--image", help="Another image; else the pool's own.")
@click.option("--version", type=int, help="Its version; else the newest.")
@_how
@click.option("--at", help="For at_time: such as 2027-01-31T22:00:00+01:00.")
@click.option("--notice", type=click.IntRange(min=0), default=5, show_default=True, help="For at_once: minutes.")
@click.option("--message", default="", help="What people read meanwhile.")
@click.option("--cancel", is_flag=True, help="Call off what was to come.")
@pass_context
def recompose(
    context: Context,
    pool: str,
    *,
    image: str | None,
    version: int | None,
    how: str,
    at: str | None,
    notice: int,
    message: str,
    cancel: bool,
) -> None:
    """Bring a pool to another version of its image."""
    found = pool_named(context.client, pool)
    path = f"pools/{found['id']}/recompose"
    if cancel:
        context.output.one(context.client.send("DELETE", path), key="id")
        return
    body = {
        "image_version": _version(context.client, image or found["image_version"]["image"], version),
        "how": how,
        "at": at,
        "notice_s": notice * 60,
        "message": message,
    }
    context.output.one(context.client.send("POST", path, body), key="id")


@pool.command("back")
@_pool
@_how
@pass_context
def back(context: Context, pool: str, how: str) -> None:
    """Back to the image version before, in one step."""
    found = pool_named(context.client, pool)
    context.output.one(context.client.send("POST", f"pools/{found['id']}/back", {"how": how}), key="id")


# --- who and when ---------------------------------------------------------------------------------------------------


@pool.command("allowed")
@_pool
@pass_context
def list_allowed(context: Context, pool: str) -> None:
    """Who may use a pool."""
    found = pool_named(context.client, pool)
    context.output.rows(context.client.every(f"pools/{found['id']}/entitlements", limit=200), ENTITLED, key="id")


@pool.command("allow")
@_pool
@click.option("--person", help="A user name or e-mail address.")
@click.option("--project", help="Everybody in this project.")
@click.option("--group", help="Everybody in this group.")
@pass_context
def allow(context: Context, pool: str, *, person: str | None, project: str | None, group: str | None) -> None:
    """Let a person, everybody in a project, or everybody in a group use a pool."""
    if sum(one is not None for one in (person, project, group)) != 1:
        raise click.UsageError("Say one of --person, --project and --group.")
    found = pool_named(context.client, pool)
    body: Json = {"person": person, "group": group}
    if project:
        body["project"] = project_named(context.client, project)["id"]
    context.output.one(context.client.send("POST", f"pools/{found['id']}/entitlements", body), key="id")


@pool.command("disallow")
@_pool
@click.argument("who")
@pass_context
def disallow(context: Context, pool: str, who: str) -> None:
    """Take the right away, by the name of the person, project or group, or its id."""
    found = pool_named(context.client, pool)
    there = context.client.every(f"pools/{found['id']}/entitlements", limit=200)
    named = [
        one for one in there if who in {str(one["id"]), one["person"], one["group"], (one["project"] or {}).get("name")}
    ]
    one = only(named, f"right of “{who}”", _id)
    context.client.send("DELETE", f"pools/entitlements/{one['id']}")
    context.output.note(f"{who} may not use {found['name']} any more.")


@pool.command("hours")
@_pool
@click.option(
    "--set",
    "wanted",
    multiple=True,
    metavar="DAYS FROM-TO=N",
    help="Such as mon-fri 07:00-18:00=20; repeat it. They take the place of those that were.",
)
@click.option("--clear", is_flag=True, help="The same at all hours.")
@pass_context
def hours(context: Context, pool: str, *, wanted: tuple[str, ...], clear: bool) -> None:
    """How many desktops are to be free at which hours."""
    found = pool_named(context.client, pool)
    path = f"pools/{found['id']}/hours"
    if wanted or clear:
        body = {"hours": [line for text in wanted for line in hours_of(text)]}
        plan = context.client.send("PUT", path, body)
    else:
        plan = context.client.get(path)
    rows = [
        {
            "day": DAYS[one["weekday"]],
            "from": _clock(one["from_minute"]),
            "to": _clock(one["to_minute"]),
            "spare": one["spare"],
        }
        for one in plan["hours"]
    ]
    context.output.rows(rows, HOURS, key="day")


def hours_of(text: str) -> list[Json]:
    """What "mon-fri 07:00-18:00=20" means, a line for each day."""
    try:
        days, _space, rest = text.strip().lower().partition(" ")
        span, _equals, spare = rest.strip().partition("=")
        begin, _dash, end = span.partition("-")
        line = {"from_minute": _minute(begin), "to_minute": _minute(end), "spare": int(spare)}
        return [{"weekday": day, **line} for day in _days(days)]
    except ValueError:
        raise click.BadParameter(f"“{text}” is not like mon-fri 07:00-18:00=20.", param_hint="--set") from None


def _days(text: str) -> list[int]:
    first, _dash, last = text.partition("-")
    begin = DAYS.index(first)
    end = DAYS.index(last) if last else begin
    if end < begin:
        raise ValueError(text)
    return list(range(begin, end + 1))


def _minute(text: str) -> int:
    hour, _colon, minute = text.strip().partition(":")
    return int(hour) * 60 + int(minute or 0)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


# --- by their names -------------------------------------------------------------------------------------------------


def pool_named(client: Client, wanted: str) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"pools/{wanted}"))
    return only(client.get("pools", name=wanted)["items"], f"pool “{wanted}”", _id)


def _version(client: Client, image: str, number: int | None) -> str:
    """The id of an image's version that is ready: this one, or the newest."""
    found = image_named(client, image)
    versions = [one for one in found["versions"] if one["status"] == "ready" and number in {None, one["number"]}]
    if not versions:
        raise CliError(f"The image “{image}” has no such version that is ready.", NOT_FOUND)
    return str(max(versions, key=lambda one: one["number"])["id"])


def _id(one: Json) -> str:
    return str(one["id"])


COMMANDS: Final = (pool,)
