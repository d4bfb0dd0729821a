from django.urls import path

from portal.console import session_views as views

app_name = "sessions"
urlpatterns = [
    path("", views.session_list, name="list"),
    path("<uuid:pk>/end/", views.session_end, name="end"),
    path("<uuid:pk>/watch/", views.session_watch, name="watch"),
]
