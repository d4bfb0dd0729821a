"""The projects' addresses, named like those of `portal.accounts`, whose models they show: one namespace for both."""

from django.urls import path

from portal.accounts import urls as accounts
from portal.projects import views

app_name = accounts.app_name
urlpatterns = [
    *accounts.urlpatterns,
    path("projects/", views.project_list, name="projects"),
    path("projects/new/", views.project_new, name="project-new"),
    path("projects/<uuid:pk>/", views.project_detail, name="project"),
    path("projects/<uuid:pk>/quota", views.project_quota, name="project-quota"),
    path("projects/<uuid:pk>/bin", views.project_bin, name="project-bin"),
    path("projects/<uuid:pk>/people", views.project_people, name="project-people"),
    path("projects/members/<int:pk>/role", views.member_role, name="member-role"),
    path("projects/members/<int:pk>/remove/", views.member_remove, name="member-remove"),
]
