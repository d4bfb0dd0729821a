"""Addresses of pools, for operators."""

from django.urls import path

from portal.pools import operator_views as views

app_name = "pools"
urlpatterns = [
    path("", views.pool_list, name="list"),
    path("new/", views.pool_new, name="new"),
    path("<uuid:pk>/", views.pool_detail, name="detail"),
    path("<uuid:pk>/edit/", views.pool_edit, name="edit"),
    path("<uuid:pk>/maintenance", views.maintenance, name="maintenance"),
    path("<uuid:pk>/message", views.message, name="message"),
    path("<uuid:pk>/sign-off/", views.sign_off, name="sign-off"),
    path("<uuid:pk>/recompose", views.recompose, name="recompose"),
    path("<uuid:pk>/recompose/cancel", views.recompose_cancel, name="recompose-cancel"),
    path("<uuid:pk>/back", views.back, name="back"),
    path("<uuid:pk>/people/add", views.people_add, name="people-add"),
    path("<uuid:pk>/people/remove", views.people_remove, name="people-remove"),
    path("<uuid:pk>/hours/add", views.hours_add, name="hours-add"),
    path("<uuid:pk>/hours/remove", views.hours_remove, name="hours-remove"),
    path("<uuid:pk>/empty", views.pool_empty, name="empty"),
    path("<uuid:pk>/delete", views.pool_delete, name="delete"),
    path("sessions/<uuid:pk>/sign-off", views.session_sign_off, name="session-sign-off"),
    path("desktops/<uuid:pk>/recycle", views.desktop_recycle, name="desktop-recycle"),
]
