"""What people ask of us in Slack beside talking: forms, verdicts on the review card, /rollout, the opened page.

The web process stores it, `bot/slack_desk.py` does it. Here it is only read: what is not ours gives None.
"""

import json
from typing import Any

from core.messages import InboundCommand, InboundSignal, Person, clean, read_feedback_button
from core.untrusted import as_dict, as_text

FEEDBACK_FORM = "npllm_feedback"  # callback id of our form, and of the shortcut in a message's menu
COMMENT, PROBLEM = "comment", "problem"  # its fields: block and action alike
MAX_WORDS = 1_000  # characters of a slash command


def read(body: dict[str, Any], person: Person, team: str) -> InboundCommand | None:
    """What is asked of the desk; None where nothing is, or nobody asks."""
    found = _asked(body)
    if found is None or not person.identifiers[0].value:
        return None
    name, data = found
    return InboundCommand("slack", person, name, {"team": team, **data})


def form_signal(body: dict[str, Any], person: Person) -> InboundSignal | None:
    """A comment or a problem, from the form about an answer; None for other forms, and for one left empty."""
    view = as_dict(body.get("view"))
    if view.get("callback_id") != FEEDBACK_FORM or not person.identifiers[0].value:
        return None
    about, comment = _metadata(view), clean(_field(view, COMMENT).get("value"))
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


def _asked(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    kind = body.get("type")
    if kind == "event_callback":
        return _event(body)
    if kind == "block_actions":
        return _click(body)
    if kind == "message_action" and body.get("callback_id") == FEEDBACK_FORM:
        channel = as_text(as_dict(body.get("channel")).get("id"))
        ts = as_text(body.get("message_ts")) or as_text(as_dict(body.get("message")).get("ts"))
        return ("form", {"target": f"{channel}:{ts}", **_door(body)}) if channel and ts else None
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
    return None


def _click(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    action = as_dict(body.get("action"))
    value = as_text(action.get("value"))
    if (button := read_feedback_button(value)) and button[1] == "down" and as_text(body.get("trigger_id")):
        return "form", {"answer": button[0], **_door(body)}
    return None


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
