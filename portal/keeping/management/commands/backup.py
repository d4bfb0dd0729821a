"""Write a backup."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.keeping.archive import KeepingError
from portal.keeping.backup import write_backup


class Command(BaseCommand):
    help = "Write the database, the settings and the secrets to FILE, while the portal runs. Keep the file safe."
    requires_system_checks: list[str] = []  # They are about pages, which this makes none of.

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="must not exist; it appears when it is whole")
        parser.add_argument("--with-images", action="store_true", help="the files of images, too: many GiB")

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"].absolute()
        try:
            summary = write_backup(path, with_images=options["with_images"])
        except (KeepingError, OSError) as error:
            raise CommandError(str(error)) from error
        if options["verbosity"]:
            size = path.stat().st_size / 1024**2
            self.stdout.write(f"{path}: {summary.rows} rows, {summary.images} images, {size:.1f} MiB.")
            self.stdout.write("It holds SECRET_KEY and every secret that is sealed with it: keep it as you keep those.")
        for name in summary.missing_images:
            self.stderr.write(f"The file of {name} is not here and not in the backup.")
