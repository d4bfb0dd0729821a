from django.urls import path

from portal.hosts import views

app_name = "hosts"
urlpatterns = [
    path("", views.host_list, name="list"),
    path("overview/", views.overview, name="overview"),
    path("<uuid:pk>/", views.host_detail, name="detail"),
    path("<uuid:pk>/enable", views.host_enable, name="enable"),
]
