from django.urls import path

from portal.volumes import views

app_name = "volumes"
urlpatterns = [
    path("", views.volume_list, name="list"),
    path("new/", views.volume_new, name="new"),
    path("<uuid:pk>/", views.volume_detail, name="detail"),
    path("<uuid:pk>/grow", views.volume_grow, name="grow"),
    path("<uuid:pk>/delete", views.volume_delete, name="delete"),
]
