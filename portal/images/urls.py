from django.urls import path

from portal.images import views, views_import

app_name = "images"
urlpatterns = [
    path("", views.image_list, name="list"),
    path("upload/", views.image_upload, name="upload"),
    path("import/", views_import.image_import, name="import"),
    path("<uuid:pk>/", views.image_detail, name="detail"),
    path("<uuid:pk>/build", views.image_build, name="build"),
    path("versions/<uuid:pk>/delete/", views.version_delete, name="delete-version"),
]
