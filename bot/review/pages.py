"""/review: one item at a time, by mouse or keyboard."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from bot.login import Login
from bot.pages import page
from bot.review import queue
from core.db import transaction
from core.errors import BadInput, Conflict, NpllmError
from core.settings import Settings
from core.tables import AnnotationItem, Message, now


def review_pages(settings: Settings, engine: Engine, login: Login) -> APIRouter:
    """The routes below /review."""
    router = APIRouter(include_in_schema=False)

    @router.get("/review")
    def show(request: Request) -> HTMLResponse:
        reviewer = login.require(request)
        with transaction(engine) as session:
            item = _current(session, reviewer)
            return page(
                request,
                "review.html",
                reviewer=reviewer,
                item=item,
                left=_left(session, item),
                **_counts(session),
                error=None,
            )

    @router.post("/review/next")
    def claim(request: Request) -> Response:
        reviewer = login.require_form(request)
        with transaction(engine) as session:
            if _current(session, reviewer) is None:
                queue.claim_next(session, reviewer, settings)
        return RedirectResponse("/review", status_code=303)

    @router.post("/review/{item_id}")
    def submit(
        request: Request,
        item_id: str,
        verdict: Annotated[str, Form()],
        corrected: Annotated[str, Form()] = "",
        comment: Annotated[str, Form()] = "",
    ) -> Response:
        reviewer = login.require_form(request)
        try:
            with transaction(engine) as session:
                if verdict == "release":
                    queue.release(session, item_id, reviewer)
                else:
                    queue.submit(session, item_id, reviewer, verdict, corrected=corrected, comment=comment)  # type: ignore[arg-type]
                    queue.claim_next(session, reviewer, settings)
        except (BadInput, Conflict) as error:
            return _again(request, reviewer, error)
        return RedirectResponse("/review", status_code=303)

    def _again(request: Request, reviewer: str, error: NpllmError) -> HTMLResponse:
        with transaction(engine) as session:
            item = _current(session, reviewer)
            counts, left = _counts(session), _left(session, item)
            return page(
                request,
                "review.html",
                status=error.status,
                reviewer=reviewer,
                item=item,
                left=left,
                **counts,
                error=error,
            )

    return router


def _current(session: Session, reviewer: str) -> AnnotationItem | None:
    """What this reviewer has claimed and not finished."""
    claimed = select(AnnotationItem).where(
        AnnotationItem.state == "claimed", AnnotationItem.claimed_by == reviewer, AnnotationItem.claimed_until > now()
    )
    return session.scalar(claimed.order_by(AnnotationItem.claimed_until).limit(1))


def _left(session: Session, item: AnnotationItem | None) -> str | None:
    """The version that spoke before this answer in its conversation, where it had been taken back."""
    return session.scalar(select(Message.route["left"].astext).where(Message.id == item.message_id)) if item else None


def _counts(session: Session) -> dict[str, int]:
    rows = session.execute(select(AnnotationItem.state, func.count()).group_by(AnnotationItem.state))
    counts = {state: count for state, count in rows}
    return {"open_count": counts.get("open", 0), "done_count": counts.get("done", 0)}
