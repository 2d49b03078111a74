"""The same in Flask: gunicorn serves an upgrade as any GET, and Flask looks for a rule of WebSockets."""

from flask import Flask

app = Flask(__name__, static_folder=None)


@app.after_request
def name(response):
    response.headers["x-app"] = "page" if response.status_code == 200 else "app"
    return response


def page(**kwargs):
    return "page"


app.add_url_rule("/ws/admin", "ws_admin", page, websocket=True)
app.add_url_rule("/ws/news", "ws_news", lambda: ("no socket here", 400), websocket=True)
app.add_url_rule("/ws/news", "news", page)
app.add_url_rule("/<path:path>", "page", page)
