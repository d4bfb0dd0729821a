from django.urls import path

from portal.snapshots import views

app_name = "snapshots"
urlpatterns = [
    path("machines/<uuid:pk>/snapshots/", views.machine, name="machine"),
    path("machines/<uuid:pk>/snapshots/take", views.take, name="machine-take"),
    path("machines/<uuid:pk>/snapshots/schedule", views.schedule, name="machine-schedule"),
    path("machines/<uuid:pk>/snapshots/unschedule", views.unschedule, name="machine-unschedule"),
    path("snapshots/<uuid:pk>/change", views.change, name="change"),
    path("snapshots/<uuid:pk>/delete", views.delete, name="delete"),
    path("snapshots/<uuid:pk>/restore/", views.restore, name="restore"),
]
