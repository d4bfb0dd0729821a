"""The operations, one module for each app that they call. Importing this registers all of them."""

from portal.api.core import OPERATIONS
from portal.api.operations import audit, console, hosts, images, jobs, machines, people, projects, sessions

__all__ = ["OPERATIONS", "audit", "console", "hosts", "images", "jobs", "machines", "people", "projects", "sessions"]
