"""Requests by route: counted, whatever an application does, and in nobody's way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import time
import weakref
from typing import Any

import pytest
from loops import until
from programs import Python, python  # noqa: F401
from taut import _core, _listing, doctor

import taut

pytestmark = pytest.mark.skipif(
    os.environ.get("TAUT_TASKS") == "stdlib", reason="asyncio's tasks do not know their request"
)
LIMIT_S = 30
STALL_S = 0.12
_numbers = itertools.count(1)


def fresh(name: str = "r") -> str:
    """A path that no other test has counted: the table is the process's."""
    return f"/{name}-{'abcdefghij'[next(_numbers) // 10]}{'abcdefghij'[next(_numbers) % 10]}"


def of(path: str, method: str = "GET") -> dict[str, Any]:
    """The numbers of one route; {} when nothing was counted."""
    rows = [r for r in doctor.metrics()["routes"] if (r["method"], r["route"]) == (method, path)]
    assert len(rows) <= 1
    return rows[0] if rows else {}


def scope_of(path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": "", **more}


async def call(app: Any, scope: dict[str, Any]) -> Any:
    """One request, in a task of its own, as servers do it."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    result = await asyncio.create_task(app(scope, receive, send))
    return result, sent


def run(main: Any) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(LIMIT_S):
            return await main

    return taut.run(bounded())


# ---- what is counted ----------------------------------------------------------------------------


def test_requests_are_counted_by_method_and_route() -> None:
    path = fresh()

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert _core.task_request(asyncio.current_task()) == f"{scope['method']} {path}"
        await asyncio.sleep(0.01)
        (info,) = [t for t in doctor.tasks() if t.state == "running"]
        assert info.request == f"{scope['method']} {path}"

    async def main() -> None:
        for method in ("GET", "GET", "POST", "FROBNICATE"):
            scope = scope_of(path, method)
            await call(app, scope) if method != "FROBNICATE" else await call(
                doctor.asgi(lambda s, r, w: asyncio.sleep(0)), scope
            )

    run(main())
    assert of(path)["requests"] == 2
    assert of(path)["request_seconds"] >= 0.02
    assert of(path, "POST")["requests"] == 1
    assert of(path, "OTHER")["requests"] == 1
    assert of(path, "FROBNICATE") == {}
    assert of(path)["in_flight"] == 0


def test_a_route_is_in_flight_once_it_is_known() -> None:
    path = fresh()

    async def main() -> None:
        go = asyncio.Event()

        @doctor.asgi
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0)
            assert _core.task_request(asyncio.current_task()) == "GET /raw/7"
            scope["route"] = type("Route", (), {"path": path + "/{id}"})
            await go.wait()

        task = asyncio.create_task(call(app, scope_of("/raw/7")))
        await until(lambda: of(path + "/{id}").get("in_flight") == 1, "the request")
        assert of(path + "/{id}")["requests"] == 0
        go.set()
        await task

    run(main())
    assert (of(path + "/{id}")["in_flight"], of(path + "/{id}")["requests"]) == (0, 1)


def test_a_stall_in_one_route_has_victims_in_the_others() -> None:
    slow, ready, timed = fresh("slow"), fresh("ready"), fresh("timed")

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == slow:
            await asyncio.sleep(0.01)
            time.sleep(STALL_S)  # blocks: the case
        elif scope["path"] == ready:
            end = asyncio.get_running_loop().time() + 0.05
            while asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.02)

    async def main() -> None:
        asyncio.get_running_loop().stall_threshold = 0.05
        await asyncio.gather(*(call(app, scope_of(p)) for p in (slow, ready, timed, timed)))

    run(main())
    caused = of(slow)
    assert caused["stalls"] == 1
    assert caused["stall_seconds"] >= STALL_S
    assert caused["victims"] == 3
    assert of(ready)["delayed"] == 1
    assert of(timed)["delayed"] == 2
    assert of(ready)["lag_longest"] >= STALL_S - 0.05
    assert of(timed)["lag_seconds"] >= of(timed)["delayed_seconds"] >= 2 * 0.05
    assert of(ready)["stalls"] == of(timed)["stalls"] == 0


def test_a_finding_says_which_requests_it_delays() -> None:
    slow, ready, timed = fresh("slow"), fresh("ready"), fresh("timed")

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == slow:
            scope["route"] = type("Route", (), {"path": slow + "/{id}"})
            await asyncio.create_task(stalls())
        elif scope["path"] == ready:
            while not over:
                await asyncio.sleep(0)
        else:
            scope["route"] = type("Route", (), {"path": timed + "/{id}"})
            await asyncio.sleep(0.05)

    over: list[bool] = []

    async def stalls() -> None:
        await asyncio.sleep(0.01)
        time.sleep(3 * STALL_S)  # blocks: the case
        over.append(True)

    def finding() -> doctor.Finding | None:
        found = [f for f in doctor.findings("blocking-call") if f.function.endswith("stalls")]
        return found[0] if found and found[0].state == "over" else None

    async def main() -> None:
        asyncio.get_running_loop().stall_threshold = 0.05
        await asyncio.gather(*(call(app, scope_of(p)) for p in (slow, ready, timed, timed)))
        await until(lambda: finding() is not None, "the finding")

    _core.findings_clear()
    run(main())
    found = finding()
    assert found is not None
    (where,) = [line for line in found.evidence if line.startswith("in task")]
    assert where.endswith(f", for GET {slow}/{{id}}")
    told, _ = (line for line in found.evidence if line.startswith("delayed"))
    assert told.startswith(f"delayed 3 requests: GET {timed}/{{id}} 2 (up to "), told
    assert f"), GET {ready} 1 (up to " in told or "), without a route yet 1 (up to " in told, told
    _core.findings_clear()


@pytest.mark.parametrize("direct", [True, False], ids=["live", "from memory"])
def test_tasks_are_listed_with_their_requests(direct: bool) -> None:
    path = fresh()
    assert _listing.enable()

    def listed() -> dict[str, str | None]:
        tasks = json.loads(_core.listing_tasks(direct))
        return {task["name"]: task.get("request") for task in tasks}

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        asyncio.current_task().set_name("mine")  # type: ignore[union-attr]
        assert listed()["mine"] == "GET /raw/5"
        await asyncio.sleep(0)
        scope["route"] = type("Route", (), {"path": path + "/{id}"})
        await asyncio.sleep(0)
        await asyncio.create_task(inner(), name="inner")

    async def inner() -> None:
        assert listed()["mine"] == listed()["inner"] == f"GET {path}/{{id}}"
        assert listed()["outer"] is None

    run(asyncio.wait_for(named(call(app, scope_of("/raw/5"))), LIMIT_S))


async def named(what: Any) -> None:
    asyncio.current_task().set_name("outer")  # type: ignore[union-attr]
    await what


def test_what_a_request_makes_itself_wait_for_is_no_lag() -> None:
    path = fresh()

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        time.sleep(STALL_S)  # blocks: the case
        await asyncio.sleep(0)

    run(call(app, scope_of(path)))
    assert of(path)["stalls"] == 1
    assert of(path)["victims"] == 0
    assert of(path)["delayed"] == 0


def test_tasks_that_a_request_makes_work_for_it() -> None:
    path = fresh()
    after: list[str | None] = []

    async def main() -> None:
        over = asyncio.Event()

        async def background() -> None:
            await over.wait()
            after.append(_core.task_request(asyncio.current_task()))

        async def inner() -> None:
            assert _core.task_request(asyncio.current_task()) == f"GET {path}"
            await asyncio.sleep(0)
            time.sleep(STALL_S)  # blocks: the case

        @doctor.asgi
        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["left"].append(asyncio.create_task(background()))
            async with asyncio.TaskGroup() as group:
                group.create_task(inner())

        left: list[asyncio.Task[None]] = []
        await call(app, scope_of(path, left=left))
        over.set()
        await left[0]

    run(main())
    assert after == [None]
    assert of(path)["stalls"] == 1


def test_a_request_within_a_request() -> None:
    outer, inner = fresh("outer"), fresh("inner")

    async def innermost(scope: Any, receive: Any, send: Any) -> None:
        assert _core.task_request(asyncio.current_task()) == f"GET {inner}"
        await asyncio.sleep(0)

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await doctor.asgi(innermost)(scope_of(inner), receive, send)
        assert _core.task_request(asyncio.current_task()) == f"GET {outer}"

    run(call(app, scope_of(outer)))
    assert (of(outer)["requests"], of(inner)["requests"]) == (1, 1)


def test_the_middleware_twice_counts_once() -> None:
    path = fresh()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)

    wrapped = doctor.asgi(app)
    assert doctor.asgi(wrapped) is wrapped

    async def between(scope: Any, receive: Any, send: Any) -> None:
        await wrapped(scope, receive, send)

    run(call(doctor.asgi(between), scope_of(path)))
    assert of(path)["requests"] == 1


def test_routes_are_bounded(python: Python) -> None:  # noqa: F811
    done = python(
        "-c",
        """
import asyncio, taut
from taut import doctor

async def app(scope, receive, send):
    pass

async def main():
    for i in range(1000):
        scope = {"type": "http", "method": "GET", "path": f"/{i % 26 * chr(97 + i % 26)}{i:04}x"}
        await doctor.asgi(app)(scope, None, None)

taut.run(main())
rows = doctor.metrics()["routes"]
assert sum(row["requests"] for row in rows) == 1000
assert len(rows) <= 128, len(rows)
(other,) = [row for row in rows if row["route"] == "other"]
assert other["requests"] > 800
from taut import _core
assert 'taut_route_requests_total{method="other",route="other"}' in _core.metrics_text()
""",
    )
    assert done.status == 0, done


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/users/17/posts", "/users/{}/posts"),
        ("/o/6f9619ff-8b86-d011-b42d-00c04fc964ff", "/o/{}"),
        ("/v1/health", "/v1/health"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g"),
        ("/t/" + "x" * 50, "/t/{}"),
    ],
)
def test_paths_without_a_router(path: str, shown: str) -> None:
    from taut import _routes

    assert _routes._asgi_route(scope_of(path), True) == shown
    assert _routes._asgi_route(scope_of(path), False) is None


# ---- in nobody's way ----------------------------------------------------------------------------


def test_whatever_the_application_does_goes_through() -> None:
    path = fresh()
    seen: list[Any] = []
    answer, failure = object(), KeyError("mine")

    class App:
        state = "of the application"

        async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
            seen.append((scope, dict(scope), receive, send))
            if scope["type"] == "lifespan":
                assert _core.task_request(asyncio.current_task()) is None
            if scope.get("fails"):
                raise failure
            return answer

    app = doctor.asgi(App())
    assert app.state == "of the application"
    with pytest.raises(AttributeError):
        app.nothing

    async def main() -> None:
        for scope in (
            scope_of(path),
            {"type": "lifespan", "asgi": {}},
            {"type": "websocket", "path": path},
            {"type": "http"},  # no server's, but none of the middleware's business
        ):
            before = dict(scope)
            receive, send = object(), object()
            assert await app(scope, receive, send) is answer
            got, then, *ends = seen.pop()
            assert got is scope
            assert then == before == scope
            assert ends == [receive, send]
        with pytest.raises(KeyError) as caught:
            await app(scope_of(path, fails=True), None, None)
        assert caught.value is failure

    run(main())
    assert of(path)["requests"] == 2
    assert of(path, "WEBSOCKET")["requests"] == 1


def test_nothing_is_left_of_requests_that_fail_or_are_cancelled() -> None:
    path = fresh()
    gone: list[weakref.ref[Any]] = []

    class Thing:
        pass

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["how"] == "fails":
            raise ValueError
        if scope["how"] == "exits":
            asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(LIMIT_S)

    async def one(how: str) -> None:
        thing = Thing()
        gone.append(weakref.ref(thing))
        task = asyncio.create_task(call(app, scope_of(path, how=how, thing=thing)))
        del thing
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises((ValueError, asyncio.CancelledError)):
            await task

    async def main() -> None:
        for how in ("fails", "exits", "waits"):
            await one(how)

    run(main())
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert (of(path)["requests"], of(path)["in_flight"]) == (3, 0)


def test_a_request_that_is_dropped_is_over() -> None:
    path = fresh()

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        coroutine = app(scope_of(path), None, None)
        coroutine.send(None)
        coroutine.close()
        assert _core.task_request(asyncio.current_task()) is None

    run(main())
    assert of(path)["requests"] == 1


@pytest.mark.parametrize("kind", ["no string", "raises", "exits"])
def test_routers_that_do_not_behave(kind: str) -> None:
    path = fresh()

    class Route:
        @property
        def path(self) -> Any:
            if kind == "raises":
                raise ZeroDivisionError
            if kind == "exits":
                raise SystemExit(7)
            return 42

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = Route()

    if kind == "exits":
        with pytest.raises(SystemExit):
            run(call(app, scope_of(path)))
        return
    shown = ("other", "other") if kind == "raises" else (path, "GET")
    before = of(*shown).get("requests", 0)
    run(call(app, scope_of(path)))
    assert of(*shown)["requests"] == before + 1


def test_on_asyncios_loop_nothing_is_counted() -> None:
    path = fresh()

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> str:
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(call(app, scope_of(path)))[0] == "done"
    assert of(path) == {}


def test_bad_calls() -> None:
    with pytest.raises(TypeError):
        _core.request_begin()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        _core.request_end(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _core.Request()  # type: ignore[call-arg]
    _core.request_end(None)
    assert _core.request_begin({}, "GET", "/", print, False) is None  # no loop runs
    assert _core.task_request(3) is None


def test_ending_twice_counts_once() -> None:
    path = fresh()

    async def main() -> None:
        request = _core.request_begin({}, "GET", path, lambda scope, last: path, False)
        assert repr(request) == f"<Request GET {path}>"
        _core.request_end(request)
        _core.request_end(request)
        assert repr(request) == "<Request None>"

    run(main())
    assert of(path)["requests"] == 1


def test_eager_tasks() -> None:
    if not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("Python 3.12")
    path = fresh()

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        await asyncio.create_task(asyncio.sleep(0, "x"))

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await asyncio.gather(*(call(app, scope_of(path)) for _ in range(3)))

    run(main())
    assert (of(path)["requests"], of(path)["in_flight"]) == (3, 0)


def test_debug_mode() -> None:
    path = fresh()

    @doctor.asgi
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        await call(app, scope_of(path))

    run(main())
    assert of(path)["requests"] == 1
