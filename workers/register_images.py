"""`python -m workers.register_images`: offer an image for every recipe file, and have built what never was."""

import django

django.setup()

from portal.images import services
from portal.images.models import Firmware, Kind, VersionStatus
from workers.imaging.recipe import load_recipes


def main() -> None:
    # Servers first: they are built fastest, so there is something to launch soon.
    for recipe in sorted(load_recipes().values(), key=lambda recipe: (recipe.kind != "server", recipe.name)):
        image = services.register_recipe(
            recipe.name,
            title=recipe.title,
            description=recipe.description,
            kind=Kind(recipe.kind),
            firmware=Firmware(recipe.firmware),
            min_memory_mib=recipe.min_memory_mib,
        )
        if not image.versions.filter(status__in=[VersionStatus.READY, VersionStatus.BUILDING]).exists():
            services.request_build(image, actor=None)


if __name__ == "__main__":
    main()
