from django.urls import path

from portal.images import views

app_name = "images"
urlpatterns = [
    path("", views.image_list, name="list"),
    path("upload/", views.image_upload, name="upload"),
    path("<uuid:pk>/", views.image_detail, name="detail"),
    path("<uuid:pk>/build", views.image_build, name="build"),
    path("versions/<uuid:pk>/delete/", views.version_delete, name="delete-version"),
]
