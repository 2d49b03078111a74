"""The other of the two: FastAPI. Test only."""

from fastapi import FastAPI

app = FastAPI(openapi_url=None)


@app.get("/healthz")
async def health():
    return {"status": "ok"}


@app.get("/things/{name:path}")
async def read(name: str):
    return {"app": "beta", "thing": name}


@app.get("/beta/{thing}")
async def own(thing: str):
    return {"app": "beta", "name": thing}
