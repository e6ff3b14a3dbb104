"""What Slack sends us, as ledger items and in the bot's words.

One mention arrives twice (message.channels and app_mention) with two event ids and one `ts`: a message's key is
(team, channel, ts). https://docs.slack.dev/apis/events-api/
"""

import hashlib
import html
import json
import re
from datetime import UTC, datetime
from typing import Any

from core.messages import (
    Identifier,
    Inbound,
    InboundEdit,
    InboundItem,
    InboundMessage,
    InboundSignal,
    Person,
    clean,
    read_feedback_button,
)
from core.reactions import text_rating
from core.untrusted import as_dict, as_dicts

ANSWERED_SUBTYPES = frozenset({None, "file_share", "thread_broadcast"})
SLACK_ITSELF = "USLACK"
_MENTION = re.compile(r"<@[A-Z0-9]+(?:\|[^>]*)?>")
_LINK = re.compile(
    r"<(?:#[A-Z0-9]+\||!?[a-z]*\^?[A-Z0-9]*\||(?:https?|mailto):[^|>]*\|)([^>]*)>|<((?:https?|mailto):[^>]*)>"
)
_BROADCAST = re.compile(r"<!(?:channel|here|everyone)(?:\|[^>]*)?>")


def split(body: dict[str, Any]) -> list[InboundItem]:
    """The ledger items of one request (Slack sends one event a request)."""
    if body.get("type") == "event_callback":
        return [_event_item(body)]
    if body.get("type") == "block_actions":
        return [_action_item(body, action) for action in as_dicts(body.get("actions"))]
    team = _team(body)
    if body.get("type") == "view_submission":
        view = as_dict(body.get("view"))
        return [InboundItem(f"view:{view.get('id')}:{view.get('hash')}", "ignored", f"slack:{team}", body)]
    if body.get("command"):
        return [InboundItem(f"command:{body.get('trigger_id')}", "ignored", f"slack:{team}", body)]
    return [InboundItem(f"other:{_digest(body)}", "ignored", f"slack:{team}", body)]


def read(kind: str, body: dict[str, Any]) -> Inbound | None:
    """A ledger item in the bot's words; None for what is deliberately ignored."""
    event, team = as_dict(body.get("event")), _team(body)
    if kind == "signal" and body.get("type") == "block_actions":
        return _button(body, as_dict(body.get("action")), team)
    if kind == "signal" and event.get("type") == "message":
        return _rating_message(event, team)
    if kind == "signal":
        return _reaction(event, team)
    if kind in ("edit", "delete"):
        channel = str(event.get("channel", ""))
        if kind == "delete":
            return InboundEdit("slack", f"{channel}:{event.get('deleted_ts')}", None)
        message = as_dict(event.get("message"))
        return InboundEdit("slack", f"{channel}:{message.get('ts')}", _text(message))
    if kind != "message":
        return None
    channel, ts = str(event.get("channel", "")), str(event.get("ts", ""))
    direct = _is_direct(event)
    thread = event.get("thread_ts") or (None if direct else ts)
    return InboundMessage(
        channel="slack",
        person=Person((Identifier("slack_user", str(event.get("user")), team),)),
        provider_message_id=f"{channel}:{ts}",
        text=_text(event),
        kind="document" if event.get("files") and not _text(event) else "text",
        address={"channel": channel, "thread_ts": thread, "team": team, "ambient": _is_ambient(body, event)},
        sent_at=_when(ts),
        context="employees",
    )


def _event_item(body: dict[str, Any]) -> InboundItem:
    event, team = as_dict(body.get("event")), _team(body)
    event_id = str(body.get("event_id") or f"event:{_digest(body)}")
    kind, channel = event.get("type"), str(event.get("channel", ""))
    if kind in ("reaction_added", "reaction_removed"):
        item = as_dict(event.get("item"))
        if item.get("type") != "message":
            return InboundItem(event_id, "ignored", f"slack:{team}", body)
        return InboundItem(event_id, "signal", f"slack:{team}:{item.get('channel')}", body)
    if kind not in ("message", "app_mention"):
        return InboundItem(event_id, "ignored", f"slack:{team}", body)
    subtype = event.get("subtype")
    if subtype in ("message_changed", "message_deleted"):
        inner = as_dict(event.get("message")) or as_dict(event.get("previous_message"))
        ours_or_quiet = not _from_a_person(inner) or inner.get("text") == as_dict(event.get("previous_message")).get(
            "text"
        )
        action = "edit" if subtype == "message_changed" else "delete"
        if action == "edit" and ours_or_quiet:
            return InboundItem(event_id, "ignored", f"slack:{team}:{channel}", body)
        return InboundItem(event_id, action, _lane(team, inner | {"channel": channel}), body)  # type: ignore[arg-type]
    if not _from_a_person(event) or subtype not in ANSWERED_SUBTYPES:
        return InboundItem(event_id, "ignored", f"slack:{team}:{channel}", body)
    lane, ts = _lane(team, event), event.get("ts")
    if text_rating(_text(event)) is not None:
        return InboundItem(f"msg:{team}:{channel}:{ts}", "signal", lane, body)
    if not _text(event) and not event.get("files"):
        return InboundItem(f"msg:{team}:{channel}:{ts}", "ignored", lane, body)
    # Talk beside us in a channel has a key of its own, so that it cannot stand in the way of the mention's.
    prefix = "ambient" if _is_ambient(body, event) else "msg"
    return InboundItem(f"{prefix}:{team}:{channel}:{ts}", "message", lane, body)


def _action_item(body: dict[str, Any], action: dict[str, Any]) -> InboundItem:
    team, user = _team(body), as_dict(body.get("user")).get("id")
    channel = as_dict(body.get("channel")).get("id") or as_dict(body.get("container")).get("channel_id")
    payload = {**body, "action": action}
    kind = "signal" if _button(payload, action, team) else "ignored"
    key = f"action:{team}:{user}:{action.get('action_ts')}"
    return InboundItem(key, kind, f"slack:{team}:{channel}", payload)  # type: ignore[arg-type]


def _reaction(event: dict[str, Any], team: str) -> InboundSignal | None:
    item, user = as_dict(event.get("item")), event.get("user")
    if not user or user == SLACK_ITSELF:
        return None
    return InboundSignal(
        channel="slack",
        person=Person((Identifier("slack_user", str(user), team),)),
        signal="reaction",
        op="add" if event.get("type") == "reaction_added" else "remove",
        raw=str(event.get("reaction", "")),
        target=f"{item.get('channel')}:{item.get('ts')}",
        given_at=_when(event.get("event_ts")),
    )


def _rating_message(event: dict[str, Any], team: str) -> InboundSignal | None:
    rating = text_rating(_text(event))
    if rating is None:
        return None
    person = Person((Identifier("slack_user", str(event.get("user")), team),))
    return InboundSignal("slack", person, rating.signal, "replace", _text(event), given_at=_when(event.get("ts")))


def _button(body: dict[str, Any], action: dict[str, Any], team: str) -> InboundSignal | None:
    button = read_feedback_button(str(action.get("value", "")))
    user = as_dict(body.get("user")).get("id")
    if not button or not user:
        return None
    answer_id, verdict = button
    return InboundSignal(
        channel="slack",
        person=Person((Identifier("slack_user", str(user), team),)),
        signal="button",
        op="replace",
        raw="👍" if verdict == "up" else "👎",
        answer_id=answer_id,
        given_at=_when(action.get("action_ts")),
    )


def _from_a_person(event: dict[str, Any]) -> bool:
    """Answer no bot (other bots have a bot_id without a subtype), not Slack itself (it has neither), not us."""
    return bool(event.get("user")) and not event.get("bot_id") and event.get("user") != SLACK_ITSELF


def _is_direct(event: dict[str, Any]) -> bool:
    return event.get("channel_type") == "im" or str(event.get("channel", "")).startswith("D")


def _is_ambient(body: dict[str, Any], event: dict[str, Any]) -> bool:
    """Said in a channel without naming us."""
    if event.get("type") == "app_mention" or _is_direct(event):
        return False
    ours = {as_dict(entry).get("user_id") for entry in body.get("authorizations") or [] if isinstance(entry, dict)}
    mentioned = set(re.findall(r"<@([A-Z0-9]+)", str(event.get("text", ""))))
    return not (ours & mentioned)


def _lane(team: str, event: dict[str, Any]) -> str:
    channel = event.get("channel", "")
    if _is_direct(event):
        return f"slack:{team}:{channel}"
    return f"slack:{team}:{channel}:{event.get('thread_ts') or event.get('ts')}"


def _text(event: dict[str, Any]) -> str:
    """What was typed: mentions out, links as people see them, HTML unescaped."""
    text = _MENTION.sub("", str(event.get("text") or ""))
    text = _BROADCAST.sub("", text)
    text = _LINK.sub(lambda match: match[1] or match[2] or "", text)
    return clean(html.unescape(text))


def _team(body: dict[str, Any]) -> str:
    """The workspace the app is installed in; for Slack Connect `team_id` may be the other side's."""
    authorizations = as_dicts(body.get("authorizations"))
    installed = authorizations[0].get("team_id") if authorizations else None
    return str(installed or body.get("team_id") or as_dict(body.get("team")).get("id") or "")


def _when(ts: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(ts), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()
