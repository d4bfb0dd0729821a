from django.urls import path

from portal.deployments import views, views_act, views_own

app_name = "deployments"
urlpatterns = [
    path("", views.deployment_list, name="list"),
    path("new/", views.deployment_new, name="new"),
    path("<uuid:pk>/", views.deployment_detail, name="detail"),
    path("<uuid:pk>/act", views_act.act, name="act"),
    path("<uuid:pk>/message", views_act.message, name="message"),
    path("<uuid:pk>/people/", views_act.people, name="people"),
    path("<uuid:pk>/links/", views_act.links, name="links"),
    path("<uuid:pk>/delete/", views_act.delete, name="delete"),
    path("seats/<uuid:pk>/", views.seat_pane, name="seat-pane"),
    path("seats/<uuid:pk>/step", views_act.seat_step, name="seat-step"),
    path("seats/<uuid:pk>/unlink", views_act.seat_unlink, name="seat-unlink"),
    path("desktops/<uuid:pk>/", views_own.own, name="own"),
    path("desktops/<uuid:pk>/start", views_own.own_start, name="own-start"),
    # The log scrubber knows this address by "shared/".
    path("shared/<str:token>/", views_own.shared, name="shared"),
]
