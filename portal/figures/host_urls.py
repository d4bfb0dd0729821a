"""The figures' addresses below those of hosts."""

from django.urls import path

from portal.figures import views

app_name = "host-figures"
urlpatterns = [
    path("<uuid:pk>/figures/", views.host, name="host"),
]
