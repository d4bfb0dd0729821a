from django.urls import path

from portal.machines import device_views, views

app_name = "machines"
urlpatterns = [
    path("", views.machine_list, name="list"),
    path("new/", views.machine_new, name="new"),
    path("<uuid:pk>/", views.machine_detail, name="detail"),
    path("<uuid:pk>/row", views.machine_row, name="row"),
    path("<uuid:pk>/start", views.machine_start, name="start"),
    path("<uuid:pk>/stop", views.machine_stop, name="stop"),
    path("<uuid:pk>/reboot", views.machine_reboot, name="reboot"),
    path("<uuid:pk>/reset", views.machine_reset, name="reset"),
    path("<uuid:pk>/force-off", views.machine_force_off, name="force-off"),
    path("<uuid:pk>/retry", views.machine_retry, name="retry"),
    path("<uuid:pk>/delete", views.machine_delete, name="delete"),
    path("<uuid:pk>/delete/confirm", views.machine_confirm_delete, name="confirm-delete"),
    path("<uuid:pk>/disks/new", device_views.disk_new, name="disk-new"),
    path("<uuid:pk>/disks/attach", device_views.disk_attach, name="disk-attach"),
    path("<uuid:pk>/disks/detach", device_views.disk_detach, name="disk-detach"),
    path("<uuid:pk>/disks/grow", device_views.disk_grow, name="disk-grow"),
    path("<uuid:pk>/disks/limits", device_views.disk_limits, name="disk-limits"),
    path("<uuid:pk>/disks/first", device_views.disk_first, name="disk-first"),
    path("<uuid:pk>/disks/keep", device_views.disk_keep, name="disk-keep"),
    path("<uuid:pk>/cards/add", device_views.card_add, name="card-add"),
    path("<uuid:pk>/cards/remove", device_views.card_remove, name="card-remove"),
    path("<uuid:pk>/secret", views.machine_secret, name="secret"),
]
