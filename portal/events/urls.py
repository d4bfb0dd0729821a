from django.urls import path

from portal.events import views

app_name = "events"
urlpatterns = [
    path("projects/<uuid:pk>/events/", views.event_list, name="list"),
    path("projects/<uuid:pk>/webhooks/", views.webhook_list, name="hooks"),
    path("projects/<uuid:pk>/webhooks/new/", views.webhook_new, name="new"),
    path("webhooks/<uuid:pk>/", views.webhook_detail, name="webhook"),
    path("webhooks/<uuid:pk>/edit/", views.webhook_edit, name="webhook-edit"),
    path("webhooks/<uuid:pk>/enable", views.webhook_enable, name="webhook-enable"),
    path("webhooks/<uuid:pk>/try", views.webhook_try, name="webhook-try"),
    path("webhooks/<uuid:pk>/secret", views.webhook_secret, name="webhook-secret"),
    path("webhooks/<uuid:pk>/secret/new", views.webhook_new_secret, name="webhook-new-secret"),
    path("webhooks/<uuid:pk>/delete/", views.webhook_delete, name="webhook-delete"),
    path("webhooks/deliveries/<uuid:pk>/resend", views.delivery_resend, name="delivery-resend"),
]
