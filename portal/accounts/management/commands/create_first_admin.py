"""The first administrator, with a password that is shown once."""

import secrets
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from portal.accounts.models import User


class Command(BaseCommand):
    help = "Make an administrator with a random password, shown this once. Does nothing where there is one already."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", default="admin")

    def handle(self, *args: Any, **options: Any) -> None:
        password = secrets.token_urlsafe(15)
        with transaction.atomic():
            if User.objects.filter(is_superuser=True, is_active=True).exists():
                return
            User.objects.create_superuser(options["username"], password=password)
        self.stdout.write(f'Sign in as "{options["username"]}" with the password {password} (shown this once).')
