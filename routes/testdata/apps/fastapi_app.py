"""A FastAPI application with nested routers, mounted applications, root_path, tags and overlaps."""

import tempfile

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route


def at(router, path, name, methods=("GET",), tags=None):
    async def endpoint(request: Request):
        return JSONResponse({"name": name, "params": request.path_params})

    router.add_api_route(path, endpoint, methods=list(methods), name=name, tags=tags)


def plain(name):
    async def endpoint(request):
        return JSONResponse({"name": name, "params": request.path_params})

    return endpoint


def create_app(root_path=""):
    app = FastAPI(root_path=root_path)
    at(app, "/", "index")
    at(app, "/items", "items", ["GET", "POST"], tags=["items"])
    at(app, "/items/{item_id}", "item", tags=["items"])
    at(app, "/items/mine", "mine")
    at(app, "/items/{item_id:int}", "item_put", ["PUT", "DELETE"])
    at(app, "/files/{file_path:path}", "files")
    at(app, "/slash/", "slash")
    at(app, "/api/{rest}", "api_rest")
    at(app, "/float/{f:float}/{u:uuid}", "float")
    at(app, "/mixed/{a}:{b}", "mixed")

    users = APIRouter(prefix="/users", tags=["users"])
    at(users, "", "users")
    at(users, "/me", "me")
    at(users, "/{user}", "user", ["GET", "PATCH"])
    posts = APIRouter(prefix="/{user}/posts")
    at(posts, "/", "posts")
    at(posts, "/{post:int}", "post", ["GET", "DELETE"])
    posts.routes.append(Route("/plain/{x}", plain("plain"), name="plain"))
    users.include_router(posts)
    app.include_router(users)
    app.include_router(users, prefix="/v2/{tenant}")

    sub = FastAPI()
    at(sub, "/", "sub_index")
    at(sub, "/leaf/{x}", "sub_leaf", ["POST"])
    at(sub, "/dir/{x}/", "sub_dir")
    app.mount("/sub", sub)
    rooted = FastAPI(root_path="/elsewhere")
    at(rooted, "/r/{x}", "rooted")
    app.mount("/rooted", rooted)
    more = APIRouter()
    more.routes.append(Mount("/more/{m}", routes=[Route("/z/{z}", plain("more_z"), name="more_z")]))
    app.include_router(more, prefix="/inc")
    at(app, "/sub/after", "after")
    return app


def create_frontend():
    from fastapi.routing import _FrontendStaticFiles

    async def served(self, scope):
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405)
        path = scope["path"].removeprefix("/admin") if scope["path"].startswith("/admin/") else scope["path"]
        params = {} if scope["path"] == "/admin" else {"path": path[1:]}
        return JSONResponse({"name": "frontend", "params": params})

    _FrontendStaticFiles.get_response_for_scope = served  # what is matched is of interest here, not the files
    app = FastAPI()
    directory = tempfile.gettempdir()
    at(app, "/api/{x}", "api")
    app.frontend("/", directory=directory)
    app.frontend("/admin", directory=directory)
    return app


app = create_app()
