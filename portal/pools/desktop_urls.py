"""Addresses of desktops for the people who use them. A pool is named in them, a session has its id."""

from django.urls import path

from portal.pools import views

app_name = "desktops"
urlpatterns = [
    path("", views.desktop_list, name="list"),
    path("tiles", views.tiles, name="tiles"),
    path("session/<uuid:pk>/", views.session, name="session"),
    path("session/<uuid:pk>/open", views.session_open, name="session-open"),
    path("session/<uuid:pk>/desk", views.session_desk, name="session-desk"),
    path("session/<uuid:pk>/here", views.session_here, name="session-here"),
    path("session/<uuid:pk>/shown", views.session_shown, name="session-shown"),
    path("session/<uuid:pk>/sign-out", views.session_sign_out, name="session-sign-out"),
    path("<slug:pool>/", views.enter, name="enter"),
    path("<slug:pool>/place", views.place, name="place"),
    path("<slug:pool>/leave", views.leave, name="leave"),
]
