"""The addresses of hosts and of the overview. The namespace is that of `portal.hosts`, whose rows they show."""

from django.urls import path

from portal.overview import views

app_name = "hosts"
urlpatterns = [
    path("", views.host_list, name="list"),
    path("overview/", views.overview, name="overview"),
    path("<uuid:pk>/", views.host_detail, name="detail"),
    path("<uuid:pk>/enable", views.host_enable, name="enable"),
    path("differences/<uuid:pk>/adopt", views.difference_adopt, name="adopt"),
    path("differences/<uuid:pk>/repair", views.difference_repair, name="repair"),
    path("differences/<uuid:pk>/remove-copy", views.difference_remove_copy, name="remove-copy"),
]
