"""The website's chat: a message goes to the ledger like any vendor's, and the answer comes back when it is there.

The request waits for the worker; no model is called in here. What the page has to know lies in Postgres; Redis only
carries the pieces of an answer while it is made, and rings when there is something to look at.
"""

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import redis.asyncio
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from bot.chat_words import (
    Accepted,
    ChatRequest,
    FeedbackRequest,
    described,
)
from bot.hooks import read_body
from bot.intake import Intake
from bot.visitors import COOKIE, HEADER, LAST_EVENT, Origins, Rates, Visitors
from bot.web_channel import topic
from bot.web_history import History
from core.errors import BadInput, Conflict, NotFound, TooLarge, Unavailable
from core.messages import InboundItem, clean
from core.settings import Settings

MAX_MESSAGE = 4_000  # characters
MAX_BODY = 256 * 1024  # bytes
MAX_KEY = 200  # characters of an Idempotency-Key
LOOK = 2.0  # seconds after which the ledger is looked at, should nothing ring
BEAT = 15.0  # seconds after which a stream says that it lives: proxies cut silent ones


def chat_api(settings: Settings, intake: Intake) -> APIRouter:
    """The routes below /api."""
    router = APIRouter(prefix="/api", tags=["chat"])
    visitors, origins, history = Visitors(settings), Origins(settings), History(intake.pool)
    rates = Rates(settings, intake.bell)

    def who(request: Request, token: str | None = None) -> tuple[str, str] | None:
        origins.check(request)
        return visitors.known(token, request.headers.get(HEADER), request.cookies.get(COOKIE))

    async def count(kind: str, request: Request, visitor: str | None) -> None:
        await rates.count(kind, request.client.host if request.client else "", visitor)

    async def parse(request: Request, model: type[BaseModel]) -> Any:
        body = await read_body(request, MAX_BODY)
        try:
            return model.model_validate_json(body)
        except ValueError as error:
            raise BadInput(f"The body is no {model.__name__}: {_first_line(error)}", "See /docs.") from None

    async def asked_before(request: Request, known: str | None, text: str) -> tuple[str, str, str] | None:
        """(visitor, token, key) of a message whose stream was cut off: Last-Event-ID says which; else None."""
        found = visitors.of_stream(request.headers.get(LAST_EVENT))
        if found is None or known not in (None, found[0]):
            return None
        _, _, asked = await history.answers(found[2])
        return found if asked == text else None

    @router.post("/chat", **described("chat"))
    async def chat(request: Request, response: Response) -> Any:
        who(request)  # a stranger's body is not read
        said: ChatRequest = await parse(request, ChatRequest)
        text = clean(said.message)
        if not text:
            raise BadInput("The message is empty.", "Write something.")
        if len(said.message.strip()) > MAX_MESSAGE:
            count_ = len(said.message.strip())
            raise TooLarge(f"The message has {count_} characters, more than {MAX_MESSAGE}.", "Send it in parts.")
        given = request.headers.get("idempotency-key")
        if given is not None and not 0 < len(given.strip()) <= MAX_KEY:
            raise BadInput(f"An Idempotency-Key has 1 to {MAX_KEY} characters.", "Send a UUID.")
        known = who(request, said.visitor)
        await count("say", request, known[0] if known else None)
        again = None if given else await asked_before(request, known[0] if known else None, text)
        if again is not None:
            visitor, token, key = again
        else:
            visitor, token = known or visitors.new(given)
            key = hashlib.sha256(f"{visitor}:{given}".encode()).hexdigest()[:32] if given else uuid.uuid4().hex
        payload = {"visitor": visitor, "key": key, "text": text, "name": said.name}
        item = InboundItem(f"message:{key}", "message", f"web:{visitor}", payload)
        events = _ask(settings, intake, history, item, key)
        await anext(events)  # stored: from here on nothing can be refused
        if said.stream or "text/event-stream" in request.headers.get("accept", ""):
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            lines = _as_sse(events, history, visitor, token, visitors.stream_id(visitor, key))
            stream = StreamingResponse(lines, media_type="text/event-stream", headers=headers)
            visitors.remember(stream, token)
            return stream
        async with aclosing(events):
            messages = [data async for name, data in events if name == "message"]
        visitors.remember(response, token)
        return {"visitor": token, "messages": messages, **await history.state(visitor)}

    @router.post("/feedback", status_code=202, **described("feedback"))
    async def feedback(request: Request) -> Any:
        who(request)
        given: FeedbackRequest = await parse(request, FeedbackRequest)
        known = who(request, given.visitor)
        if known is None:
            raise BadInput("There is no visitor token, or it is not ours.", "Send the `visitor` of an earlier answer.")
        visitor, _ = known
        await count("look", request, visitor)
        if not await history.is_theirs(given.message_id, visitor):
            raise NotFound(
                "There is no such answer in this conversation.", "Send the `id` of a message you were given."
            )
        payload = {"visitor": visitor, "signal": _signal(given)}
        key = f"feedback:{uuid.uuid4().hex}"
        await intake.store("web", [InboundItem(key, "signal", f"web:{visitor}", payload)])
        return Accepted()

    @router.get("/history", **described("history"))
    async def look_back(request: Request, response: Response) -> Any:
        known = who(request)
        await count("look", request, known[0] if known else None)
        visitor, token = known or visitors.new()
        visitors.remember(response, token)
        response.headers["Cache-Control"] = "no-store"
        names = {"business": settings.business_name, "assistant": settings.assistant_name}
        found = await history.of(visitor, _after(request.query_params.get("after")))
        return {"visitor": token, **names, **found}

    @router.post("/forget", status_code=204, **described("forget"))
    async def forget(request: Request) -> Response:
        who(request)
        response = Response(status_code=204)
        visitors.leave(response)
        return response

    return router


def _after(value: str | None) -> uuid.UUID | None:
    if not value:
        return None
    try:
        return uuid.UUID(value)
    except ValueError:
        raise BadInput("`after` is no message's key.", "Send the `key` of a message of this history.") from None


def _signal(given: FeedbackRequest) -> dict[str, Any]:
    comment = clean(given.comment) or None
    signal: dict[str, Any] = {"answer_id": given.message_id, "comment": comment, "op": "replace"}
    if given.remove:
        return {**signal, "kind": "button", "op": "remove", "raw": ""}
    if given.verdict and given.stars:
        raise BadInput("A verdict and stars are two ratings.", "Send one of them.")
    if given.verdict:
        return {**signal, "kind": "button", "raw": "👍" if given.verdict == "up" else "👎"}
    if given.stars:
        return {**signal, "kind": "stars", "raw": f"{given.stars}/5"}
    if comment:
        return {**signal, "kind": "comment", "raw": "comment"}
    raise BadInput("The feedback says nothing.", "Send verdict, stars or comment.")


async def _ask(
    settings: Settings, intake: Intake, history: History, item: InboundItem, key: str
) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
    """`stored`, then pieces and messages as they come, until the answer is whole.

    A message that was stored before (its key came twice) is not asked again: its answer is waited for, or is there.

    Raises:
        Unavailable: it could not be stored; or no answer came in time, and will be in the history.
        Conflict: the key is that of another message.
    """
    async with _listening(intake.bell, topic(key)) as pubsub:
        if not await intake.store("web", [item]):
            _, _, asked = await history.answers(key)
            if asked != item.payload["text"]:
                raise Conflict("This Idempotency-Key was used for another message.", "Send a new key.")
        yield "stored", {}
        loop, given = asyncio.get_running_loop(), 0
        look_at = loop.time()
        end, beat_at = look_at + settings.reply_timeout + 5, look_at + BEAT
        while (now := loop.time()) < end:
            if now >= look_at:
                look_at = now + LOOK
                answers, handled, _ = await history.answers(key)
                for answer in answers[given:]:
                    yield "message", answer
                given = len(answers)
                if handled:
                    return
                if now >= beat_at:
                    beat_at = now + BEAT
                    yield "nothing", {}
            message = await pubsub.get_message(
                ignore_subscribe_messages=True, timeout=max(0.0, min(look_at, end) - now)
            )
            if message is None:
                continue
            event = json.loads(message["data"])
            if event["type"] == "piece":
                yield "piece", {"text": event["text"]}
            else:
                look_at = loop.time()
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


async def _as_sse(
    events: AsyncGenerator[tuple[str, dict[str, Any]]], history: History, visitor: str, token: str, stream_id: str
) -> AsyncIterator[str]:
    yield f"id: {stream_id}\n{_sse('visitor', {'visitor': token})}"
    async with aclosing(events):
        try:
            async for name, data in events:
                yield ": still here\n\n" if name == "nothing" else _sse(name, data)
            yield _sse("done", await history.state(visitor))
        except Unavailable as error:
            yield _sse("error", {"error": error.message, "next_step": error.next_step})


def _sse(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _first_line(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error).splitlines()[0]
    first = errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
