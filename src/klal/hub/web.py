"""The hub's few pages: a WebSocket for each space, health, metrics, and where each space stands."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from klal.hub.metrics import CONTENT_TYPE, text_of
from klal.hub.service import Hub
from klal.survey import Survey
from klal.transport.link import SpaceGoneError


def application(hub: Hub) -> Starlette:
    """Return the hub as an ASGI application."""

    async def health(_request: Request) -> Response:
        is_well = not hub.is_stopping and not any(served.space.over.done() for served in hub.spaces.values())
        return JSONResponse({"ok": is_well}, status_code=200 if is_well else 503)

    async def metrics(request: Request) -> Response:
        if not _may_look(hub, request):
            return _not_found()
        spaces = {space_id.hex()[:16]: served for space_id, served in sorted(hub.spaces.items())}
        text = text_of(
            hub.metrics,
            {name: len(served.links) for name, served in spaces.items()},
            {name: served.metrics for name, served in spaces.items()},
        )
        return Response(text, media_type=CONTENT_TYPE)

    async def status(request: Request) -> Response:
        if not _may_look(hub, request):
            return _not_found()
        found: list[dict[str, Any]] = []
        for _, served in sorted(hub.spaces.items()):
            try:
                report = await served.space.call(lambda _desk, store: Survey(store).status().to_json())
            except SpaceGoneError:
                continue
            found.append({**report, "connections": len(served.links)})
        return JSONResponse(found)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/status", status),
            WebSocketRoute("/{space:path}", hub.meet),
        ]
    )


def _may_look(hub: Hub, request: Request) -> bool:
    """True for whoever has a token; with none given out, for nobody (T34)."""
    return hub.tokens.name_of(request.headers.get("authorization")) is not None


def _not_found() -> Response:
    # As for any page that is not there: whether there is one is nobody's business.
    return PlainTextResponse("Not Found", status_code=404)
