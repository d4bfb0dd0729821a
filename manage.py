#!/usr/bin/env python
"""Django's command line for Casement."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    if sys.argv[1:2] == ["restore"]:
        from portal.keeping.fresh import take_settings  # In an empty folder, the settings come from the backup.

        take_settings(sys.argv[2:])
    from django.core.management import execute_from_command_line  # Only after the settings module is named.

    execute_from_command_line(sys.argv)
