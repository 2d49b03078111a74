"""Another package's helpers, which middleware hands a request to."""


def to_admin(scope):
    scope["path"] = "/admin"


def to_admin_environ(environ):
    environ["PATH_INFO"] = "/admin"


def to_admin_urlconf(request):
    request.urlconf = "djangomw.admin"


class Chooser:
    def apply(self, request):
        request.urlconf = "djangomw.admin"


def notes(scope):
    """Nothing of the request is changed: this is a report."""
    report = {}
    report["path"] = scope["path"]
    return report
