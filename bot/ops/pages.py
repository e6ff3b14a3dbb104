"""/ops: what runs now, at a glance; it refreshes itself."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Engine

from bot.login import Login
from bot.ops.figures import overview
from bot.pages import page
from core.db import transaction
from core.settings import Settings
from core.tables import now


def ops_pages(settings: Settings, engine: Engine, login: Login) -> APIRouter:
    """The routes below /ops."""
    router = APIRouter(include_in_schema=False)

    @router.get("/ops")
    def show(request: Request) -> HTMLResponse:
        name = login.require(request)
        with transaction(engine) as session:
            return page(request, "ops.html", name=name, at=now(), **overview(session))

    return router
