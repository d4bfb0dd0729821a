"""A person's own cloud-config for a new machine: checked as YAML, and kept from what makes the machine Casement's.

It is merged into Casement's own by `workers.hypervisor.cloud_init`: lists are put behind ours, plain settings take the
place of our defaults, and what identifies the machine cannot be named at all.
"""

from __future__ import annotations

from typing import Any

import yaml
from django.utils.translation import gettext as _

from portal.errors import InvalidError

MOST_BYTES = 16 * 1024
HEADER = "#cloud-config"
# The machine's name, and the keys by which it is known again, are the portal's to give.
OURS = ("hostname", "fqdn", "preserve_hostname", "manage_etc_hosts", "ssh_keys", "ssh_deletekeys")
LISTS = ("users", "write_files", "runcmd", "bootcmd", "packages")
_BYTE_ORDER_MARK = "\ufeff"


def checked(text: str, *, login_user: str) -> str:
    """The text as it is kept, or the empty one. InvalidError says in words, with the line, what is wrong with it."""
    text = normalised(text)
    if text:
        _check_keys(_mapping(text), login_user)
    return text


def normalised(text: str) -> str:
    """Without byte order mark and empty lines before it, with plain line ends: else cloud-init ignores all of it."""
    text = text.replace(_BYTE_ORDER_MARK, "").replace("\r\n", "\n").replace("\r", "\n").strip()
    return f"{text}\n" if text else ""


def parsed(text: str) -> dict[str, Any]:
    """What `checked` gave, as data; the empty text gives nothing."""
    return _mapping(text) if text else {}


def _mapping(text: str) -> dict[str, Any]:
    if len(text.encode()) > MOST_BYTES:
        raise _invalid(_("This is too long: at most %(most)s KiB are taken.") % {"most": MOST_BYTES // 1024})
    if text.split("\n", 1)[0].strip() != HEADER:
        raise _invalid(_("Its first line must be “#cloud-config”; scripts and other kinds are not taken."))
    try:
        _refuse_aliases(text)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _invalid(_what_is_wrong(error)) from error
    except (RecursionError, ValueError) as error:
        raise _invalid(
            _("It cannot be read as YAML: it is nested too deeply, or holds an impossible value.")
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise _invalid(_("It must be a list of “name: value” settings."))
    return data


def _refuse_aliases(text: str) -> None:
    """A few lines with aliases can stand for more than any machine could hold."""
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            raise _invalid(_("Line %(line)s: anchors and aliases are not taken.") % {"line": token.start_mark.line + 1})


def _what_is_wrong(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return _("It cannot be read as YAML: it holds characters that are not text.")
    place = {"line": mark.line + 1, "column": mark.column + 1}
    return _("Line %(line)s, column %(column)s: this is no YAML. Mind indents and colons; tabs cannot indent.") % place


def _check_keys(data: dict[str, Any], login_user: str) -> None:
    for name in OURS:
        if name in data:
            raise _invalid(_("“%(name)s” is set by the portal and cannot be given here.") % {"name": name})
    for name in LISTS:
        if not isinstance(data.get(name, []), list):
            raise _invalid(_("“%(name)s” must be a list.") % {"name": name})
    for entry in data.get("users", []):
        user = entry.get("name") if isinstance(entry, dict) else entry
        if user == login_user:
            raise _invalid(_("The user “%(name)s” is there already: choose another name.") % {"name": login_user})


def _invalid(text: str) -> InvalidError:
    return InvalidError(text, field="user_data")
