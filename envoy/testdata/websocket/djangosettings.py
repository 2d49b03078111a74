"""The same in Django with channels."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "djangosettings")
SECRET_KEY = "only for tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "djangourls"
INSTALLED_APPS = []
MIDDLEWARE = []
ASGI_APPLICATION = "djangourls.application"


async def application(scope, receive, send):
    import django

    django.setup()
    from djangourls import application as real

    await real(scope, receive, send)
