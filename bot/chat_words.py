"""The website's API in words: its bodies, with examples, and every status that each call answers (OpenAPI, /docs)."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bot.visitors import HEADER, LAST_EVENT

_TOKEN = "IjVmM2Ei.aSgK3g.Zk1uQ"
_ID = "019ac3f0-6f7e-7a3c-9a5e-9a6d2f6a7a11"
_MESSAGE: dict[str, Any] = {"key": _ID, "id": _ID, "text": "O colchão de casal custa R$ 1.890,00.", "kind": "answer"}

State = Literal["bot", "person", "stopped"]
Consent = Literal["unknown", "granted", "denied"]


class Problem(BaseModel):
    """What went wrong, and what to do about it. Every refusal has this body."""

    error: str
    next_step: str

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": "The message is empty.", "next_step": "Write something."}]}
    )


class ChatRequest(BaseModel):
    """What a visitor says."""

    message: str = Field(description="The visitor's text, at most 4,000 characters.")
    visitor: str | None = Field(
        None, description=f"The signed visitor token of an earlier answer; the header {HEADER} or the cookie do too."
    )
    name: str | None = Field(None, max_length=100, description="What the visitor wants to be called.")
    stream: bool = Field(
        False,
        description="Answer as server-sent events: visitor, piece, message, done, error. `Accept` asks for it too.",
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"message": "Quanto custa o colchão de casal?"}]})


class ChatMessageOut(BaseModel):
    """One message of the bot. `id` is what /api/feedback takes; None where it cannot be rated."""

    key: str = Field(description="Unique, and in order of time: `after` of /api/history takes it.")
    id: str | None
    text: str
    kind: Literal["answer", "consent", "notice", "person"] = Field(
        "answer", description="`consent` asks whether nights may learn from this conversation: SIM or NÃO answers it."
    )


class Standing(BaseModel):
    """How things stand between the visitor and us."""

    state: State = Field("bot", description="Who answers; `stopped` after an opt-out (PARAR), until VOLTAR.")
    consent: Consent = Field("unknown", description="Whether nights may learn from what the visitor writes.")


class ChatResponse(Standing):
    """The bot's answer."""

    visitor: str = Field(description="The visitor's signed token: send it with the next message, it may have changed.")
    messages: list[ChatMessageOut] = Field(description="Empty where nothing is to be said (PARAR; a person answers).")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "visitor": _TOKEN, "state": "bot", "consent": "unknown",
                    "messages": [_MESSAGE],
                }
            ]
        }
    )  # fmt: skip


class HistoryMessage(BaseModel):
    """One message of either side, with the visitor's current rating."""

    key: str = Field(description="Unique, and in order of time: `after` takes it.")
    id: str | None = Field(description="What /api/feedback takes; None where it cannot be rated.")
    from_: Literal["visitor", "bot", "person"] = Field(alias="from")
    kind: Literal["question", "answer", "consent", "notice", "person"]
    text: str
    at: str = Field(description="ISO 8601, UTC.")
    verdict: Literal["up", "down"] | None = None
    stars: int | None = None
    comment: str | None = None


class HistoryResponse(Standing):
    """The conversation so far: the last 100 messages, oldest first."""

    visitor: str
    business: str
    assistant: str
    waiting: bool = Field(description="An answer is being made: look again in a moment.")
    messages: list[HistoryMessage]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "visitor": _TOKEN, "business": "Alvorada Colchões", "assistant": "Lia", "state": "bot",
                    "consent": "unknown", "waiting": False,
                    "messages": [
                        {
                            "key": _ID, "id": _ID, "from": "bot", "kind": "answer", "text": "Olá!",
                            "at": "2026-11-27T12:00:00+00:00", "verdict": "up", "stars": None, "comment": None,
                        }
                    ],
                }
            ]
        }
    )  # fmt: skip


class FeedbackRequest(BaseModel):
    """What a visitor thinks of an answer: a verdict or stars, a comment with either, or a comment alone."""

    message_id: str = Field(description="The `id` of an answer.")
    verdict: Literal["up", "down"] | None = None
    stars: int | None = Field(None, ge=1, le=5, strict=True)  # else `true` were one star
    comment: str | None = Field(None, max_length=2_000, description="Alone, it is added to the rating that stands.")
    remove: bool = Field(False, strict=True, description="Take the rating back that stands, whatever it is.")
    visitor: str | None = Field(None, description=f"As for /api/chat; the header {HEADER} or the cookie do too.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"message_id": _ID, "verdict": "down", "comment": "Faltou o prazo."}]}
    )


class Accepted(BaseModel):
    """It was stored, and will be counted in a moment."""

    status: Literal["accepted"] = "accepted"


_SSE = (
    f'id: WyI1ZjNhIl0.aSgK3g.Qm9k\nevent: visitor\ndata: {{"visitor": "{_TOKEN}"}}\n\n'
    'event: piece\ndata: {"text": "O colchão "}\n\n'
    f"event: message\ndata: {json.dumps(_MESSAGE, ensure_ascii=False)}\n\n"
    'event: done\ndata: {"state": "bot", "consent": "unknown"}\n\n'
)
_REFUSALS = {
    400: "The request cannot be read, or says nothing.",
    403: "The page is of a site that CHAT_ALLOWED_ORIGINS does not name.",
    404: "The website's door is closed: SESSION_SECRET is not set.",
    408: "The body did not arrive in time.",
    409: "The Idempotency-Key was used for another message.",
    413: "More than 256 KiB, or than 4,000 characters of message.",
    429: "Too many requests of this visitor or address; `Retry-After` has the seconds to wait.",
    503: "The ledger or Redis is away (nothing was stored), or no answer came in time (it will be in the history).",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_CALLS: dict[str, dict[str, Any]] = {
    "chat": {
        "summary": "Say something and wait for the answer",
        "description": "With an `Idempotency-Key` the same message sent again is not asked again: its answer is waited"
        " for, or given at once. Without a visitor token the key has to be a UUID. A stream that was cut off goes on"
        f" where its `id` comes back as `{LAST_EVENT}` with the same message, for a day.",
        "body": ChatRequest, "answer": ChatResponse, "refusals": (400, 403, 404, 408, 409, 413, 429, 503),
        "parameters": [
            ("header", "Idempotency-Key", "1 to 200 characters, unique per message."),
            ("header", LAST_EVENT, "The `id` of a stream of this message that was cut off."),
        ],
    },
    "feedback": {
        "summary": "Rate an answer",
        "description": "A later rating of the same answer takes the place of the earlier one.",
        "body": FeedbackRequest, "answer": Accepted, "refusals": (400, 403, 404, 408, 413, 429, 503),
        "also": {404: " Or there is no such answer in this conversation."},
    },
    "history": {
        "summary": "The conversation so far, and a token for who has none",
        "description": "What the widget shows after a reload.",
        "answer": HistoryResponse, "refusals": (400, 403, 404, 429, 503),
        "parameters": [("query", "after", "Only messages after the one with this `key`.")],
    },
    "forget": {
        "summary": "Take the visitor's cookie back",
        "description": "The conversation stays; whoever uses this browser next begins a new one.",
        "answer": None, "refusals": (403, 404),
    },
}  # fmt: skip


def described(call: str) -> dict[str, Any]:
    """What a route's decorator is told. Bodies and headers are read by hand (with limits, before they are parsed), so
    OpenAPI has to be told their shapes."""
    told = _CALLS[call]
    responses: dict[int | str, dict[str, Any]] = {
        status: {
            "model": Problem,
            "description": _REFUSALS[status] + told.get("also", {}).get(status, ""),
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in told["refusals"]
    }
    if call == "chat":
        responses[200] = {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": _SSE}}}
    named = [("header", HEADER, "The visitor's signed token."), *told.get("parameters", [])]
    extra: dict[str, Any] = {
        "parameters": [
            {"in": place, "name": name, "description": text, "required": False, "schema": {"type": "string"}}
            for place, name, text in named
        ]
    }
    if "body" in told:
        schema = told["body"].model_json_schema()
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "summary": told["summary"], "description": told["description"], "response_model": told["answer"],
        "responses": responses, "openapi_extra": extra,
    }  # fmt: skip
