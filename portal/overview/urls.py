"""The addresses of hosts and of the overview. The namespace is that of `portal.hosts`, whose rows they show."""

from django.urls import path

from portal.overview import copies, views

app_name = "hosts"
urlpatterns = [
    path("", views.host_list, name="list"),
    path("overview/", views.overview, name="overview"),
    path("copies/", copies.copy_list, name="copies"),
    path("copies/keep", copies.copy_keep, name="copy-keep"),
    path("copies/wishes/<uuid:pk>/no-longer", copies.copy_no_longer, name="copy-no-longer"),
    path("copies/<uuid:pk>/again", copies.copy_again, name="copy-again"),
    path("<uuid:pk>/", views.host_detail, name="detail"),
    path("<uuid:pk>/enable", views.host_enable, name="enable"),
    path("differences/<uuid:pk>/adopt", views.difference_adopt, name="adopt"),
    path("differences/<uuid:pk>/repair", views.difference_repair, name="repair"),
    path("differences/<uuid:pk>/remove-copy", views.difference_remove_copy, name="remove-copy"),
]
