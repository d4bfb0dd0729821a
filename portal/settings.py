"""Casement's settings: one file, driven by the environment, that refuses bad values and sample secrets at start-up.

Every variable is listed in README.md, "Settings". `bin/run` writes what it generates to `$CASEMENT_HOME/casement.env`,
which is read here as well, so that `manage.py` works beside a running portal without exporting anything.
"""

import ipaddress
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

from portal.lib import log

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
CASEMENT_HOME = Path(env.str("CASEMENT_HOME", default=str(BASE_DIR / "var"))).resolve()
env.read_env(CASEMENT_HOME / "casement.env")

TESTING = env.bool("CASEMENT_TESTING", default=False)
DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
if TESTING and not SECRET_KEY:
    SECRET_KEY = "only-for-tests-" + "0123456789" * 5
if len(SECRET_KEY) < 50 or len(set(SECRET_KEY)) < 5 or SECRET_KEY.startswith("django-insecure"):
    raise ImproperlyConfigured(
        "SECRET_KEY must be a secret of at least 50 characters. bin/run makes one; for another way of starting, "
        "set it in the environment (python -c 'import secrets; print(secrets.token_urlsafe(50))')."
    )

# The address that people type, e.g. https://desktops.example.org or https://example.org/vdi (a path prefix is allowed).
CASEMENT_URL = env.str("CASEMENT_URL", default="http://localhost:8000").rstrip("/")
_url = env.url("CASEMENT_URL", default=CASEMENT_URL)
if _url.scheme not in {"http", "https"} or not _url.hostname:
    raise ImproperlyConfigured(
        f"CASEMENT_URL must be a whole address such as https://desktops.example.org, not {CASEMENT_URL!r}."
    )
HTTPS = _url.scheme == "https"
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[_url.hostname, "localhost", "127.0.0.1", "[::1]"])
if "*" in ALLOWED_HOSTS:
    raise ImproperlyConfigured("ALLOWED_HOSTS must name the portal's hosts; '*' would let any site pose as it.")
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[f"{_url.scheme}://{_url.netloc}"])
FORCE_SCRIPT_NAME = _url.path or None
# Only set where a proxy in front is known to overwrite the header: a header that anyone can send is no proof.
TRUST_PROXY = env.bool("TRUST_PROXY", default=False)
FORWARDED_ALLOW_IPS = env.list("FORWARDED_ALLOW_IPS", default=["127.0.0.1"])
if TRUST_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_NAME = "casement_session"
CSRF_COOKIE_NAME = "casement_csrf"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = False  # htmx and the console send the token in a header, so scripts of ours must read it.
# Only for a gateway on another host than the portal's: the parent domain of both, so that the browser brings the
# session there, too. Every other host below that domain then gets it as well, so there must be nobody else's.
SESSION_COOKIE_DOMAIN = env.str("SESSION_COOKIE_DOMAIN", default="") or None
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=0)
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    "unfold",  # Before django.contrib.admin: it takes the admin's templates over.
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "portal.accounts",
    "portal.audit",
    "portal.events",
    "portal.hosts",
    "portal.uploads",
    "portal.images",
    "portal.parents",
    "portal.isos",
    "portal.volumes",
    "portal.jobs",
    "portal.machines",
    "portal.snapshots",
    "portal.copies",
    "portal.console",
    "portal.profiles",
    "portal.pools",
    "portal.deployments",
    "portal.figures",
    "portal.api",
    "portal.keeping",
]

MIDDLEWARE = [
    "portal.lib.middleware.RequestMiddleware",
    "portal.api.problems.ProblemMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "portal.lib.middleware.ServerTimingMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.lib.middleware.SignInMiddleware",  # Deny by default: a public view says so itself.
    "portal.accounts.guests.GuestMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "portal.lib.admin_csp.AdminPolicyMiddleware",
    "portal.lib.middleware.PortalErrorMiddleware",
]

ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
                "portal.pools.tiles.desktops",
            ],
            # portal.lib is no app, so its tags are named here.
            "libraries": {"kit": "portal.lib.templatetags.kit"},
        },
    }
]
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"
INSTALLED_APPS.insert(0, "django.forms")

DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{CASEMENT_HOME / 'db.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # WAL lets readers go on while one writes; IMMEDIATE takes the write lock at the start of a transaction, so that two
    # writers queue up (20 s) instead of one failing half-way with "database is locked".
    DATABASES["default"]["ENGINE"] = "portal.lib.sqlite3"
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
    }
else:
    DATABASES["default"].setdefault("CONN_HEALTH_CHECKS", True)
    # A database whose machine is gone answers nothing at all: without a limit every request would wait for minutes.
    DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
    # A web process answers each request in a thread of its own (portal/asgi.py asks for this). Without a pool each
    # would connect anew, and PostgreSQL begins each connection with empty caches: a page took 13 ms longer.
    if env.bool("CASEMENT_IN_WEB_PROCESS", default=False) and (most := env.int("DATABASE_POOL", default=40)):
        pool = {"min_size": 1, "max_size": most, "timeout": 2, "reconnect_timeout": 5}
        DATABASES["default"]["ENGINE"] = "portal.lib.pooled"
        DATABASES["default"]["OPTIONS"]["pool"] = pool
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", default=f"unix://{CASEMENT_HOME / 'run' / 'redis.sock'}")
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # The layer waits up to 5 s for a message, so reading must be allowed to take longer than that.
            "hosts": [{"address": REDIS_URL, "socket_timeout": 30}],
            "prefix": "casement",
            "expiry": 60,
            "capacity": 1000,
        },
    }
}
# Celery takes another spelling for a UNIX socket than redis-py does.
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)

AUTH_USER_MODEL = "accounts.User"
# The first is for new passwords. Those that were kept otherwise are written anew by it when their person signs in.
PASSWORD_HASHERS = [
    "portal.accounts.hashers.Argon2Hasher",
    "django.contrib.auth.hashers.ScryptPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "accounts:login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "accounts:login"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English"))]
LOCALE_PATHS = [BASE_DIR / "portal" / "locale"]
TIME_ZONE = "UTC"  # Stored and computed in UTC; the browser shows the reader's zone (static/js/base.js).
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = CASEMENT_HOME / "static"
STATICFILES_DIRS = [BASE_DIR / "static" / "dist"]
WHITENOISE_MAX_AGE = 31536000
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if TESTING or DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
if TESTING or DEBUG:
    WHITENOISE_USE_FINDERS = True
    STATICFILES_DIRS = [path for path in STATICFILES_DIRS if path.is_dir()]  # Unit tests run without a built front end.

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],  # Tabler's icons in CSS are data: images; the console draws blobs.
        "font-src": [SELF],
        "connect-src": [SELF],
        "media-src": [SELF, "blob:"],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "object-src": [NONE],
        "manifest-src": [SELF],
    }
}

# Where files of people's images go; the names in there are made by the portal.
IMAGES_DIR = CASEMENT_HOME / "images"
ISOS_DIR = CASEMENT_HOME / "isos"
KEYRINGS_DIR = CASEMENT_HOME / "keyrings"
UPLOADS_DIR = CASEMENT_HOME / "uploads"
UPLOADS_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)  # Django refuses to start without its upload folder.
IMAGE_MAX_UPLOAD_BYTES = env.int("IMAGE_MAX_UPLOAD_BYTES", default=20 * 1024**3)
IMAGE_MAX_VIRTUAL_BYTES = env.int("IMAGE_MAX_VIRTUAL_BYTES", default=200 * 1024**3)
# How long an upload that nobody goes on with is kept.
UPLOADS_KEEP_HOURS = env.int("UPLOADS_KEEP_HOURS", default=48)
if UPLOADS_KEEP_HOURS < 1:
    raise ImproperlyConfigured("UPLOADS_KEEP_HOURS must be a number of hours, 1 or more.")
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
FILE_UPLOAD_TEMP_DIR = UPLOADS_DIR
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

# How long a guest may take to come up before its build counts as failed. Emulated machines are slow: be generous.
GUEST_BOOT_TIMEOUT_S = env.int("GUEST_BOOT_TIMEOUT_S", default=900)
# How long a guest may take to shut down by itself before the page offers to force it.
GUEST_SHUTDOWN_TIMEOUT_S = env.int("GUEST_SHUTDOWN_TIMEOUT_S", default=120)
# How much memory a running guest can be given, in times of what it was made with. Above 1 a hostile guest can take that
# without being asked, past its quota: only for guests that are trusted.
GUEST_MEMORY_ROOM = max(env.float("GUEST_MEMORY_ROOM", default=1.0), 1.0)
# How large the volume with a person's own files is made, when they come to a desktop of a project for the first time.
PROFILE_GIB = env.int("PROFILE_GIB", default=5)
if PROFILE_GIB < 1:
    raise ImproperlyConfigured("PROFILE_GIB must be a number of GiB, 1 or more.")

CONSOLE_MAX_SESSIONS_PER_USER = env.int("CONSOLE_MAX_SESSIONS_PER_USER", default=20)
CONSOLE_MAX_SESSIONS_PER_MACHINE = env.int("CONSOLE_MAX_SESSIONS_PER_MACHINE", default=20)
CONSOLE_MAX_SESSIONS_PER_PROCESS = env.int("CONSOLE_MAX_SESSIONS_PER_PROCESS", default=500)
# How old a machine's small picture gets while somebody looks at it; 0 takes none.
CONSOLE_THUMBNAIL_EVERY_S = env.int("CONSOLE_THUMBNAIL_EVERY_S", default=10)
if CONSOLE_THUMBNAIL_EVERY_S < 0:
    raise ImproperlyConfigured("CONSOLE_THUMBNAIL_EVERY_S must be seconds, or 0 for no thumbnails.")

# Where browsers open a screen's WebSocket. Empty: here, on the portal's own port. Else the gateway's whole address, as
# in wss://desktops.example.org:8443/. The gateway lets in by the session cookie. A browser brings that to the very host
# that set it, on any port; SameSite=Lax does not stop it, since a site has no port and takes in all hosts of a domain.
CONSOLE_GATEWAY_URL = env.str("CONSOLE_GATEWAY_URL", default="")
if CONSOLE_GATEWAY_URL:
    _gateway = urlsplit(CONSOLE_GATEWAY_URL)
    if _gateway.scheme not in {"ws", "wss"} or not _gateway.hostname or _gateway.username or _gateway.query:
        raise ImproperlyConfigured(
            f"CONSOLE_GATEWAY_URL must be a whole address such as wss://desktops.example.org:8443/, "
            f"without a name or a query, not {CONSOLE_GATEWAY_URL!r}."
        )
    if HTTPS and _gateway.scheme != "wss":
        raise ImproperlyConfigured("CONSOLE_GATEWAY_URL must be wss://…: browsers open no ws:// from https pages.")
    _domain = (SESSION_COOKIE_DOMAIN or "").lstrip(".")
    if _gateway.hostname != _url.hostname and not (
        _domain and all(f".{host}".endswith(f".{_domain}") for host in (_gateway.hostname, _url.hostname))
    ):
        raise ImproperlyConfigured(
            f"The session never gets from {_url.hostname} to {_gateway.hostname}: put CONSOLE_GATEWAY_URL on another "
            f"port of {_url.hostname}, or set SESSION_COOKIE_DOMAIN to the domain that both belong to."
        )
    CONTENT_SECURITY_POLICY["DIRECTIVES"]["connect-src"].append(f"{_gateway.scheme}://{_gateway.netloc}")

UNFOLD = {
    "SITE_TITLE": _("Casement administration"),
    "SITE_HEADER": "Casement",
    "SITE_URL": reverse_lazy("machines:list"),
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [lambda request: static("css/admin.css")],
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("img/casement.svg")}],
}

# How many requests a token may send in a minute; 0 for as many as it likes.
API_REQUESTS_PER_MINUTE = env.int("API_REQUESTS_PER_MINUTE", default=600)
if API_REQUESTS_PER_MINUTE < 0:
    raise ImproperlyConfigured("API_REQUESTS_PER_MINUTE must be a number of requests, or 0 for no limit.")

# Whoever has it may read /metrics; without it there is no such page.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
if METRICS_TOKEN and len(METRICS_TOKEN) < 20:
    raise ImproperlyConfigured(
        "METRICS_TOKEN must be at least 20 characters (python -c 'import secrets; print(secrets.token_urlsafe())')."
    )

# How long events are kept, with the log of what was sent to webhooks.
EVENTS_KEEP_DAYS = env.int("EVENTS_KEEP_DAYS", default=90)
if EVENTS_KEEP_DAYS < 1:
    raise ImproperlyConfigured("EVENTS_KEEP_DAYS must be a number of days, 1 or more.")

# Where addresses that people type (webhooks, images by URL) may lead although it is no public network. What is nobody's
# to reach is never let in: this machine itself and the metadata services of clouds. Only tests, who have nothing else.
_never = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::/127", "fe80::/10", "ff00::/8"),
    *("::ffff:0:0/96", "64:ff9b::/96"),  # These hold addresses of the other kind.
)
try:
    FETCH_PRIVATE_NETWORKS = [ipaddress.ip_network(text) for text in env.list("FETCH_PRIVATE_NETWORKS", default=[])]
except ValueError as error:
    raise ImproperlyConfigured(f"FETCH_PRIVATE_NETWORKS must be networks such as 10.1.0.0/16: {error}.") from error
for _network in FETCH_PRIVATE_NETWORKS:
    _forbidden = any(_network.version == n.version and _network.overlaps(n) for n in map(ipaddress.ip_network, _never))
    if _forbidden and not TESTING:
        raise ImproperlyConfigured(
            f"FETCH_PRIVATE_NETWORKS must not hold {_network}: with it, whoever may name an address could reach this "
            "machine itself, or its cloud's metadata. Name the networks that are meant, as narrow as they are."
        )

LOG_FORMAT = env.str("LOG_FORMAT", default="line")
if LOG_FORMAT not in log.FORMATS:
    raise ImproperlyConfigured(f"LOG_FORMAT must be one of {', '.join(log.FORMATS)}, not {LOG_FORMAT!r}.")
# Python prints its warnings by itself otherwise, and they would be lines that are no objects.
logging.captureWarnings(LOG_FORMAT == "json")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"chosen": {"()": log.FORMATS[LOG_FORMAT]}},
    "filters": {"tickets": {"()": "portal.console.tickets.TicketScrubber"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "chosen", "filters": ["tickets"]}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        "django.request": {"level": "ERROR"},
        # uvicorn brings a format of its own; it comes before these settings, so they win.
        "uvicorn": {"handlers": ["console"], "level": "INFO", "propagate": False},
    },
}
