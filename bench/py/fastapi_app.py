"""The JSON endpoint of the FastAPI row."""

from typing import Annotated

from fastapi import FastAPI, Path
from pydantic import BaseModel

app = FastAPI(openapi_url=None)


class Item(BaseModel):
    id: int
    name: str
    price: float
    tags: list[str]


@app.get("/items/{item_id}")
async def item(item_id: Annotated[int, Path(ge=1)], q: str | None = None) -> Item:
    return Item(id=item_id, name=f"item {item_id}", price=9.5, tags=["one", "two", q or "none"])
