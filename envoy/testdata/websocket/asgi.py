"""WebSockets beside pages under the same paths."""

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

HEADERS = {"x-app": "page"}


async def page(request):
    return PlainTextResponse("page", headers=HEADERS)


async def news(websocket):
    await websocket.accept(headers=[(b"x-app", b"news")])
    await websocket.close()


async def admin(websocket):
    await websocket.accept(headers=[(b"x-app", b"admin")])
    await websocket.close()


app = Starlette(routes=[WebSocketRoute("/ws/admin", admin), WebSocketRoute("/ws/news", news), Route("/ws/news", page), Route("/{path:path}", page)])
