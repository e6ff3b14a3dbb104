"""What people ask of us in Slack beside talking: forms, verdicts on the review card, the buttons of a hand-over,
/rollout, the opened page.

The web process stores it, `bot/slack/desk.py` does it. Here it is only read: what is not ours gives None.
"""

import json
from typing import Any

from core.messages import InboundCommand, InboundSignal, Person, clean, read_feedback_button
from core.untrusted import as_dict, as_text

FEEDBACK_FORM = "npllm_feedback"  # callback ids of our forms, and of the shortcut in a message's menu
CORRECTION_FORM, REPLY_FORM = "npllm_correction", "npllm_reply"
COMMENT, PROBLEM, CORRECTED, REPLY = "comment", "problem", "corrected", "reply"  # their fields: block and action alike
REVIEW = "review"  # review:ITEM:VERDICT in a card's buttons
VERDICTS = frozenset({"approve", "correct", "reject"})
HANDOVER = "handover"  # handover:ID:WHAT in the buttons of the notice that somebody asks for a person
HANDOVERS = frozenset({"reply", "return"})
MAX_WORDS = 1_000  # characters of a slash command


def read(body: dict[str, Any], person: Person, team: str) -> InboundCommand | None:
    """What is asked of the desk; None where nothing is, or nobody asks."""
    found = _asked(body)
    if found is None:
        return None
    name, data = found
    # An installation ends, and events are held back, without anybody doing it in particular.
    if not person.identifiers[0].value and name not in ("removed", "limited"):
        return None
    return InboundCommand("slack", person, name, {"team": team, **data})


def form_signal(body: dict[str, Any], person: Person) -> InboundSignal | None:
    """A comment or a problem, from the form about an answer; None for other forms, and for one left empty."""
    view = as_dict(body.get("view"))
    if view.get("callback_id") != FEEDBACK_FORM or not person.identifiers[0].value:
        return None
    about, comment = _metadata(view), clean(as_text(_field(view, COMMENT).get("value")))
    flagged = bool(_field(view, PROBLEM).get("selected_options"))
    answer, target = as_text(about.get("answer")) or None, as_text(about.get("target")) or None
    if not (comment or flagged) or not (answer or target):
        return None
    return InboundSignal(
        channel="slack",
        person=person,
        signal="flag" if flagged else "comment",
        op="replace",
        raw="⚑" if flagged else "",
        answer_id=answer,
        target=None if answer else target,
        comment=comment or None,
    )


def place(setting: str) -> tuple[str, str]:
    """(team, channel) of a setting that names a channel; with one workspace the team may be left out."""
    team, _, channel = setting.rpartition("/")
    return team, channel


def read_verdict(value: str) -> tuple[str, str] | None:
    """(item, verdict) of a review card's button."""
    return _named(value, REVIEW, VERDICTS)


def read_handover(value: str) -> tuple[str, str] | None:
    """(hand-over, reply or return) of a notice's button."""
    return _named(value, HANDOVER, HANDOVERS)


def _named(value: str, kind: str, known: frozenset[str]) -> tuple[str, str] | None:
    parts = value.split(":")
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == kind and parts[2] in known else None


def _asked(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    kind = body.get("type")
    if kind == "event_callback":
        return _event(body)
    if kind == "block_actions":
        return _click(body)
    if kind == "view_submission":
        return _form(as_dict(body.get("view")))
    if kind == "message_action" and body.get("callback_id") == FEEDBACK_FORM:
        channel = as_text(as_dict(body.get("channel")).get("id"))
        ts = as_text(body.get("message_ts")) or as_text(as_dict(body.get("message")).get("ts"))
        return ("form", {"target": f"{channel}:{ts}", **_door(body)}) if channel and ts else None
    if kind == "app_rate_limited":
        return "limited", {}
    if as_text(body.get("command")).endswith("rollout"):
        return "rollout", {"words": clean(as_text(body.get("text")))[:MAX_WORDS], **_door(body)}
    return None


def _event(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    event = as_dict(body.get("event"))
    kind, channel = event.get("type"), as_text(event.get("channel"))
    if kind == "app_home_opened" and event.get("tab") == "messages" and channel:
        return "opened", {"channel": channel, "thread_ts": None}
    if kind == "assistant_thread_started":  # how apps made before July 2026 are opened
        thread = as_dict(event.get("assistant_thread"))
        channel, ts = as_text(thread.get("channel_id")), as_text(thread.get("thread_ts"))
        return ("opened", {"channel": channel, "thread_ts": ts}) if channel and ts else None
    revoked = kind == "tokens_revoked" and as_dict(event.get("tokens")).get("bot")
    if kind == "app_uninstalled" or revoked:
        at = body.get("event_time")
        return "removed", {"at": at if isinstance(at, int) and 0 < at < 2**32 else None}
    return None


def _click(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    action = as_dict(body.get("action"))
    value = as_text(action.get("value"))
    if (button := read_feedback_button(value)) and button[1] == "down" and as_text(body.get("trigger_id")):
        return "form", {"answer": button[0], **_door(body)}
    if verdict := read_verdict(value):
        return "verdict", {"item": verdict[0], "verdict": verdict[1], **_door(body)}
    if asked := read_handover(value):
        return "handover", {"handover": asked[0], "what": asked[1], **_door(body)}
    return None


def _form(view: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    about = _metadata(view)
    if view.get("callback_id") == REPLY_FORM and (handover := as_text(about.get("handover"))):
        text = clean(as_text(_field(view, REPLY).get("value")))
        return "reply", {"handover": handover, "text": text, "channel": as_text(about.get("channel"))}
    if view.get("callback_id") != CORRECTION_FORM:
        return None
    item = as_text(about.get("item"))
    corrected, comment = (clean(as_text(_field(view, name).get("value"))) for name in (CORRECTED, COMMENT))
    facts = {"item": item, "corrected": corrected, "comment": comment, "channel": as_text(about.get("channel"))}
    return ("correction", facts) if item else None


def _door(body: dict[str, Any]) -> dict[str, Any]:
    """How to answer: a form within three seconds, a note that only the asker sees within half an hour."""
    channel = as_text(as_dict(body.get("channel")).get("id")) or as_text(body.get("channel_id"))
    return {
        "trigger_id": as_text(body.get("trigger_id")), "response_url": as_text(body.get("response_url")),
        "channel": channel,
    }  # fmt: skip


def _metadata(view: dict[str, Any]) -> dict[str, Any]:
    """What we wrote into the form when we opened it."""
    try:
        return as_dict(json.loads(as_text(view.get("private_metadata"))))
    except (ValueError, RecursionError):
        return {}


def _field(view: dict[str, Any], name: str) -> dict[str, Any]:
    return as_dict(as_dict(as_dict(as_dict(view.get("state")).get("values")).get(name)).get(name))
