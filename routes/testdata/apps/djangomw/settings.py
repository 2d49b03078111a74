"""A Django project whose middleware is named by the environment."""

import os

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "djangomw.urls"
INSTALLED_APPS = []
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", *os.environ.get("DJANGOMW", "").split()]
ROOT_HOSTCONF = "djangomw.hosts"
DEFAULT_HOST = "www"
WSGI_APPLICATION = os.environ.get("DJANGOMW_WSGI")
USE_I18N = False
