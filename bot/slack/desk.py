"""The desk: what is asked of us in Slack beside talking is done once, and then said.

Doing is a transaction that also writes down what has to be said; saying comes after it, step by step. Whoever goes on
after a crash does nothing twice and says what is left.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from bot import handover, rollout_verbs
from bot.alerts import raise_alert
from bot.lanes import Lease, LeaseLost
from bot.review import queue
from bot.slack import cards, forms
from bot.wiring import Awake
from core import events
from core.db import transaction
from core.errors import Conflict, NotAllowed, NotFound, NpllmError, Unavailable, VendorUnavailable
from core.messages import InboundCommand
from core.settings import Settings
from core.tables import Alert, Conversation, Handover, InboundEvent, OutboxItem, now
from integrations.slack import installations
from integrations.slack.client import escaped
from integrations.slack.desk import place

log = logging.getLogger(__name__)

SAYING = "saying:"  # then the steps that are left, as JSON
SAID_LAST = 6  # messages above the form for an answer
MAX_SAID = 3_800  # characters of a note; Slack shows some 4,000


@dataclass(frozen=True)
class Desk:
    """What a command's doing needs."""

    session: Session
    settings: Settings
    command: InboundCommand

    @property
    def words(self) -> dict[str, str]:
        return forms.WORDS[self.settings.language]


# {"method", "arguments"}, {"tell": text}, {"cards": True} or {"ring": lane}; "otherwise": said where Slack refuses it
Step = dict[str, Any]


def may(command: InboundCommand, listed: list[str]) -> bool:
    """Whether the asker is in a setting's list. User ids are unique in a workspace only: TEAM/USER says which."""
    user = command.person.identifiers[0].value
    return user in listed or f"{command.data['team']}/{user}" in listed


def take(awake: Awake, event_id: int, command: InboundCommand, held: Lease) -> None:
    """Do what is asked, once; say what comes of it.

    Raises:
        VendorUnavailable: Slack does not answer now; what is left is said at the next try.
    """
    steps = _done(awake, event_id, command, held)
    while steps:
        _say(awake, command, steps[0])
        steps = steps[1:]
        _remember(awake, event_id, steps)
    with transaction(awake.engine) as session:
        event = session.get_one(InboundEvent, event_id, with_for_update=True)
        event.handled_at, event.outcome, event.error = now(), command.name, None


def _done(awake: Awake, event_id: int, command: InboundCommand, held: Lease) -> list[Step]:
    """The steps that are left to say, after it was done: now, or by whoever tried before."""
    with transaction(awake.engine) as session:
        held.fence(session)
        event = session.get_one(InboundEvent, event_id)
        if event.outcome and event.outcome.startswith(SAYING):
            return list(json.loads(event.outcome.removeprefix(SAYING)))
    if command.name == "rollout":
        return _steer(awake, event_id, command)
    try:
        with transaction(awake.engine) as session:
            held.fence(session)
            event = session.get_one(InboundEvent, event_id)
            steps = DOES[command.name](Desk(session, awake.settings, command))
            event.outcome = SAYING + json.dumps(steps)
            return steps
    except (Unavailable, LeaseLost):
        raise
    except NpllmError as error:  # what was asked cannot be done: nothing was, and the asker is told why
        words = forms.WORDS[awake.settings.language]
        known = {Conflict: words["taken"], NotFound: words["gone"], NotAllowed: words["stopped"]}
        steps = [{"tell": known.get(type(error), str(error))}]
        _remember(awake, event_id, steps)
        return steps


def _remember(awake: Awake, event_id: int, steps: list[Step]) -> None:
    with transaction(awake.engine) as session:
        session.get_one(InboundEvent, event_id, with_for_update=True).outcome = SAYING + json.dumps(steps)


def _say(awake: Awake, command: InboundCommand, step: Step) -> None:
    client: Any = awake.channel("slack")
    try:
        if "cards" in step:
            cards.show(awake)
        elif "ring" in step:
            handover.ring(awake.redis, step["ring"])
        elif "method" in step:
            client.call(step["method"], team=command.data["team"], **step["arguments"])
        else:
            _tell(client, command, step["tell"])
    except VendorUnavailable as error:
        if not error.outcome_unknown:
            raise
        log.warning("It may have been said: %s", error)  # and is not said twice
    except Unavailable as refused:
        log.warning("Slack refused %s: %s", step.get("method", "a note"), refused)
        if "otherwise" in step:
            _say(awake, command, {"tell": step["otherwise"]})


def _tell(client: Any, command: InboundCommand, text: str) -> None:
    """Only the asker sees it."""
    data = command.data
    if url := data.get("response_url"):
        client.tell(url, text)
    elif channel := data.get("channel"):
        user = command.person.identifiers[0].value
        client.call("chat.postEphemeral", team=data["team"], channel=channel, user=user, text=text)


# What can be asked ----------------------------------------------------------------------------------------------------


def open_feedback(desk: Desk) -> list[Step]:
    """The form about an answer: after 👎, or from the menu of a message of ours."""
    data = desk.command.data
    about = {name: data[name] for name in ("answer", "target") if data.get(name)}
    if (target := data.get("target")) and not _is_ours(desk.session, target):
        return [{"tell": desk.words["not_ours"]}]
    view = forms.feedback_form(desk.settings.language, about)
    arguments = {"trigger_id": data["trigger_id"], "view": view}
    return [{"method": "views.open", "arguments": arguments, "otherwise": desk.words["too_late"]}]


def suggest(desk: Desk) -> list[Step]:
    """Somebody opened our page: what they could ask."""
    data, language = desk.command.data, desk.settings.language
    arguments = {
        "channel_id": data["channel"], "thread_ts": data["thread_ts"], "title": desk.words["suggestions"],
        "prompts": forms.suggestions(language),
    }  # fmt: skip
    return [{"method": "assistant.threads.setSuggestedPrompts", "arguments": arguments}]


def decide(desk: Desk) -> list[Step]:
    """A button of a review card: the verdict, or the form for a correction."""
    data, settings = desk.command.data, desk.settings
    if not may(desk.command, settings.slack_reviewers):
        return [{"tell": desk.words["no_reviewer"]}]
    if data["verdict"] != "correct":
        queue.submit(desk.session, data["item"], _reviewer(desk.command), data["verdict"])
        return [{"cards": True}]
    item = queue.claim(desk.session, data["item"], _reviewer(desk.command), settings)
    arguments = {
        "trigger_id": data["trigger_id"],
        "view": forms.correction_form(settings.language, item, data["channel"]),
    }
    return [{"method": "views.open", "arguments": arguments, "otherwise": desk.words["too_late"]}]


def correct(desk: Desk) -> list[Step]:
    """The form for a correction was sent."""
    data = desk.command.data
    if not may(desk.command, desk.settings.slack_reviewers):
        return [{"tell": desk.words["no_reviewer"]}]
    if not data["corrected"]:
        return [{"tell": desk.words["empty"]}]
    queue.submit(
        desk.session, data["item"], _reviewer(desk.command), "correct", corrected=data["corrected"],
        comment=data["comment"],
    )  # fmt: skip
    return [{"cards": True}]


def attend(desk: Desk) -> list[Step]:
    """A button of the notice that somebody asks for a person: the form for an answer, or back to the bot.

    Whoever is in the team's channel may: the company says who that is.
    """
    data = desk.command.data
    team, channel = place(desk.settings.slack_handover_channel or "")
    if data["channel"] != channel or team not in ("", data["team"]):
        return [{"tell": desk.words["elsewhere"]}]
    row = handover.find(desk.session, data["handover"])
    if data["what"] == "return":
        handover.give_back(desk.session, row, by=_reviewer(desk.command))
        return [{"tell": desk.words["returned"]}]
    about = {"handover": str(row.id), "channel": data["channel"]}
    view = forms.reply_form(desk.settings.language, about, _said_last(desk, row))
    arguments = {"trigger_id": data["trigger_id"], "view": view}
    return [{"method": "views.open", "arguments": arguments, "otherwise": desk.words["too_late"]}]


def reply(desk: Desk) -> list[Step]:
    """The form for an answer was sent: it leaves as the team's."""
    data = desk.command.data
    if not data["text"].strip():
        return [{"tell": desk.words["empty"]}]
    row = handover.find(desk.session, data["handover"])
    lane = handover.reply(desk.session, row, data["text"], by=_reviewer(desk.command))
    return [{"ring": lane}, {"tell": desk.words["replied"]}]


def _said_last(desk: Desk, row: Handover) -> list[tuple[str, str]]:
    """(role, redacted text) of the latest messages, oldest first."""
    redact = handover.redactor(desk.session, desk.settings, desk.session.get_one(Conversation, row.conversation_id))
    latest = handover.said(desk.session, row.conversation_id, SAID_LAST)
    return [(message.role, redact(message.text)) for message in latest]


def removed(desk: Desk) -> list[Step]:
    """The app was thrown out of a workspace: its token is forgotten, and somebody should know."""
    data = desk.command.data
    at = datetime.fromtimestamp(data["at"] + 1, UTC) if data["at"] else None  # their clock has whole seconds
    installations.remove(desk.session, data["team"], at)
    reason = f"Slack: the app was removed from workspace {data['team']}."
    events.record(desk.session, "alert.raised", channel="slack", reason=reason)
    return []


def limited(desk: Desk) -> list[Step]:
    """Slack holds events back, and says so every minute: operators are told once an hour, the span of its limit."""
    team = desk.command.data["team"]
    told = select(Alert.id).where(
        Alert.kind == "slack.limited", Alert.data["team"].astext == team, Alert.created_at > now() - timedelta(hours=1)
    )
    if desk.session.scalar(told.limit(1)) is None:
        reason = f"Slack sent more than 30,000 events of workspace {team} in an hour, and leaves out the rest."
        events.record(desk.session, "alert.raised", channel="slack", reason=reason)
        raise_alert(desk.session, "slack.limited", context="employees", state="limited", team=team, reason=reason)
    return []


def _reviewer(command: InboundCommand) -> str:
    return f"slack:{command.person.identifiers[0].value}"


def _steer(awake: Awake, event_id: int, command: InboundCommand) -> list[Step]:
    """/rollout: an operator's verb, never run twice. The verbs have transactions of their own, so it is noted before
    that one began: whoever finds only that note does not know what became of it, and says so."""
    words = forms.WORDS[awake.settings.language]
    if not may(command, awake.settings.slack_operators):
        return [{"tell": words["no_operator"]}]
    _remember(awake, event_id, [{"tell": words["perhaps_done"]}])
    actor = f"slack:{command.person.identifiers[0].value}"
    said = rollout_verbs.run(awake.engine, command.data["words"], actor=actor, roles={"ops"})
    steps: list[Step] = [{"tell": f"```{escaped(said[:MAX_SAID])}```"}]
    _remember(awake, event_id, steps)
    return steps


def _is_ours(session: Session, target: str) -> bool:
    ours = select(OutboxItem.id).where(OutboxItem.channel == "slack", OutboxItem.provider_message_id == target)
    return session.scalar(ours) is not None


DOES: dict[str, Callable[[Desk], list[Step]]] = {
    "form": open_feedback, "opened": suggest, "verdict": decide, "correction": correct, "handover": attend,
    "reply": reply, "removed": removed, "limited": limited,
}  # fmt: skip
