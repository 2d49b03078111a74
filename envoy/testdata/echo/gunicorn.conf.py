workers = 1
threads = 8
keepalive = 10
# By default gunicorn drops X_Auth_Subject. Other WSGI servers fold it into X-Auth-Subject; behave as they do.
header_map = "dangerous"
