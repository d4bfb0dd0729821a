"""The tests' settings with what a real portal has beside them: Redis between the processes, and a broker."""

from portal.settings import CHANNEL_LAYERS as REAL_LAYERS
from tests.settings import *  # noqa: F403 - settings are names in a module; this is Django's way to derive them

CHANNEL_LAYERS = REAL_LAYERS
BUS_IN_TESTS = True
