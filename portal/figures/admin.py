from django.contrib import admin

from portal.figures.models import Series
from portal.lib.admin import ReadOnlyAdmin


@admin.register(Series)
class SeriesAdmin(ReadOnlyAdmin):
    list_display = ("subject", "level", "end")
    list_filter = ("level",)
    search_fields = ("subject",)
    fields = ("subject", "level", "end")
