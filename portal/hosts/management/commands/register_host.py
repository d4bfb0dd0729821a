"""Add a hypervisor host by hand or by script."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_slug

from portal.hosts import services
from portal.hosts.models import Host


class Command(BaseCommand):
    help = "Add a host, or bring the one of this name up to date. It reports its size by itself within seconds."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="letters, digits and hyphens; its queue is host.NAME")
        parser.add_argument("--uri", required=True, help="libvirt's address of it, e.g. qemu:///system")
        parser.add_argument("--pool-dir", required=True, help="the folder on the host for images and disks")
        parser.add_argument(
            "--network", default=Host._meta.get_field("network").default, help="libvirt's network for guests"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            validate_slug(options["name"])
        except ValidationError as error:
            raise CommandError("A host's name is letters, digits, hyphens and underscores.") from error
        host = services.register_host(
            options["name"], uri=options["uri"], pool_dir=options["pool_dir"], network=options["network"]
        )
        if options["verbosity"]:
            self.stdout.write(f"{host.name}: {host.uri}, disks in {host.pool_dir}")
