from django.urls import path

from portal.copies import views

app_name = "copies"
urlpatterns = [
    path("machines/<uuid:pk>/clone/", views.clone, name="clone"),
    path("machines/<uuid:pk>/image/", views.capture, name="capture"),
    path("machines/<uuid:pk>/rebuild/", views.rebuild, name="rebuild"),
]
