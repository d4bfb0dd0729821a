from django.urls import path

from portal.figures import views

app_name = "figures"
urlpatterns = [
    path("loads", views.loads, name="loads"),
    path("<uuid:pk>/figures/", views.machine, name="machine"),
]
