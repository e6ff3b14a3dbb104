"""/handover: who asks for a person, and the conversation itself, answered from a browser or a phone."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from bot import handover
from bot.login import Login
from bot.pages import page
from core.db import transaction
from core.errors import BadInput, Conflict, NotAllowed, NotFound
from core.settings import Settings
from core.tables import Conversation, Handover, Message, OutboxItem
from integrations.redis.queue import connect, need_redis

SHOWN = 100  # latest messages of a conversation


def handover_pages(settings: Settings, engine: Engine, login: Login) -> APIRouter:
    """The routes below /handover."""
    router = APIRouter(include_in_schema=False)
    client = connect(need_redis(settings))

    @router.get("/handover")
    def waiting(request: Request) -> HTMLResponse:
        person = login.require(request)
        with transaction(engine) as session:
            rows = [(row, talk, _last_words(session, talk)) for row, talk in handover.listing(session)]
            return page(request, "handover_list.html", person=person, rows=rows)

    @router.get("/handover/{key}")
    def show(request: Request, key: uuid.UUID) -> HTMLResponse:
        person = login.require(request)
        with transaction(engine) as session:
            return _talk(request, session, person, key)

    @router.post("/handover/{key}")
    def act(
        request: Request, key: uuid.UUID, action: Annotated[str, Form()], text: Annotated[str, Form()] = ""
    ) -> Response:
        person = login.require_form(request)
        lane = None
        try:
            with transaction(engine) as session:
                row = _find(session, key)
                if action == "take":
                    handover.take(session, row, by=person)
                elif action == "return":
                    handover.give_back(session, row, by=person)
                elif action == "reply":
                    lane = handover.reply(session, row, text, by=person)
                else:
                    raise BadInput(f"There is no action '{action}'.", "Use the page's own buttons.")
        except (BadInput, Conflict, NotAllowed) as error:
            with transaction(engine) as session:
                return _talk(request, session, person, key, error=error, draft=text)
        if lane is not None:
            handover.ring(client, lane)
        return RedirectResponse("/handover" if action == "return" else f"/handover/{key}", status_code=303)

    return router


def _talk(
    request: Request, session: Session, person: str, key: uuid.UUID, *,
    error: BadInput | Conflict | NotAllowed | None = None, draft: str = "",
) -> HTMLResponse:  # fmt: skip
    row = _find(session, key)
    conversation = session.get_one(Conversation, row.conversation_id)
    said = handover.said(session, conversation.id, SHOWN)
    ours = [message.id for message in said if message.role == "person"]
    parts = select(OutboxItem.message_id, OutboxItem.state).where(OutboxItem.message_id.in_(ours))
    states: dict[uuid.UUID, str] = {}
    for message_id, state in session.execute(parts):
        if states.get(message_id) != "failed":  # of several parts the one that did not arrive says what happened
            states[message_id] = state
    return page(
        request, "handover.html", status=error.status if error else 200, person=person, row=row, talk=conversation,
        said=said, states=states, error=error, draft=draft, longest=handover.MAX_ANSWER,
    )  # fmt: skip


def _find(session: Session, key: uuid.UUID) -> Handover:
    if (row := session.get(Handover, key)) is None:
        raise NotFound(f"There is no handover {key}.", "Open /handover: it lists those that wait.")
    return row


def _last_words(session: Session, conversation: Conversation) -> str:
    """What the customer wrote last."""
    query = select(Message.text).where(Message.conversation_id == conversation.id, Message.role == "customer")
    return session.scalar(query.order_by(Message.created_at.desc(), Message.id.desc()).limit(1)) or ""
