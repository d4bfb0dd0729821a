"""The desktop image of the product's own recipe, built once per text of the recipe and of the builder."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
from pathlib import Path

from tests.support.product import ROOT
from workers.imaging import bootloader, build, disk
from workers.imaging.recipe import RECIPES, load_recipes

NAME = "debian-12-desktop"
CACHE = ROOT / "var" / "images-dev"


def build_desktop_image(cache_dir: Path = CACHE) -> Path:
    """Takes minutes where there is none yet. Has its own lock."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    image = cache_dir / f"desktop-{_key()}.qcow2"
    with (cache_dir / "desktop.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            scratch = cache_dir / "desktop-build"
            build.build_image(load_recipes()[NAME], image, scratch=scratch, progress=lambda _percent, _words: None)
    return image


def _key() -> str:
    digest = hashlib.sha256()
    code = [Path(inspect.getfile(module)) for module in (build, disk, bootloader)]
    for source in (*code, *sorted(RECIPES.glob("*.yaml"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
