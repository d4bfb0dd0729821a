"""The addresses of hosts and of the overview. The namespace is that of `portal.hosts`, whose rows they show."""

from django.urls import path

from portal.overview import views

app_name = "hosts"
urlpatterns = [
    path("", views.host_list, name="list"),
    path("overview/", views.overview, name="overview"),
    path("<uuid:pk>/", views.host_detail, name="detail"),
    path("<uuid:pk>/enable", views.host_enable, name="enable"),
]
