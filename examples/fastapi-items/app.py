"""A small shop's item service: FastAPI, JSON in and out, everything in memory."""

from fastapi import FastAPI

import reports
from items import router as items

app = FastAPI(title="Items")


@app.get("/healthz", tags=["service"])
async def health():
    return {"status": "ok"}


app.include_router(items)
app.mount("/reports", reports.app)
