"""The admin interface over HTTP: health, cluster, node, metrics. Built over a `ClusterView`; knows nothing of how the node works.

All routes are coroutines, so that they run on the node's loop thread and see a consistent state. Errors are JSON with a hint, never a traceback.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from admin_api.metrics import CONTENT_TYPE, MetricsText
from admin_api.view import ClusterView
from broker.version import VERSION

_JSON = "application/json"


def _encode(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _answer(value: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(value) + "\n", status_code, headers, _JSON)


def _lines(items: Iterable[Any]) -> Response:
    """A JSON array with one element per line, so that grep finds whole elements."""
    body = ",\n".join(map(_encode, items))
    return Response(f"[\n{body}\n]\n" if body else "[]\n", media_type=_JSON)


def _refusal(status_code: int, error: str, hint: str, headers: Mapping[str, str] | None = None) -> Response:
    return _answer({"error": error, "hint": hint}, status_code, headers)


def create_app(view: ClusterView) -> FastAPI:
    """The application for one node."""
    app = FastAPI(title="Chronik admin", version=VERSION, docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_health(app, view)
    _add_cluster(app, view)
    _add_errors(app)
    return app


def _add_health(app: FastAPI, view: ClusterView) -> None:
    unavailable: dict[int | str, dict[str, Any]] = {503: {"description": "Not so; the body says why."}}

    @app.get("/health", tags=["health"], responses=unavailable)
    async def health() -> Response:
        """Whether this node serves and its cluster has a leader, with reasons when not."""
        status_code, body = view.health()
        return _answer(body, status_code)

    @app.get("/health/live", tags=["health"])
    async def live() -> Response:
        """Whether the process answers at all."""
        return _answer({"status": "alive"})

    @app.get("/health/ready", tags=["health"], responses=unavailable)
    async def ready() -> Response:
        """Whether clients should be sent here."""
        status_code, body = view.ready()
        return _answer(body, status_code)

    @app.get("/health/startup", tags=["health"], responses=unavailable)
    async def startup() -> Response:
        """Whether the start is over."""
        status_code, body = view.startup()
        return _answer(body, status_code)


def _add_cluster(app: FastAPI, view: ClusterView) -> None:
    text = MetricsText(view.families)

    @app.get("/admin/cluster", tags=["cluster"])
    async def cluster() -> Response:
        """Everything about the cluster in one answer."""
        return _answer(view.cluster())

    @app.get("/admin/cluster/members", tags=["cluster"])
    async def members() -> Response:
        """All nodes with address and state."""
        return _lines(view.members())

    @app.get("/admin/cluster/leader", tags=["cluster"], responses={503: {"description": "There is no leader at the moment."}})
    async def leader() -> Response:
        """The leader of the metadata; the same on every node."""
        found = view.leader()
        if found is None:
            return _refusal(
                503,
                "no_leader",
                "no leader is known to this node; a majority of the voters must run and reach each other: see /health",
                {"Retry-After": "1"},
            )
        return _answer(found)

    @app.get("/admin/cluster/partitions", tags=["cluster"])
    async def partitions() -> Response:
        """All partitions, one per line."""
        return _lines(view.partitions())

    @app.get("/admin/node/info", tags=["node"])
    async def node_info() -> Response:
        """This node: id, version, paths, resource use."""
        return _answer(view.node_info())

    @app.get("/metrics", tags=["metrics"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(text.render(), headers={"Content-Type": CONTENT_TYPE})


def _add_errors(app: FastAPI) -> None:
    paths = sorted({path for route in app.routes if (path := getattr(route, "path", ""))})

    async def refuse(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return await fail(request, error)
        if error.status_code == 404:
            near = difflib.get_close_matches(request.url.path.rstrip("/") or "/", paths, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "all paths are listed in /openapi.json"
            return _refusal(404, "not_found", hint)
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "GET")
            return _refusal(405, "method_not_allowed", f"{request.url.path} takes {allowed}", error.headers)
        return _refusal(error.status_code, str(error.detail), "see /openapi.json for what this path takes", error.headers)

    async def fail(request: Request, error: Exception) -> Response:
        return _refusal(500, "internal_error", "the node's log has the details; please report it with them")

    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(Exception, fail)
