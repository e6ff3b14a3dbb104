"""/ops: what runs now, at a glance; it refreshes itself."""

import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Engine

from bot import rollout_look
from bot.login import Login
from bot.ops.figures import by_version, overview, view_of
from bot.ops.picture import draw
from bot.pages import page
from core.db import transaction
from core.errors import NotFound
from core.rollouts import LIMITS
from core.settings import Settings
from core.tables import Rollout, now


def ops_pages(settings: Settings, engine: Engine, login: Login) -> APIRouter:
    """The routes below /ops."""
    router = APIRouter(include_in_schema=False)

    @router.get("/ops")
    def show(request: Request) -> HTMLResponse:
        name = login.require(request)
        with transaction(engine) as session:
            return page(request, "ops.html", name=name, at=now(), **overview(session))

    @router.get("/ops/rollouts/{rollout_id}")
    def rollout(request: Request, rollout_id: uuid.UUID) -> HTMLResponse:
        login.require(request)
        with transaction(engine) as session:
            found = session.get(Rollout, rollout_id)
            if found is None:
                raise NotFound("There is no such rollout.", "/ops shows the latest of each context.")
            view = view_of(session, found, trail_limit=None)
            picture = draw(view.plan, rollout_look.votes_of(session, found))
            facts: dict[str, Any] = {
                "view": view,
                "picture": picture,
                "arms": by_version(session, found),
                "limits": LIMITS,
            }
            return page(request, "rollout.html", at=now(), **facts)

    return router
