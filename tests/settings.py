"""The portal's settings for tests and tools, which never see a running portal's environment file or data."""

import os

from tests.support.home import own_home

os.environ["CASEMENT_TESTING"] = "1"
if "CASEMENT_HOME" not in os.environ:
    os.environ["CASEMENT_HOME"] = own_home()

from portal.settings import *  # noqa: F403 - settings are names in a module; this is Django's way to derive them

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # Fast: tests sign in thousands of times.
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # noqa: F405 - from the star import; WhiteNoise warns without it

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):  # noqa: F405 - from the star import
    # A file, as in real use: Django's in-memory test database has other locks, and threads fail on them.
    # Races are about who wins, not about how long a busy machine lets the others wait.
    DATABASES["default"]["OPTIONS"]["timeout"] = 120  # noqa: F405 - from the star import
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(os.environ["CASEMENT_HOME"], "test.sqlite3")}  # noqa: F405, PTH118
else:
    # The same for hundreds of threads of one process that connect at the same moment.
    DATABASES["default"]["OPTIONS"]["connect_timeout"] = 120  # noqa: F405 - from the star import
