bind = "127.0.0.1:8000"
wsgi_app = "config.wsgi:application"
workers = 2
threads = 4
# Longer than the proxy keeps an idle connection, so that it is never the app that closes one under a request.
keepalive = 10
