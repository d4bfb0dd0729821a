from django.urls import path

from portal.console import people_views, serial_views, views, views_thumbnail

app_name = "console"
urlpatterns = [
    path("<uuid:pk>/console/ticket", views.ticket, name="ticket"),
    path("<uuid:pk>/screen/", views.screen, name="screen"),
    path("<uuid:pk>/screen/test/", views.selftest, name="selftest"),
    path("<uuid:pk>/screen/test/steps", views.selftest_steps, name="selftest-steps"),
    path("<uuid:pk>/thumbnail", views_thumbnail.thumbnail, name="thumbnail"),
    path("<uuid:pk>/screen/people/", people_views.people, name="people"),
    path("<uuid:pk>/screen/control/take/", people_views.control_take, name="take"),
    path("<uuid:pk>/screen/control/ask/", people_views.control_ask, name="ask"),
    path("<uuid:pk>/screen/control/give/", people_views.control_give, name="give"),
    path("<uuid:pk>/screen/control/release/", people_views.control_release, name="release"),
    path("<uuid:pk>/screen/people/remove/", people_views.person_remove, name="remove"),
    path("<uuid:pk>/screen/people/let-in/", people_views.person_let_in, name="let-in"),
    path("<uuid:pk>/screen/links/", people_views.link_new, name="link-new"),
    path("<uuid:pk>/screen/links/revoke/", people_views.link_revoke, name="link-revoke"),
    path("<uuid:pk>/serial/", serial_views.serial, name="serial"),
    path("<uuid:pk>/serial/log/", serial_views.log, name="serial-log"),
    path("<uuid:pk>/serial/log.txt", serial_views.log_download, name="serial-log-download"),
    # The log scrubber knows this address by "shared/".
    path("shared/<str:token>/", people_views.shared, name="shared"),
]
