"""What Slack sends us, as ledger items and in the bot's words.

One mention arrives twice (message.channels and app_mention) with two event ids and one `ts`: a message's key is
(team, channel, ts). https://docs.slack.dev/apis/events-api/
"""

import html
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
from core.reactions import Rating, slack_rating, text_rating
from core.untrusted import as_dict, as_dicts, as_text, digest
from integrations.slack import desk

ANSWERED_SUBTYPES = frozenset({"", "file_share", "thread_broadcast"})
SLACK_ITSELF = frozenset({"USLACK", "USLACKBOT"})
_NAMES = re.compile(r":([^\s:]+(?:::skin-tone-[2-6])?):")  # emoji in a text come as their names
_SPECIAL = re.compile(r"<([^<>|]*)(?:\|([^<>]*))?>")  # what people type as < and > arrives escaped


def split(body: dict[str, Any]) -> list[InboundItem]:
    """The ledger items of one request (Slack sends one event a request; a click may have several actions)."""
    kind = body.get("type")
    if kind == "event_callback":
        return [_event_item(body)]
    if kind == "block_actions" and (actions := as_dicts(body.get("actions"))):
        return [item for action in actions for item in _action_items(body, action)]
    if kind == "view_submission":
        view = as_dict(body.get("view"))
        key = f"view:{as_text(view.get('id'))}:{as_text(view.get('hash')) or digest(view)}"
        if desk.form_signal(body, _asker(body)):
            return [InboundItem(key, "signal", f"slack:{_team(body)}", body)]
    elif as_text(body.get("command")):
        key = f"command:{as_text(body.get('trigger_id')) or digest(body)}"
    elif kind == "message_action":
        key = f"shortcut:{as_text(body.get('trigger_id')) or digest(body)}"
    else:
        key = f"other:{digest(body)}"
    return [_desk_item(key, body)]


def read(kind: str, body: dict[str, Any]) -> Inbound | None:
    """A ledger item in the bot's words; None for what is deliberately ignored."""
    event, team = as_dict(body.get("event")), _team(body)
    if kind == "command":
        return desk.read(body, _asker(body), team)
    if kind == "signal" and body.get("type") == "view_submission":
        return desk.form_signal(body, _asker(body))
    if kind == "signal" and body.get("type") == "block_actions":
        return _button(body, as_dict(body.get("action")), team)
    if kind == "signal" and event.get("type") in ("message", "app_mention"):
        return _rating_message(event, team)
    if kind == "signal":
        return _reaction(body, event, team)
    channel, ts = as_text(event.get("channel")), as_text(event.get("ts"))
    if kind in ("edit", "delete"):
        message, previous = as_dict(event.get("message")), as_dict(event.get("previous_message"))
        changed = as_text(event.get("deleted_ts")) or as_text(message.get("ts"))
        text = _text(message) if kind == "edit" else None
        name = f"{channel}:{changed}"
        keys = (f"msg:{team}:{name}", f"ambient:{team}:{name}")
        at = _when(as_dict(message.get("edited")).get("ts")) or _when(event.get("event_ts"))
        return InboundEdit("slack", name, text, keys, at, _person((message | previous).get("user"), team))
    if kind != "message":
        return None
    thread = as_text(event.get("thread_ts")) or (None if _is_direct(event) else ts)
    files = tuple(
        {"id": as_text(file.get("id")), "type": as_text(file.get("mimetype"))} for file in as_dicts(event.get("files"))
    )
    return InboundMessage(
        channel="slack",
        person=_person(event.get("user"), team),
        provider_message_id=f"{channel}:{ts}",
        text=_text(event),
        kind="document" if files and not _text(event) else "text",
        address={"channel": channel, "thread_ts": thread, "team": team, "ambient": _is_ambient(body, event)},
        sent_at=_when(ts),
        context="employees",
        attachments=files,
    )


def _event_item(body: dict[str, Any]) -> InboundItem:
    event, team = as_dict(body.get("event")), _team(body)
    event_id = as_text(body.get("event_id")) or f"event:{digest(body)}"
    kind, subtype, channel = event.get("type"), as_text(event.get("subtype")), as_text(event.get("channel"))
    ignored = InboundItem(event_id, "ignored", f"slack:{team}:{channel}" if channel else f"slack:{team}", body)
    if kind in ("reaction_added", "reaction_removed"):
        lane = f"slack:{team}:{as_text(as_dict(event.get('item')).get('channel'))}"
        return InboundItem(event_id, "signal", lane, body) if _reaction(body, event, team) else ignored
    if kind not in ("message", "app_mention"):
        return _desk_item(event_id, body, ignored.lane)
    if subtype in ("message_changed", "message_deleted"):
        return _change_item(body, event, event_id) or ignored
    if not _from_a_person(event) or as_text(event.get("user")) in _our_bots(body) or subtype not in ANSWERED_SUBTYPES:
        return ignored
    # Who names us in an edit comes as an `app_mention` with `edited`; without a channel there is nowhere to answer.
    if event.get("edited") or not channel:
        return ignored
    lane, ts = _lane(team, event), as_text(event.get("ts")) or digest(event)
    if _rating(_text(event)) is not None:
        return InboundItem(f"msg:{team}:{channel}:{ts}", "signal", lane, body)
    if not _text(event) and not as_dicts(event.get("files")):
        return InboundItem(f"msg:{team}:{channel}:{ts}", "ignored", lane, body)
    # Talk beside us in a channel has a key of its own, so that it cannot stand in the way of the mention's.
    prefix = "ambient" if _is_ambient(body, event) else "msg"
    return InboundItem(f"{prefix}:{team}:{channel}:{ts}", "message", lane, body)


def _change_item(body: dict[str, Any], event: dict[str, Any], event_id: str) -> InboundItem | None:
    """A person's edit or deletion; None for our own edits, unfurled links and other changes without new words."""
    message, previous = as_dict(event.get("message")), as_dict(event.get("previous_message"))
    lane = _lane(_team(body), (message or previous) | {"channel": event.get("channel")})
    # A deleted message with a thread below it is not deleted but changed into a tombstone.
    if event.get("subtype") == "message_deleted" or message.get("subtype") == "tombstone":
        return InboundItem(event_id, "delete", lane, body)
    if not _from_a_person(message) or message.get("text") == previous.get("text"):
        return None
    return InboundItem(event_id, "edit", lane, body)


def _action_items(body: dict[str, Any], action: dict[str, Any]) -> list[InboundItem]:
    """A tap on a thumb is a signal; one on 👎 opens a form too, which must not wait behind the signal."""
    team, user = _team(body), as_text(as_dict(body.get("user")).get("id"))
    channel = as_text(as_dict(body.get("channel")).get("id")) or as_text(
        as_dict(body.get("container")).get("channel_id")
    )
    payload = {**body, "action": action}
    ref = f"{team}:{user}:{as_text(action.get('action_ts')) or digest(payload)}"
    lane = f"slack:{team}:{channel}"
    if not _button(payload, action, team):
        return [_desk_item(f"action:{ref}", payload, lane)]
    tapped = InboundItem(f"action:{ref}", "signal", lane, payload)
    form = _desk_item(f"form:{ref}", payload, lane)
    return [tapped, form] if form.kind == "command" else [tapped]


def _desk_item(key: str, body: dict[str, Any], lane: str | None = None) -> InboundItem:
    """What the desk handles has the person's own lane: no model makes it wait. Everything else is ignored."""
    team, person = _team(body), _asker(body)
    if desk.read(body, person, team):
        return InboundItem(key, "command", f"desk/slack:{team}:{person.identifiers[0].value}", body)
    return InboundItem(key, "ignored", lane or f"slack:{team}", body)


def _asker(body: dict[str, Any]) -> Person:
    """Who clicked, sent, asked: an object in interactivity, a field in commands, in events the event's."""
    event = as_dict(body.get("event"))
    users = [
        as_dict(body.get("user")).get("id"), body.get("user_id"), event.get("user"),
        as_dict(event.get("assistant_thread")).get("user_id"),
    ]  # fmt: skip
    return _person(next(filter(None, map(as_text, users)), ""), _team(body))


def _reaction(body: dict[str, Any], event: dict[str, Any], team: str) -> InboundSignal | None:
    """None for a reaction on a file, by Slack itself, or our own (a seed for others to click)."""
    item, user = as_dict(event.get("item")), as_text(event.get("user"))
    channel, ts = as_text(item.get("channel")), as_text(item.get("ts"))
    if not channel or not ts or not user or user in SLACK_ITSELF or user in _our_bots(body):
        return None
    return InboundSignal(
        channel="slack",
        person=_person(user, team),
        signal="reaction",
        op="add" if event.get("type") == "reaction_added" else "remove",
        raw=as_text(event.get("reaction")),
        target=f"{channel}:{ts}",
        given_at=_when(event.get("event_ts")),
    )


def _rating(text: str) -> tuple[Rating, str] | None:
    """The rating in a message that is nothing else, and its sign: an emoji's name, stars."""
    if rating := text_rating(text):
        return rating, text
    names = _NAMES.findall(text)
    if not names or _NAMES.sub("", text).strip():
        return None
    ratings = [(slack_rating(name), name) for name in names]
    return next((rated for rated in ratings if rated[0].value is not None), ratings[0])


def _rating_message(event: dict[str, Any], team: str) -> InboundSignal | None:
    rated = _rating(_text(event))
    if rated is None:
        return None
    rating, raw = rated
    person, at = _person(event.get("user"), team), _when(event.get("ts"))
    return InboundSignal("slack", person, rating.signal, "replace", raw, given_at=at)


def _button(body: dict[str, Any], action: dict[str, Any], team: str) -> InboundSignal | None:
    button, user = read_feedback_button(as_text(action.get("value"))), as_text(as_dict(body.get("user")).get("id"))
    if not button or not user:
        return None
    answer_id, verdict = button
    return InboundSignal(
        channel="slack",
        person=_person(user, team),
        signal="button",
        op="replace",
        raw="👍" if verdict == "up" else "👎",
        answer_id=answer_id,
        given_at=_when(action.get("action_ts")),
    )


def _person(user: Any, team: str) -> Person:
    return Person((Identifier("slack_user", as_text(user), team),))


def _from_a_person(event: dict[str, Any]) -> bool:
    """Answer no bot (other bots have a bot_id without a subtype), not Slack itself (it has neither), not us."""
    user = as_text(event.get("user"))
    return bool(user) and not (event.get("bot_id") or event.get("bot_profile")) and user not in SLACK_ITSELF


def _is_direct(event: dict[str, Any]) -> bool:
    return event.get("channel_type") == "im" or as_text(event.get("channel")).startswith("D")


def _is_ambient(body: dict[str, Any], event: dict[str, Any]) -> bool:
    """Said in a channel without naming us."""
    if event.get("type") == "app_mention" or _is_direct(event):
        return False
    ours = {as_text(entry.get("user_id")) for entry in as_dicts(body.get("authorizations"))}
    return not ours & set(re.findall(r"<@([A-Z0-9]+)", as_text(event.get("text"))))


def _our_bots(body: dict[str, Any]) -> set[str]:
    """An authorization may also name the person who installed the app: only `is_bot` is us."""
    return {
        as_text(entry.get("user_id")) for entry in as_dicts(body.get("authorizations")) if entry.get("is_bot") is True
    }


def _lane(team: str, event: dict[str, Any]) -> str:
    channel = as_text(event.get("channel"))
    if _is_direct(event):
        return f"slack:{team}:{channel}"
    return f"slack:{team}:{channel}:{as_text(event.get('thread_ts')) or as_text(event.get('ts'))}"


def _text(event: dict[str, Any]) -> str:
    """What was typed: mentions and broadcasts out, links and channels as people see them, HTML unescaped. Of a message
    that was forwarded without a word: its words."""
    forwarded = map(_forwarded, as_dicts(event.get("attachments")))
    return _typed(event) or clean("\n".join(filter(None, forwarded)))


def _typed(message: dict[str, Any]) -> str:
    if text := as_text(message.get("text")).strip():
        return clean(html.unescape(_SPECIAL.sub(_as_seen, text)))
    return clean("\n".join(_in_blocks(block) for block in as_dicts(message.get("blocks"))))


def _forwarded(attachment: dict[str, Any]) -> str:
    """Empty where it is another kind of attachment: an app's, a link's."""
    blocks = [as_dict(block.get("message")) for block in as_dicts(attachment.get("message_blocks"))]
    if not attachment.get("is_share") and not blocks:
        return ""
    return _typed(attachment) or "\n".join(filter(None, map(_typed, blocks)))


def _in_blocks(node: dict[str, Any]) -> str:
    """What a rich text holds, where a message comes without its `text`."""
    kind = as_text(node.get("type"))
    if kind == "emoji":
        return f":{as_text(node.get('name'))}:"
    if kind == "date":
        return as_text(node.get("fallback"))
    if kind in ("text", "link"):
        return as_text(node.get("text")) or as_text(node.get("url"))
    if not kind.startswith("rich_text"):
        return ""  # people's ids, broadcasts; buttons and pictures
    between = "\n" if kind in ("rich_text", "rich_text_list") else ""
    return between.join(_in_blocks(inner) for inner in as_dicts(node.get("elements")))


def _as_seen(match: re.Match[str]) -> str:
    target, label = match[1], match[2] or ""
    if target.startswith("@") or target in ("!channel", "!here", "!everyone"):
        return ""
    if target.startswith(("!", "#")):
        return label
    return label or target.removeprefix("mailto:").removeprefix("tel:")


def _team(body: dict[str, Any]) -> str:
    """Where the app is installed: the scope of its user ids. For Slack Connect `team_id` may be the other side's;
    where it is installed for a whole organisation there may be no team, and ids belong to the organisation."""
    installed = (as_dicts(body.get("authorizations")) or [{}])[0]
    view, user = as_dict(body.get("view")), as_dict(body.get("user"))
    teams = [
        view.get("app_installed_team_id"), installed.get("team_id"), body.get("team_id"),
        as_dict(body.get("team")).get("id"), user.get("team_id"), view.get("team_id"),
    ]  # fmt: skip
    organisations = [
        installed.get("enterprise_id"), as_dict(body.get("enterprise")).get("id"), body.get("enterprise_id")
    ]  # fmt: skip
    for_all = {str(place.get("is_enterprise_install")).lower() for place in (installed, body)}
    candidates = [*organisations, *teams] if "true" in for_all else [*teams, *organisations]
    return next(filter(None, map(as_text, candidates)), "")


def _when(ts: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(ts), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
