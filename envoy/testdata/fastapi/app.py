"""What FastAPI makes of a request: one resource to protect, and a mirror. Test only."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

app = FastAPI(openapi_url=None)


@app.middleware("http")
async def name(request: Request, call_next):
    response = await call_next(request)
    response.headers["x-app"] = "fastapi"
    return response


@app.get("/healthz")
async def health():
    return {"status": "ok"}


@app.get("/admin/secret")
async def secret():
    return "the crown jewels"


@app.api_route("/headers/{kind}", methods=["GET", "POST", "PUT", "DELETE"])
async def headers(kind: str, request: Request):
    """Every header line as it came, and the method."""
    lines = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in request.headers.raw]
    return JSONResponse({"method": request.method, "headers": lines})
