from django.urls import path

from portal.isos import views

app_name = "isos"
urlpatterns = [
    path("", views.iso_list, name="list"),
    path("upload/", views.iso_upload, name="upload"),
    path("<uuid:pk>/", views.iso_detail, name="detail"),
    path("<uuid:pk>/delete", views.iso_delete, name="delete"),
]
