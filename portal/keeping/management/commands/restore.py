"""Bring a backup back."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.keeping.archive import KeepingError, Manifest
from portal.keeping.restore import check_backup, restore_backup


class Command(BaseCommand):
    help = "Make this installation what it was when FILE was written. Stop the portal first."
    requires_system_checks: list[str] = []  # They may ask a database that is not there yet.

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--force", action="store_true", help="replace an installation that is not empty")
        parser.add_argument("--check", action="store_true", help="only look whether the backup is whole and fits")

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"].absolute()
        try:
            if options["check"]:
                self._say(check_backup(path), "is whole and fits this Casement.")
                return
            summary = restore_backup(path, force=options["force"])
        except (KeepingError, OSError) as error:
            raise CommandError(str(error)) from error
        self._say(summary.manifest, f"is restored: {summary.rows} rows, {summary.images} images. Start the portal now.")
        for name in summary.missing_images:
            self.stderr.write(f"The file of {name} is not here: build it again, or put it back.")

    def _say(self, manifest: Manifest, words: str) -> None:
        self.stdout.write(f"The backup of {manifest.created_at} ({manifest.engine}) {words}")
