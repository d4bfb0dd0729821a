from django.urls import path

from portal.machines import views, views_bin, views_life, views_many

app_name = "machines"
urlpatterns = [
    path("", views.machine_list, name="list"),
    path("new/", views.machine_new, name="new"),
    path("bin/", views_bin.bin_list, name="bin"),
    path("bin/<uuid:pk>/restore", views_bin.bin_restore, name="bin-restore"),
    path("bin/<uuid:pk>/purge/", views_bin.bin_purge, name="bin-purge"),
    path("many/", views_many.many_request, name="many"),
    path("many/<uuid:pk>/", views_many.many_result, name="many-result"),
    path("<uuid:pk>/", views.machine_detail, name="detail"),
    path("<uuid:pk>/row", views.machine_row, name="row"),
    path("<uuid:pk>/start", views.machine_start, name="start"),
    path("<uuid:pk>/stop", views.machine_stop, name="stop"),
    path("<uuid:pk>/reboot", views.machine_reboot, name="reboot"),
    path("<uuid:pk>/reset", views.machine_reset, name="reset"),
    path("<uuid:pk>/force-off", views.machine_force_off, name="force-off"),
    path("<uuid:pk>/pause", views_life.machine_pause, name="pause"),
    path("<uuid:pk>/resume", views_life.machine_resume, name="resume"),
    path("<uuid:pk>/hibernate", views_life.machine_hibernate, name="hibernate"),
    path("<uuid:pk>/discard", views_life.machine_discard, name="discard"),
    path("<uuid:pk>/resize/", views_life.machine_resize, name="resize"),
    path("<uuid:pk>/edit/", views_life.machine_edit, name="edit"),
    path("<uuid:pk>/password", views_life.machine_password, name="password"),
    path("<uuid:pk>/key/", views_life.machine_key, name="key"),
    path("<uuid:pk>/user-data", views_life.machine_user_data, name="user-data"),
    path("<uuid:pk>/retry", views.machine_retry, name="retry"),
    path("<uuid:pk>/delete", views.machine_delete, name="delete"),
    path("<uuid:pk>/delete/confirm", views.machine_confirm_delete, name="confirm-delete"),
    path("<uuid:pk>/secret", views.machine_secret, name="secret"),
]
