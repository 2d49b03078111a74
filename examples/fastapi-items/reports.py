"""Reports: an application of its own, mounted into the first one."""

from fastapi import FastAPI

from items import STOCK

app = FastAPI(title="Reports", openapi_url=None)


@app.get("/total")
async def total():
    return {"total": sum(item.price for item in STOCK.values())}


@app.get("/by-owner/{owner}")
async def by_owner(owner: str):
    return {"owner": owner, "total": sum(item.price for item in STOCK.values() if item.owner == owner)}
