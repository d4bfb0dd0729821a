"""Recipes: one small YAML file per image, checked in full before anything is built."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import yaml

from workers.imaging.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
UNIT = re.compile(r"[A-Za-z0-9@_.-]+\.(service|socket|timer|target|path|mount)")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
MODE = re.compile(r"0[0-7]{3}")
WANTED_BY = {"timer": "timers", "socket": "sockets", "path": "paths", "service": "multi-user"}


@dataclass(frozen=True)
class RecipeFile:
    """A file to write into the image; `early` ones are there before the packages' own scripts run."""

    path: str
    content: str
    mode: int = 0o644
    early: bool = False


@dataclass(frozen=True)
class Recipe:
    """What an image is made of. Sizes: memory in MiB, disk (virtual) and the caps in the unit of their name."""

    name: str
    title: str
    description: str
    kind: Literal["server", "desktop"]
    suite: str
    packages: tuple[str, ...]
    firmware: Literal["bios", "uefi"]
    min_memory_mib: int
    disk_gib: int
    max_image_mib: int
    default_user: str
    kernel_arguments: tuple[str, ...]
    files: tuple[RecipeFile, ...]
    links: tuple[tuple[str, str], ...]
    enable: tuple[str, ...]
    mask: tuple[str, ...]
    exclude: tuple[str, ...]


OPTIONAL: Mapping[str, object] = {
    "firmware": "bios",
    "kernel_arguments": [],
    "files": [],
    "links": {},
    "enable": [],
    "mask": [],
    "exclude": [],
}
LISTS = ("packages", "kernel_arguments", "enable", "mask", "exclude")
NUMBERS = {"min_memory_mib": (64, 65536), "disk_gib": (1, 1024), "max_image_mib": (16, 65536)}
CHOICES = {"kind": ("server", "desktop"), "firmware": ("bios", "uefi")}
PATTERNS = {"name": SLUG, "suite": SLUG, "default_user": USER}
ITEM_PATTERNS = {"packages": PACKAGE, "enable": UNIT, "mask": UNIT}


def load_recipes(directory: Path = RECIPES) -> dict[str, Recipe]:
    """Every recipe of `directory` by name. Files that begin with `_` are only there to be extended.

    Raises RecipeError, naming file and key, for anything that is not exactly as it must be.
    """
    paths = sorted(path for path in directory.glob("*.yaml") if not path.name.startswith("_"))
    return {path.stem: load_recipe(path) for path in paths}


def load_recipe(path: Path) -> Recipe:
    """One recipe. Its `extends: _base` puts the base's lists before its own; single values replace the base's."""
    raw = _read(path)
    base = raw.pop("extends", None)
    if base is not None:
        raw = _extended(_base(path, base), raw)
    return _recipe(path, {**OPTIONAL, **raw})


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise RecipeError(f"{path.name}: must be a mapping of names to values.")
    return cast(dict[str, Any], raw)


def _base(path: Path, name: object) -> dict[str, Any]:
    if not isinstance(name, str) or not re.fullmatch(r"_[a-z0-9-]+", name):
        raise RecipeError(f"{path.name}: extends: must name a file that begins with an underscore.")
    return _read(path.with_name(f"{name}.yaml"))


def _extended(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        before = base.get(key)
        if isinstance(before, list) and isinstance(value, list):
            merged[key] = [*before, *value]
        elif isinstance(before, dict) and isinstance(value, dict):
            merged[key] = {**before, **value}
        else:
            merged[key] = value
    return merged


def _recipe(path: Path, raw: dict[str, Any]) -> Recipe:
    known = {field.name for field in fields(Recipe)}
    if unknown := sorted(set(raw) - known):
        raise RecipeError(f"{path.name}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    if missing := sorted(known - set(raw)):
        raise RecipeError(f"{path.name}: {missing[0]!r} is missing.")
    _check_scalars(path, raw)
    values = raw | {key: _strings(path, raw, key) for key in LISTS}
    return Recipe(**values | {"files": _files(path, raw["files"]), "links": _links(path, raw["links"])})


def _check_scalars(path: Path, raw: dict[str, Any]) -> None:
    for key, pattern in PATTERNS.items():
        if not isinstance(raw[key], str) or not pattern.fullmatch(raw[key]):
            raise RecipeError(f"{path.name}: {key}: {raw[key]!r} must be lower-case letters, digits and hyphens.")
    if raw["name"] != path.stem:
        raise RecipeError(f"{path.name}: name: must be {path.stem!r}, like the file.")
    for key, choices in CHOICES.items():
        if raw[key] not in choices:
            raise RecipeError(f"{path.name}: {key}: must be one of {', '.join(choices)}.")
    for key, (low, high) in NUMBERS.items():
        if type(raw[key]) is not int or not low <= raw[key] <= high:
            raise RecipeError(f"{path.name}: {key}: must be a whole number from {low} to {high}.")
    for key in ("title", "description"):
        if not isinstance(raw[key], str) or not raw[key].strip():
            raise RecipeError(f"{path.name}: {key}: must be a text.")


def _strings(path: Path, raw: dict[str, Any], key: str) -> tuple[str, ...]:
    items = raw[key]
    pattern = ITEM_PATTERNS.get(key, re.compile(r"\S+"))
    if not isinstance(items, list):
        raise RecipeError(f"{path.name}: {key}: must be a list.")
    for item in items:
        if not isinstance(item, str) or not pattern.fullmatch(item):
            raise RecipeError(f"{path.name}: {key}: {item!r} is not allowed here.")
    return tuple(dict.fromkeys(items))


def _files(path: Path, raw: object) -> tuple[RecipeFile, ...]:
    if not isinstance(raw, list):
        raise RecipeError(f"{path.name}: files: must be a list.")
    return tuple(_file(path, item) for item in raw)


def _file(path: Path, raw: object) -> RecipeFile:
    known = {field.name for field in fields(RecipeFile)}
    if not isinstance(raw, dict) or not {"path", "content"} <= set(raw) <= known:
        raise RecipeError(f"{path.name}: files: each needs path and content, and may have mode and early.")
    mode = raw.get("mode", "0644")
    # A text, because YAML 1.1 and 1.2 read a bare 0755 as different numbers.
    if not isinstance(raw["content"], str) or not isinstance(mode, str) or not MODE.fullmatch(mode):
        raise RecipeError(f"{path.name}: files: {raw['path']}: content must be a text and mode a text such as '0755'.")
    if type(raw.get("early", False)) is not bool:
        raise RecipeError(f"{path.name}: files: {raw['path']}: early must be true or false.")
    _check_inside(path, raw["path"])
    return RecipeFile(**raw | {"mode": int(mode, 8)})


def _links(path: Path, raw: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(raw, dict) or not all(isinstance(target, str) for target in raw.values()):
        raise RecipeError(f"{path.name}: links: must map a path to its target.")
    for link in raw:
        _check_inside(path, link)
    return tuple(raw.items())


def _check_inside(path: Path, name: object) -> None:
    if not isinstance(name, str) or not name.startswith("/") or ".." in PurePosixPath(name).parts or name.endswith("/"):
        raise RecipeError(f"{path.name}: {name!r} must be an absolute path without '..'.")
