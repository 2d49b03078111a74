"""A small drive: folders and files, FastAPI, JSON in and out, everything in memory."""

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

app = FastAPI(title="Drive", openapi_url=None)

FOLDERS = {"root": None, "engineering": "root", "designs": "engineering", "hr": "root", "handbook": "root"}
FILES = {
    "roadmap": {"folder": "engineering", "text": "Ship the drive."},
    "logo": {"folder": "designs", "text": "A square."},
    "salaries": {"folder": "hr", "text": "Fair ones."},
    "welcome": {"folder": "handbook", "text": "Hello."},
}


class Draft(BaseModel):
    name: str = Field(pattern="^[a-z0-9-]{1,40}$")
    text: str = Field(max_length=10_000)


class Text(BaseModel):
    text: str = Field(max_length=10_000)


def file_or_404(file_id: str):
    if file_id not in FILES:
        raise HTTPException(404, f"there is no file {file_id}")
    return {"id": file_id, **FILES[file_id]}


@app.get("/healthz")
async def health():
    return {"status": "ok"}


@app.get("/folders/{folder_id}")
async def list_folder(folder_id: str):
    if folder_id not in FOLDERS:
        raise HTTPException(404, f"there is no folder {folder_id}")
    return {
        "folders": [name for name, parent in FOLDERS.items() if parent == folder_id],
        "files": [name for name, file in FILES.items() if file["folder"] == folder_id],
    }


@app.post("/folders/{folder_id}/files", status_code=201)
async def add_file(folder_id: str, draft: Draft):
    if folder_id not in FOLDERS or draft.name in FILES:
        raise HTTPException(409, "there is no such folder, or there is such a file")
    FILES[draft.name] = {"folder": folder_id, "text": draft.text}
    return file_or_404(draft.name)


@app.get("/files/{file_id}")
async def read_file(file_id: str):
    return file_or_404(file_id)


@app.put("/files/{file_id}")
async def write_file(file_id: str, text: Text):
    file_or_404(file_id)
    FILES[file_id]["text"] = text.text
    return file_or_404(file_id)


@app.delete("/files/{file_id}")
async def delete_file(file_id: str):
    file = file_or_404(file_id)
    del FILES[file_id]
    return {"deleted": file}
