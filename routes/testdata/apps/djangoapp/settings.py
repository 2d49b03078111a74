"""A Django project with every converter, includes in includes, re_path, class-based views and overlaps."""

SECRET_KEY = "only for tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "djangoapp.urls"
INSTALLED_APPS = []
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
USE_I18N = False
LOGGING_CONFIG = None
