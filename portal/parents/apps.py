from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ParentsConfig(AppConfig):
    name = "portal.parents"
    verbose_name = _("running copies to fork from")
