"""The items themselves."""

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

router = APIRouter(prefix="/items", tags=["items"])


class Draft(BaseModel):
    name: str = Field(min_length=1)
    price: float = Field(gt=0)


class Item(Draft):
    id: int
    owner: str


STOCK = {
    1: Item(id=1, owner="alice", name="desk lamp", price=45),
    2: Item(id=2, owner="alice", name="oak table", price=620),
    3: Item(id=3, owner="bob", name="office chair", price=180),
}
MANUALS = {"lamps/desk.txt": "Turn the knob.", "chairs/office.txt": "Sit down slowly."}


def find(item_id: int) -> Item:
    if item_id not in STOCK:
        raise HTTPException(404, f"there is no item {item_id}")
    return STOCK[item_id]


@router.get("")
async def list_items():
    return list(STOCK.values())


# Before /items/{item_id}: the first route that fits is the one that answers.
@router.get("/cheapest")
async def cheapest_item():
    return min(STOCK.values(), key=lambda item: item.price)


@router.get("/manuals/{name:path}")
async def read_manual(name: str):
    if name not in MANUALS:
        raise HTTPException(404, f"there is no manual {name}")
    return {"name": name, "text": MANUALS[name]}


@router.get("/of/{owner}")
async def items_of(owner: str):
    return [item for item in STOCK.values() if item.owner == owner]


@router.post("/of/{owner}", status_code=201)
async def add_item(owner: str, draft: Draft):
    item = Item(id=max(STOCK, default=0) + 1, owner=owner, **draft.model_dump())
    STOCK[item.id] = item
    return item


@router.get("/{item_id:int}")
async def read_item(item_id: int):
    return find(item_id)


@router.put("/{item_id:int}")
async def update_item(item_id: int, draft: Draft):
    STOCK[item_id] = find(item_id).model_copy(update=draft.model_dump())
    return STOCK[item_id]


@router.delete("/{item_id:int}")
async def delete_item(item_id: int):
    item = find(item_id)
    del STOCK[item_id]
    return {"deleted": item}
