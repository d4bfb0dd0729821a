#!/usr/bin/env python
"""Django's command line for Casement."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from django.core.management import execute_from_command_line  # Only after the settings module is named.

    execute_from_command_line(sys.argv)
