from django.contrib.auth.decorators import login_not_required
from django.urls import path

from portal.accounts import views, views_auth

app_name = "accounts"
urlpatterns = [
    path("login/", login_not_required(views_auth.LoginView.as_view()), name="login"),
    path("logout/", views_auth.LogoutView.as_view(), name="logout"),
    path("password/", views_auth.PasswordChangeView.as_view(), name="password"),
    path("projects/", views.project_list, name="projects"),
    path("projects/new/", views.project_new, name="project-new"),
    path("projects/<uuid:pk>/", views.project_detail, name="project"),
    path("projects/<uuid:pk>/quota", views.project_quota, name="project-quota"),
    path("projects/<uuid:pk>/people", views.project_people, name="project-people"),
    path("projects/members/<int:pk>/role", views.member_role, name="member-role"),
    path("projects/members/<int:pk>/remove/", views.member_remove, name="member-remove"),
    path("keys/", views.key_list, name="keys"),
    path("keys/delete", views.key_delete, name="key-delete"),
]
