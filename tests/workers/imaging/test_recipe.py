from pathlib import Path

import pytest
import yaml

from workers.imaging.errors import RecipeError
from workers.imaging.recipe import RECIPES, Recipe, load_recipes

GOOD = {
    "name": "tiny",
    "title": "Tiny",
    "description": "As small as it gets.",
    "kind": "server",
    "suite": "bookworm",
    "packages": ["systemd-sysv"],
    "min_memory_mib": 128,
    "disk_gib": 1,
    "max_image_mib": 100,
    "default_user": "debian",
}


def written(directory: Path, **changes: object) -> dict[str, Recipe]:
    content = {key: value for key, value in (GOOD | changes).items() if value is not None}
    (directory / "tiny.yaml").write_text(yaml.safe_dump(content))
    return load_recipes(directory)


def test_the_shipped_recipes_are_whole() -> None:
    recipes = load_recipes()
    assert set(recipes) == {"debian-12-server", "debian-12-desktop"}
    assert recipes["debian-12-desktop"].kind == "desktop"
    assert all("cloud-init" in recipe.packages and "qemu-guest-agent" in recipe.packages for recipe in recipes.values())


def test_no_shipped_recipe_names_a_package_mirror() -> None:
    for path in RECIPES.glob("*.yaml"):
        assert "http" not in path.read_text().replace("http://www.w3.org", "")


def test_adding_an_image_is_adding_a_file(tmp_path: Path) -> None:
    assert written(tmp_path)["tiny"].firmware == "bios"


def test_a_base_gives_lists_that_the_recipe_adds_to(tmp_path: Path) -> None:
    (tmp_path / "_base.yaml").write_text(yaml.safe_dump({"packages": ["sudo"], "disk_gib": 9}))
    recipe = written(tmp_path, extends="_base")["tiny"]
    assert recipe.packages == ("sudo", "systemd-sysv")
    assert recipe.disk_gib == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "blue"}, "unknown key 'colour'"),
        ({"suite": None}, "'suite' is missing"),
        ({"name": "Tiny!"}, "name: 'Tiny!'"),
        ({"name": "other"}, "must be 'tiny', like the file"),
        ({"suite": "../etc"}, "suite"),
        ({"kind": "toaster"}, "server, desktop"),
        ({"disk_gib": "4"}, "disk_gib: must be a whole number"),
        ({"disk_gib": True}, "disk_gib: must be a whole number"),
        ({"disk_gib": 0}, "from 1 to"),
        ({"packages": "sudo"}, "packages: must be a list"),
        ({"packages": ["sudo,evil"]}, "'sudo,evil' is not allowed"),
        ({"packages": ["--option"]}, "'--option' is not allowed"),
        ({"mask": ["../x.service"]}, "is not allowed"),
        ({"title": ""}, "title: must be a text"),
        ({"files": [{"path": "/a"}]}, "needs path and content"),
        ({"files": [{"path": "a", "content": ""}]}, "absolute path"),
        ({"files": [{"path": "/../a", "content": ""}]}, "without '..'"),
        ({"files": [{"path": "/a", "content": "", "mode": 755}]}, "mode a text such as '0755'"),
        ({"links": {"/a/": "/b"}}, "absolute path"),
        ({"extends": "../x"}, "begins with an underscore"),
        ({"extends": "_none"}, "cannot be read"),
    ],
)
def test_a_fault_in_a_recipe_is_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        written(tmp_path, **changes)
    assert words in caught.value.message
    assert ".yaml: " in caught.value.message


@pytest.mark.parametrize("text", ["", "- a", "a: [", "1: 2"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"tiny\.yaml"):
        load_recipes(tmp_path)
