from django.urls import path

from portal.uploads import views

app_name = "uploads"
urlpatterns = [
    path("", views.upload_new, name="new"),
    path("<uuid:pk>", views.upload_one, name="one"),
    path("<uuid:pk>/discard", views.upload_discard, name="discard"),
]
