"""A Flask application with every converter, nested blueprints, class-based views, overlaps and a mounted one."""

from flask import Blueprint, Flask
from flask.views import MethodView, View
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import BaseConverter


class Words(BaseConverter):
    regex = r"[a-z]+(?:\+[a-z]+)*"


class Pattern(BaseConverter):
    def __init__(self, url_map, regex):
        super().__init__(url_map)
        self.regex = regex


class Everything(BaseConverter):
    regex = r".*/.*"
    weight = 300


def view(**kwargs):
    return "ok"


def add(app, rule, name, **options):
    app.add_url_rule(rule, name, view, **options)


def create_app(static=True):
    app = Flask(__name__, static_folder="static" if static else None)
    app.url_map.converters.update(words=Words, re=Pattern, everything=Everything)
    add(app, "/", "index")
    add(app, "/ws", "ws", websocket=True)
    add(app, "/ws/admin", "ws_admin", websocket=True)
    add(app, "/ws/<x>", "ws_page")
    add(app, "/ws/<room>/", "ws_room", websocket=True)
    add(app, "/ws/<path:p>", "ws_path", methods=["POST", "GET"])
    add(app, "/look/<re('(?!api)[a-z/]+'):p>", "look")
    add(app, "/look/<re('(?!api)[a-z]+'):x>/tail", "look_tail")
    add(app, "/look/<x>", "look_any")
    add(app, "/orders", "orders", methods=["GET", "POST"])
    add(app, "/orders/<int:id>", "order")
    add(app, "/orders/<int:id>", "order_delete", methods=["DELETE", "PUT"])
    add(app, "/orders/<name>", "order_by_name")
    add(app, "/orders/new", "order_new")
    add(app, "/orders/<int:id>/lines/", "lines")
    add(app, "/orders/<int:id>/lines/<int:line>", "line")
    add(app, "/int/fixed/<int(fixed_digits=4):n>", "fixed")
    add(app, "/int/range/<int(min=5, max=20):n>", "range")
    add(app, "/int/signed/<int(signed=True, min=3):n>", "signed")
    add(app, "/int/shared/<int(max=5):a>", "shared_low")
    add(app, "/int/shared/<int:b>", "shared_any")
    add(app, "/int/shared/<c>", "shared_text")
    add(app, "/float/<float:f>", "float")
    add(app, "/float/signed/<float(signed=True, max=2.5):f>", "float_signed")
    add(app, "/text/<string(length=2):lang>", "lang")
    add(app, "/text/<string(minlength=3, maxlength=5):word>", "word")
    add(app, "/text/<string(minlength=6):long>/", "long")
    add(app, '/any/<any(about, help, "foo,bar", a, ab):page>', "any")
    add(app, "/any/<page>/x", "any_other")
    add(app, "/uuid/<uuid:id>", "uuid")
    add(app, "/uuid/<id>", "not_uuid")
    add(app, "/files/<path:name>", "files")
    add(app, "/files/<path:name>/edit", "files_edit")
    add(app, "/files/<path:name>/", "files_dir")
    add(app, "/wiki/<path:page>/", "wiki")
    add(app, "/wiki/<path:page>/v<int:version>/", "wiki_version")
    add(app, "/tree/<path:a>/sep/<path:b>", "tree")
    add(app, "/mixed/<a>-<b>", "mixed")
    add(app, "/mixed/<int:a>-<int:b>", "mixed_int")
    add(app, "/mixed/v<int:a>", "mixed_v")
    add(app, "/mixed/<a>.json", "mixed_json")
    add(app, "/mixed/<a>.<ext>", "mixed_ext")
    add(app, "/loose/", "loose_slash", strict_slashes=False)
    add(app, "/loose/<x>", "loose_leaf", strict_slashes=False)
    add(app, "/loose/deep/<x>/", "loose_deep", strict_slashes=False)
    add(app, "/branch/", "branch")
    add(app, "/branch/", "branch_post", methods=["POST"])
    add(app, "/raw//double", "raw_double", merge_slashes=False)
    add(app, "/merged//twice/<x>", "merged")
    add(app, "/keep/<path:p>", "keep", merge_slashes=False)
    add(app, "/pages/", "pages", defaults={"page": 1})
    add(app, "/pages/<int:page>", "pages")
    add(app, "/lists/", "lists", defaults={"kind": "all"})
    add(app, "/lists/<kind>", "lists")
    add(app, "/old/<int:id>", "old", redirect_to="/orders/<id>")
    add(app, "/noopt", "noopt", provide_automatic_options=False)
    add(app, "/opt", "opt", methods=["OPTIONS", "GET"])
    add(app, "/headonly", "headonly", methods=["HEAD"])
    add(app, "/custom/<words:w>", "words")
    add(app, '/custom/<re("[abc]{3}"):x>/y', "re_abc")
    add(app, r'/custom/<re("\d+[x-z]?"):x>/y', "re_digits")
    add(app, "/every/<everything:e>", "everything")
    add(app, "/uni/caf\u00e9/<x>", "unicode")
    add(app, "/a/<x>/c", "back_a")
    add(app, "/a/b/<y>", "back_b")
    add(app, "/a/b/d/", "back_c")
    add(app, "/<a>/<b>/<c>/<d>", "four")
    add(app, "/<lang>/about", "lang_about")
    add(app, "/<path:rest>/catch", "catch")
    add(app, "/semi;v=1/<x>", "semi")
    add(app, "/plus+%/<x>", "plus")

    class Things(MethodView):
        def get(self, id):
            return "ok"

        def delete(self, id):
            return "ok"

    class Report(View):
        methods = ["GET", "PATCH"]

        def dispatch_request(self, **kwargs):
            return "ok"

    app.add_url_rule("/things/<int:id>", view_func=Things.as_view("things"))
    app.add_url_rule("/reports/<year>/<month>", view_func=Report.as_view("reports"))

    child = Blueprint("child", __name__, url_prefix="/child/<int:cid>")
    add(child, "/", "index")
    add(child, "/leaf", "leaf")
    parent = Blueprint("parent", __name__)
    add(parent, "/", "index")
    add(parent, "/<slug>", "slug")
    parent.register_blueprint(child)
    app.register_blueprint(parent, url_prefix="/parent")
    app.register_blueprint(parent, url_prefix="/tenant/<tenant>/p", name="other")
    return app


def create_mounted():
    main = create_app()
    inner = Flask("inner", static_folder=None)
    add(inner, "/", "inner_index")
    add(inner, "/x/<int:id>/", "inner_x")
    deep = Flask("deep", static_folder=None)
    add(deep, "/<path:p>", "deep_path")
    main.wsgi_app = DispatcherMiddleware(main.wsgi_app, {"/mnt": inner, "/mnt/deep": deep})
    main.inner_apps = [inner, deep]
    return main


def create_hosts():
    app = Flask("hosts", host_matching=True, static_folder=None)
    add(app, "/", "www", host="www.example.com")
    add(app, "/", "tenant", host="<tenant>.example.com")
    add(app, "/x/<x>", "tenant_x", host="<tenant>.example.com")
    add(app, "/x/<int:x>", "port_x", host="www.example.com:8080")
    add(app, "/y/", "y", host="api.<region>.example.com")
    return app


def create_subdomains():
    app = Flask("subdomains", subdomain_matching=True, static_folder=None)
    app.config["SERVER_NAME"] = "example.com"
    add(app, "/", "root")
    add(app, "/", "sub", subdomain="<user>")
    add(app, "/s/<int:n>", "api", subdomain="api")
    return app


app = create_app()
