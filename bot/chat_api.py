"""The website's chat: a message goes to the ledger like any vendor's, and the answer comes back when it is there.

The request waits for the worker; no model is called in here.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import psycopg
import redis.asyncio
from fastapi import APIRouter, Cookie, Header, Request, Response
from fastapi.responses import StreamingResponse
from itsdangerous import BadSignature, URLSafeSerializer
from pydantic import BaseModel, Field

from bot.hooks import closed, read_body
from bot.intake import Intake
from bot.web_channel import topic
from core.errors import BadInput, NotFound, TooLarge, Unavailable
from core.messages import InboundItem, clean
from core.settings import Settings

MAX_MESSAGE = 4_000  # characters
COOKIE = "npllm_visitor"


class ChatRequest(BaseModel):
    """What a visitor says."""

    message: str = Field(description=f"The visitor's text, at most {MAX_MESSAGE} characters.")
    visitor: str | None = Field(None, description="The signed visitor token of an earlier answer; a cookie does too.")
    name: str | None = Field(None, max_length=100, description="What the visitor wants to be called.")
    stream: bool = Field(False, description="Answer as server-sent events: piece, message, done.")


class ChatMessageOut(BaseModel):
    """One message of the bot. `id` is what /api/feedback takes; None where it cannot be rated."""

    id: str | None
    text: str


class ChatResponse(BaseModel):
    """The bot's answer."""

    visitor: str = Field(description="The visitor's signed token: send it with the next message.")
    messages: list[ChatMessageOut]


class FeedbackRequest(BaseModel):
    """What a visitor thinks of an answer: a verdict, stars, or a comment with either."""

    message_id: str
    verdict: Literal["up", "down"] | None = None
    stars: int | None = Field(None, ge=1, le=5)
    comment: str | None = Field(None, max_length=2_000)
    remove: bool = Field(False, description="Take an earlier verdict back.")
    visitor: str | None = None


class Accepted(BaseModel):
    """It was stored, and will be counted in a moment."""

    status: Literal["accepted"] = "accepted"


def chat_api(settings: Settings, intake: Intake) -> APIRouter:
    """The routes below /api."""
    router = APIRouter(prefix="/api", tags=["chat"])
    secret = settings.session_secret
    signer = URLSafeSerializer(secret.get_secret_value(), salt="visitor") if secret else None

    def visitor_of(token: str | None, *, new: bool) -> tuple[str, str]:
        """(visitor id, signed token)."""
        if signer is None:
            raise closed("website", "SESSION_SECRET")
        if token:
            try:
                return str(signer.loads(token)), token
            except BadSignature:
                if not new:
                    raise BadInput("The visitor token is not ours.", "Send the token of an earlier answer.") from None
        elif not new:
            raise BadInput("There is no visitor token.", "Send the `visitor` of an earlier answer.")
        visitor = uuid.uuid4().hex
        return visitor, str(signer.dumps(visitor))

    async def parse(request: Request, model: type[BaseModel]) -> Any:
        body = await read_body(request, 256 * 1024)
        try:
            return model.model_validate_json(body)
        except ValueError as error:
            raise BadInput(f"The body is no {model.__name__}: {_first_line(error)}", "See /docs.") from None

    @router.post(
        "/chat",
        response_model=ChatResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
        openapi_extra=_body_schema(ChatRequest),
        summary="Say something and wait for the answer",
    )
    async def chat(
        request: Request,
        response: Response,
        npllm_visitor: Annotated[str | None, Cookie()] = None,
        accept: Annotated[str, Header()] = "",
    ) -> Any:
        said: ChatRequest = await parse(request, ChatRequest)
        text = said.message.strip()
        if not clean(text):
            raise BadInput("The message is empty.", "Write something.")
        if len(text) > MAX_MESSAGE:
            raise TooLarge(f"The message has {len(text)} characters, more than {MAX_MESSAGE}.", "Send it in parts.")
        visitor, token = visitor_of(said.visitor or npllm_visitor, new=True)
        key = uuid.uuid4().hex
        payload = {"visitor": visitor, "key": key, "text": text, "name": said.name}
        item = InboundItem(f"message:{key}", "message", f"web:{visitor}", payload)
        events = _answers(settings, intake, item, key)
        if said.stream or "text/event-stream" in accept:
            stream = StreamingResponse(_as_sse(events, token), media_type="text/event-stream")
            stream.set_cookie(COOKIE, token, httponly=True, samesite="lax", max_age=180 * 86400)
            return stream
        messages = [event async for event in events if event["type"] == "message"]
        response.set_cookie(COOKIE, token, httponly=True, samesite="lax", max_age=180 * 86400)
        out = [ChatMessageOut(id=message.get("answer"), text=message["text"]) for message in messages]
        return ChatResponse(visitor=token, messages=out)

    @router.post(
        "/feedback", status_code=202, response_model=Accepted, openapi_extra=_body_schema(FeedbackRequest),
        summary="Rate an answer",
    )  # fmt: skip
    async def feedback(request: Request, npllm_visitor: Annotated[str | None, Cookie()] = None) -> Accepted:
        given: FeedbackRequest = await parse(request, FeedbackRequest)
        visitor, _ = visitor_of(given.visitor or npllm_visitor, new=False)
        await _must_be_theirs(intake, given.message_id, visitor)
        payload = {"visitor": visitor, "signal": _signal(given)}
        key = f"feedback:{uuid.uuid4().hex}"
        await intake.store("web", [InboundItem(key, "signal", f"web:{visitor}", payload)])
        return Accepted()

    return router


def _signal(given: FeedbackRequest) -> dict[str, Any]:
    signal: dict[str, Any] = {"answer_id": given.message_id, "comment": given.comment, "op": "replace"}
    if given.remove:
        return {**signal, "kind": "button", "op": "remove", "raw": ""}
    if given.verdict:
        return {**signal, "kind": "button", "raw": "👍" if given.verdict == "up" else "👎"}
    if given.stars:
        return {**signal, "kind": "stars", "raw": f"{given.stars}/5"}
    if given.comment:
        return {**signal, "kind": "comment", "raw": "comment"}
    raise BadInput("The feedback says nothing.", "Send verdict, stars or comment.")


async def _must_be_theirs(intake: Intake, message_id: str, visitor: str) -> None:
    """Only who was answered may rate the answer."""
    try:
        answer = uuid.UUID(message_id)
    except ValueError:
        answer = None
    query = """
        SELECT 1 FROM npllm.messages m JOIN npllm.identities i ON i.customer_id = m.customer_id
        WHERE m.id = %s AND m.direction = 'out' AND i.kind = 'visitor' AND i.value = %s
    """
    try:
        async with intake.pool.connection() as connection:
            found = await (await connection.execute(query, (answer, visitor))).fetchone()
    except (psycopg.OperationalError, OSError) as error:
        raise Unavailable("The ledger does not answer.", "Try again in a moment.") from error
    if found is None:
        raise NotFound("There is no such answer in this conversation.", "Send the `id` of a message you were given.")


async def _answers(settings: Settings, intake: Intake, item: InboundItem, key: str) -> AsyncIterator[dict[str, Any]]:
    """Store the message, then yield what the worker publishes for it, until the answer is whole."""
    async with _listening(intake.bell, topic(key)) as pubsub:
        await intake.store("web", [item])
        end = asyncio.get_running_loop().time() + settings.reply_timeout + 5
        while (left := end - asyncio.get_running_loop().time()) > 0:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=min(left, 1.0))
            if message is None:
                continue
            event = json.loads(message["data"])
            if event["type"] == "done":
                return
            yield event
        raise Unavailable("No answer came in time.", "It will be in the conversation's history; try again later.")


@asynccontextmanager
async def _listening(client: redis.asyncio.Redis, channel: str) -> AsyncIterator[Any]:
    pubsub = client.pubsub()
    try:
        await pubsub.subscribe(channel)
        yield pubsub
    except redis.RedisError as error:
        raise Unavailable("The answer cannot be waited for now.", "Try again in a moment.") from error
    finally:
        await pubsub.aclose()


async def _as_sse(events: AsyncIterator[dict[str, Any]], token: str) -> AsyncIterator[str]:
    yield f"event: visitor\ndata: {json.dumps({'visitor': token})}\n\n"
    try:
        async for event in events:
            data = {"id": event.get("answer"), "text": event["text"]}
            yield f"event: {event['type']}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
        yield "event: done\ndata: {}\n\n"
    except Unavailable as error:
        yield f"event: error\ndata: {json.dumps({'error': error.message, 'next_step': error.next_step})}\n\n"


def _body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The body is read with a limit before it is parsed, so OpenAPI has to be told its shape."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def _first_line(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error).splitlines()[0]
    first = errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
