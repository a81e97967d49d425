"""Long lists in pages: `{"items": […], "next": cursor | null}`.

A page begins after the last row of the one before, by that row's sort key, so rows that appear or disappear meanwhile
are neither shown twice nor skipped.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from api.dependencies import INT8_MAX
from api.problems import invalid

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 500
_MAX_CURSOR: Final = 1024

Item = TypeVar("Item", bound=BaseModel)
KeyPart = str | int | datetime
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items at most.")]
CursorText = Annotated[
    str | None, Query(alias="cursor", max_length=_MAX_CURSOR, description="`next` of the page before.")
]


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(description="Give it as `cursor` to get the next page; null: this is the last one.")


def write_cursor(key: Sequence[KeyPart]) -> str:
    """Return the sort key of a row as an opaque string."""
    parts = [part.isoformat() if isinstance(part, datetime) else part for part in key]
    return base64.urlsafe_b64encode(json.dumps(parts, ensure_ascii=False).encode()).rstrip(b"=").decode()


def read_cursor(text: str | None, *types: type[KeyPart]) -> tuple[Any, ...]:
    """Return the sort key behind a cursor, Nones without one. Raises ProblemError 422 for one that we did not make."""
    if text is None:
        return (None,) * len(types)
    try:
        parts = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return tuple(_key_part(kind, part) for kind, part in zip(types, parts, strict=True))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise invalid("query.cursor", "This is no cursor of this list.") from error


def _key_part(kind: type[KeyPart], part: object) -> KeyPart:
    if kind is datetime and isinstance(part, str):
        value = datetime.fromisoformat(part)
        if value.tzinfo is None:
            raise ValueError("a time without zone")
        return value
    if kind is int and type(part) is int and abs(part) <= INT8_MAX:
        return part
    if kind is str and isinstance(part, str) and b"\0" not in part.encode():
        return part
    raise TypeError("a part of another kind")


def page(rows: Sequence[Item], limit: int, key: Callable[[Item], Sequence[KeyPart]]) -> Page[Item]:
    """Return a page of up to `limit` rows; `rows` has one more if there are more."""
    items = list(rows[:limit])
    return Page(items=items, next=write_cursor(key(items[-1])) if len(rows) > limit else None)
