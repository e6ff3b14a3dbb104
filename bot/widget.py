"""The chat for other sites: /widget.js and what it loads, and the headers that let those sites' pages use the API."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.pages import FOLDER
from bot.visitors import HEADER, LAST_EVENT
from core.settings import Settings

FILES = FOLDER / "widget"
# Files for any site: they hold no data. What the API answers is for the allowed ones only.
_FOR_ALL = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "public, max-age=300",
}


def put_widget(app: FastAPI, settings: Settings) -> None:
    """Add the files, and CORS below /api."""

    @app.get("/widget.js", include_in_schema=False)
    def script() -> Response:
        return FileResponse(FILES / "widget.js", media_type="text/javascript", headers=_FOR_ALL)

    app.mount("/widget", _Files(directory=FILES), name="widget")
    app.add_middleware(_CorsBelow, prefix="/api/", origins=settings.chat_allowed_origins)


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_FOR_ALL)
        return response


class _CorsBelow:
    """CORS for one part of the site. The visitor's token comes as a header, so no cookie is allowed across."""

    def __init__(self, app: ASGIApp, prefix: str, origins: list[str]) -> None:
        self.app, self.prefix = app, prefix
        self.cors = CORSMiddleware(
            app, allow_origins=origins, allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", HEADER, LAST_EVENT, "Idempotency-Key"], expose_headers=["Retry-After"],
            max_age=3600,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        below = scope["type"] == "http" and scope["path"].startswith(self.prefix)
        await (self.cors if below else self.app)(scope, receive, send)
