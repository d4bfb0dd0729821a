"""The list of people that a deployment is made for: what was typed, pasted or uploaded, or a group's members.

One person a line, or a table as spreadsheets save it (comma, semicolon or tab). Of a table with headings the column of
user names or e-mail addresses is taken; else of each line what stands first.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from django.contrib.auth.models import Group
from django.db.models import Q, QuerySet
from django.db.models.functions import Lower
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.errors import InvalidError

MOST_BYTES: Final = 256 * 1024
MOST_PEOPLE: Final = 200
MOST_LABEL: Final = 150
_HEADINGS: Final = (
    *("username", "user name", "user", "login", "account"),
    *("email", "e-mail", "mail", "email address", "e-mail address"),
    *("name", "full name", "person", "student"),
)
"""In the order in which a column is looked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Somebody of a list: as it names them, and their account if they have one."""

    label: str
    person: User | None = None


def decoded(data: bytes) -> str:
    """An uploaded list as text. Spreadsheets save UTF-8, or UTF-16 with a mark that says so."""
    if len(data) > MOST_BYTES:
        raise InvalidError(_("This is too large for a list of people."), field="file")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidError(
            _("This is no text in UTF-8. Save the list as “CSV UTF-8”, or paste the names."), field="file"
        ) from error


def names_in(text: str) -> list[str]:
    """Who is named in it, once each, in order. InvalidError says in which line something is wrong."""
    if len(text) > MOST_BYTES:
        raise InvalidError(_("This is too large for a list of people."), field="people")
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    rows = _rows(lines)
    column = _column(rows[0]) if rows else None
    cells = [_cell(row, column or 0) for row in rows]
    numbered = list(enumerate(cells, 1))[0 if column is None else 1 :]
    for number, name in numbered:
        _check(name, number)
    return together([name for _number, name in numbered if name])


def together(names: Iterable[str]) -> list[str]:
    """Each once, in order. InvalidError if they are too many."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.casefold(), name)
    if len(found) > MOST_PEOPLE:
        raise InvalidError(
            _("A deployment is for at most %(most)s people; this list has %(number)s.")
            % {"most": MOST_PEOPLE, "number": len(found)},
            field="people",
        )
    return list(found.values())


def as_text(names: Sequence[str]) -> str:
    """A list that `names_in` reads as these."""
    lines = [_quoted(name) if any(mark in name for mark in ',;\t"') else name for name in names]
    is_taken_for_heading = bool(names) and names[0].casefold() in _HEADINGS
    return "\n".join(["username", *lines] if is_taken_for_heading else lines)


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _rows(lines: Sequence[str]) -> list[list[str]]:
    """Read by the mark that the first line has most of; a name alone has none."""
    first = lines[0] if lines else ""
    mark = max(",;\t", key=first.count)
    if not first.count(mark):
        mark = next((one for one in ",;\t" if any(one in line for line in lines)), ",")
    try:
        return list(csv.reader(io.StringIO("\n".join(lines)), delimiter=mark, strict=True))
    except csv.Error as error:
        raise InvalidError(
            _("This table cannot be read: a quotation mark is open, or stands in a wrong place."), field="people"
        ) from error


def _column(first: Sequence[str]) -> int | None:
    """Where the people stand, if the first line is one of headings."""
    headings = [cell.strip().casefold() for cell in first]
    return next((headings.index(name) for name in _HEADINGS if name in headings), None)


def _cell(row: Sequence[str], column: int) -> str:
    return " ".join(row[column].split()) if column < len(row) else ""


def _check(name: str, number: int) -> None:
    if len(name) > MOST_LABEL:
        raise InvalidError(
            _("Line %(number)s is longer than a name: %(start)s…") % {"number": number, "start": name[:30]},
            field="people",
        )
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in name):
        raise InvalidError(
            _("Line %(number)s has a character that is no part of a name.") % {"number": number}, field="people"
        )


def entries_of(names: Iterable[str]) -> list[Entry]:
    """Each with their account, by user name or e-mail address; two queries at most. Two names of one account are one
    person. InvalidError where a name is several people's."""
    wanted = list(names)
    keys = {name.lower() for name in wanted}
    people = User.objects.filter(is_active=True, guest_until=None).annotate(
        low_name=Lower("username"), low_mail=Lower("email")
    )
    by_name: dict[str, list[User]] = {}
    by_mail: dict[str, list[User]] = {}
    for user in people.filter(Q(low_name__in=keys) | Q(low_mail__in=keys)) if keys else ():
        by_name.setdefault(user.username.lower(), []).append(user)
        if user.email:
            by_mail.setdefault(user.email.lower(), []).append(user)
    found: dict[object, Entry] = {}
    for name in wanted:
        entry = Entry(name, _one_of(name, by_name, by_mail))
        found.setdefault(entry.person.pk if entry.person else name.casefold(), entry)
    return list(found.values())


def _one_of(name: str, by_name: dict[str, list[User]], by_mail: dict[str, list[User]]) -> User | None:
    """The account of exactly this user name; else the only one that matches whatever its capitals, or by e-mail."""
    same = by_name.get(name.lower(), [])
    exact = next((user for user in same if user.username == name), None)
    if exact is not None:
        return exact
    found = {user.pk: user for user in (*same, *by_mail.get(name.lower(), []))}
    if len(found) > 1:
        raise InvalidError(_("Several people match “%(name)s”; use the user name.") % {"name": name}, field="people")
    return next(iter(found.values()), None)


def groups_for(user: User) -> QuerySet[Group]:
    """Whose members somebody may make desktops for: operators everybody's, others those that they are in."""
    groups = Group.objects.order_by("name")
    return groups if user.is_staff else groups.filter(user=user)


def members_of(group: Group) -> list[str]:
    members = User.objects.filter(groups=group, is_active=True, guest_until=None)
    return list(members.order_by("username").values_list("username", flat=True)[: MOST_PEOPLE + 1])
