from django.urls import path

from portal.console import views, views_thumbnail

app_name = "console"
urlpatterns = [
    path("<uuid:pk>/console/ticket", views.ticket, name="ticket"),
    path("<uuid:pk>/screen/", views.screen, name="screen"),
    path("<uuid:pk>/screen/test/", views.selftest, name="selftest"),
    path("<uuid:pk>/screen/test/steps", views.selftest_steps, name="selftest-steps"),
    path("<uuid:pk>/thumbnail", views_thumbnail.thumbnail, name="thumbnail"),
]
