from django.urls import path

from portal.profiles import views

app_name = "profiles"
urlpatterns = [
    path("", views.mine, name="mine"),
    path("all/", views.profile_list, name="list"),
    path("<uuid:pk>/release", views.profile_release, name="release"),
    path("<uuid:pk>/delete/", views.profile_delete, name="delete"),
]
