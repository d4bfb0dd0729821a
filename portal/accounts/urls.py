from django.contrib.auth.decorators import login_not_required
from django.urls import path

from portal.accounts import views, views_auth, views_tokens

app_name = "accounts"
urlpatterns = [
    path("login/", login_not_required(views_auth.LoginView.as_view()), name="login"),
    path("logout/", views_auth.LogoutView.as_view(), name="logout"),
    path("password/", views_auth.PasswordChangeView.as_view(), name="password"),
    path("keys/", views.key_list, name="keys"),
    path("keys/delete", views.key_delete, name="key-delete"),
    path("tokens/", views_tokens.token_list, name="tokens"),
    path("tokens/revoke", views_tokens.token_revoke, name="token-revoke"),
]
