"""What the program has given to the doctor to keep an eye on: pools and queues."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

_watched: list[tuple[str, Callable[[], Any]]] = []

#: Numbers about a pool that libraries have under one of these names, as method or attribute.
_NUMBERS = (
    ("size", ("get_size", "size", "maxsize", "max_size", "max_connections", "_max_size")),
    ("in use", ("checkedout", "_in_use_connections", "_used", "_acquired")),
    ("free", ("get_idle_size", "freesize", "_available_connections", "_free", "checkedin")),
    ("limit", ("get_max_size", "limit")),
)


def watch(pool: Any, name: str | None = None) -> Callable[[], None]:
    """Lets findings about an exhausted pool say how it stands: its size, what is in use, what is
    free, as far as it has such numbers (asyncpg, SQLAlchemy, redis, aiomysql, psycopg_pool do).

    Args:
        pool: any object. One that takes no weak references (asyncpg's pools) is kept alive until
            the watching ends.
        name: what to call it. Default: its class.

    Returns:
        A function that ends it.
    """
    try:
        get: Callable[[], Any] = weakref.ref(pool)
    except TypeError:

        def get() -> Any:
            return pool

    entry = (name or type(pool).__name__, get)
    _watched.append(entry)

    def end() -> None:
        if entry in _watched:
            _watched.remove(entry)

    return end


def _number(pool: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value: Any = getattr(pool, name, None)
        if callable(value):
            try:
                value = value()
            except Exception:
                continue
        if hasattr(value, "__len__"):
            value = len(value)
        if isinstance(value, int):
            return value
    return None


def watched_state() -> list[str]:
    """A line for each pool that is watched and still there."""
    lines = []
    for entry in tuple(_watched):
        name, ref = entry
        pool = ref()
        if pool is None:
            _watched.remove(entry)
            continue
        numbers = ((label, _number(pool, names)) for label, names in _NUMBERS)
        text = ", ".join(f"{label} {value}" for label, value in numbers if value is not None)
        lines.append(f"{name}: {text}" if text else f"{name} says nothing about itself")
    return lines
