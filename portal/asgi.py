"""The web process: HTTP by Django; live channel and console by Channels, behind an origin check and the session."""

import gc
import os
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from channels.sessions import SessionMiddlewareStack
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
os.environ.setdefault("CASEMENT_IN_WEB_PROCESS", "1")
django_app = get_asgi_application()

# These touch models, so they come after Django is set up.
from django.conf import settings
from django.urls import get_resolver, path

from portal.accounts.consumers import LiveConsumer
from portal.api.follow import Streams
from portal.console.consumers import console_app

# The console asks for its person itself, and again each second; who waits for a screen does not wait for that twice.
# (Django's stubs know views only; Channels routes ASGI applications by the same path().)
live: Any = AuthMiddlewareStack(LiveConsumer.as_asgi())
console: Any = SessionMiddlewareStack(console_app)
routes: list[Any] = [path("ws/live/", live), path("ws/console/", console)]
websockets = URLRouter(routes)


class OwnPages(OriginValidator):
    """Channels' own check takes an origin that is no address at all for a fault of ours, and answers 500."""

    def valid_origin(self, parsed_origin: Any) -> bool:
        try:
            return bool(super().valid_origin(parsed_origin))
        except ValueError:
            return False


application = ProtocolTypeRouter(
    {
        "http": Streams(django_app),
        # A page of another site may open a WebSocket with our cookie, so only our own origins get through.
        "websocket": OwnPages(websockets, settings.CSRF_TRUSTED_ORIGINS),
    }
)

# What is loaded by now stays for good. Without this the collector looks through all of it again and again, in
# the middle of people's requests: the operator's overview took half as much again.
get_resolver().url_patterns  # noqa: B018 - loads every view
gc.collect()
gc.freeze()
