"""Slack's requests, one body a file in fixtures/: what each becomes in the ledger, and what the bot reads in it.

A new case is a file and a line in CASES. `.json` is an event, or what comes in a form's field `payload`; `.txt` is a
form as it comes.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.messages import (
    Identifier,
    Inbound,
    InboundCommand,
    InboundEdit,
    InboundMessage,
    InboundSignal,
    ItemKind,
    Person,
    clean_payload,
)
from integrations.slack.webhook import read, split

FIXTURES = Path(__file__).parent / "fixtures"
ANSWER = "0190a0b0-0000-7000-8000-0000000000a1"
ITEM = "0190a0b0-0000-7000-8000-0000000000b2"
HANDOVER = "0190a0b0-0000-7000-8000-0000000000d4"
TS, THREAD = "1795000000.000100", "1794999000.000100"
OURS = f"D0RITA:{THREAD}"  # a message we posted
DM, CHANNEL = "slack:T0SHOP:D0RITA", "slack:T0SHOP:C0GERAL"
FILE = ({"id": "F0NOTA", "type": "application/pdf"},)

Item = tuple[ItemKind, str, str, Inbound | None]  # kind, lane, key, what the bot reads


def load(name: str) -> dict[str, Any]:
    path = next(FIXTURES.glob(f"{name}.*"))
    return (
        json.loads(path.read_text())
        if path.suffix == ".json"
        else dict(parse_qsl(path.read_text(), keep_blank_values=True))
    )


def at(ts: str) -> datetime:
    return datetime.fromtimestamp(float(ts), UTC)


def who(user: str = "U0RITA", team: str = "T0SHOP") -> Person:
    return Person((Identifier("slack_user", user, team),))


def direct(text: str, *, thread: str | None = None, **more: Any) -> Item:
    """Said to the bot alone: it answers."""
    address = {"channel": "D0RITA", "thread_ts": thread, "team": "T0SHOP", "ambient": False}
    message = InboundMessage("slack", who(), f"D0RITA:{TS}", text, address, sent_at=at(TS), context="employees", **more)
    return "message", DM, f"msg:T0SHOP:D0RITA:{TS}", message


def public(
    text: str, *, thread: str | None = None, mention: bool = False, channel: str = "C0GERAL", **more: Any
) -> Item:
    """Said in a channel: the bot answers a mention in its thread; other words only where it talks already."""
    address = {"channel": channel, "thread_ts": thread or TS, "team": "T0SHOP", "ambient": not mention}
    message = InboundMessage(
        "slack",
        more.pop("person", who()),
        f"{channel}:{TS}",
        text,
        address,
        sent_at=at(TS),
        context="employees",
        **more,
    )
    key = f"{'msg' if mention else 'ambient'}:T0SHOP:{channel}:{TS}"
    return "message", f"slack:T0SHOP:{channel}:{thread or TS}", key, message


def edited(text: str | None, when: str) -> InboundEdit:
    keys = (f"msg:T0SHOP:D0RITA:{TS}", f"ambient:T0SHOP:D0RITA:{TS}")
    return InboundEdit("slack", f"D0RITA:{TS}", text, keys, at(when), who())


def rating(signal: Any, raw: str, *, lane: str = DM) -> Item:
    """A message that is nothing but a rating: it is about the last answer, and not answered."""
    channel = "D0RITA" if lane == DM else "C0GERAL"
    read_as = InboundSignal("slack", who(), signal, "replace", raw, given_at=at(TS))
    return "signal", lane, f"msg:T0SHOP:{channel}:{TS}", read_as


def reaction(name: str, *, op: Any = "add", user: str = "U0RITA") -> Item:
    read_as = InboundSignal("slack", who(user), "reaction", op, name, target=OURS, given_at=at("1795000200.000400"))
    return "signal", DM, "EVENT", read_as


def button(verdict: str, ts: str = "1795000300.000500", *, team: str = "T0SHOP") -> Item:
    raw = "👍" if verdict == "up" else "👎"
    read_as = InboundSignal("slack", who(team=team), "button", "replace", raw, answer_id=ANSWER, given_at=at(ts))
    return "signal", f"slack:{team}:D0RITA", f"action:{team}:U0RITA:{ts}", read_as


def asked(name: str, key: str, *, user: str = "U0RITA", **data: Any) -> Item:
    """Something for the desk, on the person's own lane."""
    command = InboundCommand("slack", who(user), name, {"team": "T0SHOP", **data})
    return "command", f"desk/slack:T0SHOP:{user}", key, command


def clicked(channel: str = "D0RITA", *, trigger: str = "1.2.abc") -> dict[str, str]:
    """How a click is answered."""
    return {"trigger_id": trigger, "response_url": "https://hooks.slack.example/actions/1", "channel": channel}


def commanded(trigger: str, words: str) -> Item:
    door = {"response_url": "https://hooks.slack.example/commands/1", "channel": "C0GERAL"}
    return asked("rollout", f"command:{trigger}", words=words, trigger_id=trigger, **door)


def reviewed(verdict: str, ts: str) -> Item:
    return asked("verdict", f"action:T0SHOP:U0RITA:{ts}", item=ITEM, verdict=verdict, **clicked("C0REVISAO"))


def attended(what: str, ts: str) -> Item:
    return asked("handover", f"action:T0SHOP:U0RITA:{ts}", handover=HANDOVER, what=what, **clicked("C0EQUIPE"))


def said_in_form(view: str, signal: Any, comment: str | None, *, answer: str | None = ANSWER) -> Item:
    """A form about an answer was sent."""
    read_as = InboundSignal(
        "slack", who(), signal, "replace", "⚑" if signal == "flag" else "", answer_id=answer,
        target=None if answer else OURS, comment=comment,
    )  # fmt: skip
    return "signal", "slack:T0SHOP", f"view:{view}:1795000400.abc", read_as


def ignored(lane: str = DM, key: str = "EVENT") -> Item:
    """Kept, never answered."""
    return "ignored", lane, key, None


def somewhere_else(item: Item, team: str, ts: str = TS) -> Item:
    """The same message, where `team` is the installation and `ts` its time."""
    kind, lane, key, message = item
    assert isinstance(message, InboundMessage)
    person = Person(tuple(replace(identifier, scope=team) for identifier in message.person.identifiers))
    message = replace(
        message, person=person, address={**message.address, "team": team},
        provider_message_id=message.provider_message_id.replace(TS, ts), sent_at=at(ts),
    )  # fmt: skip
    return kind, lane.replace("T0SHOP", team), key.replace("T0SHOP", team).replace(TS, ts), message


# fixture: (what a person would see, the ledger's items). EVENT stands for the event's own id.
CASES: dict[str, tuple[str, list[Item]]] = {
    "im": ("Rita asks; she is answered.", [direct("Quantos dias de férias eu tenho?")]),
    "im__in_a_thread": ("The answer comes in her thread.", [direct("E em janeiro?", thread=THREAD)]),
    "im__html_escapes": ("Read as she typed it.", [direct("a < b && c > d &lt;")]),
    "im__links_mentions_channels": (
        "Links and channels as she sees them; people's ids are not shown to the model.",
        [
            direct(
                "veja geral, , o site, https://loja.example, rh@loja.example, @rh e 18/11"
            )
        ],
    ),
    "im__broadcast": ("A broadcast is not repeated.", [direct("quem fecha a loja?")]),
    "im__nul": ("NUL bytes are gone.", [direct("Oi, tudo bem?")]),
    "im__blank": ("Nothing: never answered.", [ignored(key=f"msg:T0SHOP:D0RITA:{TS}")]),
    "im__blocks_alone": (
        "Her words are in the blocks only.", [direct("quais são os feriados <deste> ano? :pray:\nSão Paulo\nRio")],
    ),
    "im__blocks_with_a_date": ("A date as it is written.", [direct("A loja abre em 2026-12-11?")]),
    "im__blocks_without_words": ("A picture by its address.", [ignored(key=f"msg:T0SHOP:D0RITA:{TS}")]),
    "im__forwarded": (
        "A message that she forwards without a word is what she wants read.",
        [direct("Quem troca a lâmpada da sala 3 & 4?")],
    ),
    "im__forwarded_in_blocks_alone": ("Also from its blocks.", [direct("Quem troca a lâmpada da sala 3?")]),
    "im__attachment_of_an_app": (
        "An app's card is no forwarded message.", [ignored(key=f"msg:T0SHOP:D0RITA:{TS}")],
    ),
    "im__without_a_channel": ("Nowhere to answer.", [ignored("slack:T0SHOP")]),
    "im__only_a_broadcast": ("Nothing is left: never answered.", [ignored(key=f"msg:T0SHOP:D0RITA:{TS}")]),
    "im__emoji_name": ("👍 by name, in her skin's tone.", [rating("reaction", "+1::skin-tone-3")]),
    "im__emoji_itself": ("👎 itself.", [rating("reaction", "👎")]),
    "im__custom_emoji_first": ("The first emoji that says something counts.", [rating("reaction", "tada")]),
    "im__stars": ("Four of five.", [rating("stars", "4/5")]),
    "im__sentence_with_emoji_name": ("A sentence is no rating.", [direct("obrigada :pray:")]),
    "mention__as_app_mention": (
        "She asks in the channel; the answer comes in a thread below.", [public("qual o ramal do RH?", mention=True)],
    ),
    "mention__as_message": (
        "The same mention a second time, with another event id: the same key.",
        [public("qual o ramal do RH?", mention=True)],
    ),
    "mention__in_a_thread": (
        "A mention inside a thread is answered there.", [public("e o do TI, ?", mention=True, thread=THREAD)],
    ),
    "mention__nothing_else": (
        "Our name and nothing else: never answered.",
        [ignored(f"{CHANNEL}:{TS}", f"msg:T0SHOP:C0GERAL:{TS}")],
    ),
    "mention__with_a_thumb": ("👎, said to us by name.", [rating("reaction", "thumbsdown", lane=f"{CHANNEL}:{TS}")]),
    "talk__beside_us": ("Not for us.", [public("Alguém viu a chave do depósito?")]),
    "talk__in_a_thread": ("For us only if the thread is ours.", [public("Achei!", thread=THREAD)]),
    "talk__to_somebody_else": ("For Beto.", [public("e você?")]),
    "talk__thread_broadcast": (
        "From a thread, shown to the whole channel.", [public("Resolvido, obrigado", thread=THREAD)],
    ),
    "talk__in_a_private_group": ("A group is no private talk with us.", [public("Bom dia", channel="G0GRUPO")]),
    "file__with_text": ("She asks about a file.", [direct("Posso reembolsar isto?", attachments=FILE)]),
    "file__without_text": ("She is asked to write.", [direct("", kind="document", attachments=FILE)]),
    "edit": (
        "She changed her question; it is not answered twice.",
        [("edit", DM, "EVENT", edited("Quantos dias de férias a Ana tem?", "1795000100.000000"))],
    ),
    "edit__that_names_us": ("She named us afterwards: still an edit.", [ignored(CHANNEL)]),
    "edit__link_unfurled": ("Slack showed a link's preview.", [ignored()]),
    "edit__our_own_stream": ("Our own answer grew.", [ignored()]),
    "delete__with_a_thread_below": (
        "She deleted it, and Slack left a tombstone.",
        [("delete", DM, "EVENT", edited(None, "1795000100.000200"))],
    ),
    "delete": ("She deleted it.", [("delete", DM, "EVENT", edited(None, "1795000100.000300"))]),
    "bot__another_one": ("Two bots do not talk to one another.", [ignored(CHANNEL)]),
    "bot__classic": ("Nor with an old one, which has no user.", [ignored(CHANNEL)]),
    "bot__ourselves": ("Nor with ourselves.", [ignored()]),
    "bot__ourselves_without_a_bot_id": ("Nor with ourselves, by our user id alone.", [ignored()]),
    "bot__with_its_profile_alone": ("Nor with a bot that is known by its profile.", [ignored()]),
    "bot__slack_itself": ("Nor with Slack, which has no bot id.", [ignored()]),
    "bot__slackbot": ("Nor with Slackbot.", [ignored()]),
    "subtype__somebody_joined": ("Somebody joined.", [ignored(CHANNEL)]),
    "subtype__me_message": ("She waves.", [ignored()]),
    "subtype__new_kind": ("Whatever comes next year.", [ignored()]),
    "reaction_added": ("👍 under our answer.", [reaction("+1")]),
    "reaction_added__alias_and_skin_tone": ("👎, by its other name.", [reaction("thumbsdown::skin-tone-4")]),
    "reaction_added__custom_emoji": ("The company's own emoji.", [reaction("blob_wave")]),
    "reaction_added__by_a_second_person": ("Beto agrees.", [reaction("heart", user="U0BETO")]),
    "reaction_added__without_item_user": ("🎉", [reaction("tada")]),
    "reaction_removed": ("The 👍 is gone.", [reaction("+1", op="remove")]),
    "reaction_added__to_a_file": ("A thumb for a file is not for us.", [ignored("slack:T0SHOP")]),
    "reaction_added__our_own_seed": ("Our own thumb does not count.", [ignored("slack:T0SHOP")]),
    "reaction_added__by_slack": ("Nor does Slack's.", [ignored("slack:T0SHOP")]),
    "click__feedback_up": ("👍 to exactly that answer.", [button("up")]),
    "click__feedback_down": (
        "👎 to exactly that answer, and a form that asks what was wrong.",
        [button("down"), asked("form", "form:T0SHOP:U0RITA:1795000300.000500", answer=ANSWER, **clicked())],
    ),
    "click__two_actions": (
        "Two clicks in one request.",
        [
            button("up", "1795000300.000501"), button("down", "1795000300.000502"),
            asked("form", "form:T0SHOP:U0RITA:1795000300.000502", answer=ANSWER, **clicked()),
        ],
    ),
    "click__ephemeral": (
        "From a message only she sees.",
        [button("down"), asked("form", "form:T0SHOP:U0RITA:1795000300.000500", answer=ANSWER, **clicked())],
    ),
    "click__another_button": ("Not ours.", [ignored(key="action:T0SHOP:U0RITA:1795000300.000500")]),
    "click__icon_button": ("Not a rating.", [ignored(key="action:T0SHOP:U0RITA:1795000300.000500")]),
    "click__no_actions": ("A click on nothing.", [ignored("slack:T0SHOP", "other:")]),
    "click__review_approve": ("A reviewer approves.", [reviewed("approve", "1795000600.000700")]),
    "click__review_correct": ("A reviewer wants to correct.", [reviewed("correct", "1795000600.000701")]),
    "click__review_unknown_verdict": (
        "No verdict of ours.", [ignored("slack:T0SHOP:C0REVISAO", "action:T0SHOP:U0RITA:1795000600.000702")],
    ),
    "view__correction": (
        "A reviewer's correction.",
        [
            asked(
                "correction", "view:V0CORRECTION:1795000400.abc", item=ITEM, corrected="São 30 dias por ano.",
                comment="", channel="C0REVISAO",
            )
        ],
    ),
    "click__handover_reply": ("Somebody of the team wants to answer.", [attended("reply", "1795000600.000801")]),
    "click__handover_return": ("The bot may go on.", [attended("return", "1795000600.000802")]),
    "view__reply": (
        "What the team answers.",
        [
            asked(
                "reply", "view:V0REPLY:1795000400.abc", handover=HANDOVER, channel="C0EQUIPE",
                text="Bom dia! Sou a Rita, já estou vendo.",
            )
        ],
    ),
    "view__feedback_comment": ("What she missed.", [said_in_form("V0COMMENT", "comment", "Faltou o prazo")]),
    "view__feedback_problem": ("A problem, without words.", [said_in_form("V0PROBLEM", "flag", None)]),
    "view__feedback_problem_with_comment": ("A problem, and which.", [said_in_form("V0BOTH", "flag", "Preço de 2024")]),
    "view__feedback_from_the_menu": (
        "A comment on an answer from further up.", [said_in_form("V0MENU", "comment", "Mudou em março", answer=None)],
    ),
    "view__feedback_left_empty": (
        "She sent it without a word.", [ignored("slack:T0SHOP", "view:V0EMPTY:1795000400.abc")],
    ),
    "view__feedback_about_nothing": (
        "About no answer of ours.", [ignored("slack:T0SHOP", "view:V0LOST:1795000400.abc")],
    ),
    "view__of_another_app": ("Not our form.", [ignored("slack:T0SHOP", "view:V0OTHER:1795000400.abc")]),
    "view__closed": ("A form was closed.", [ignored("slack:T0SHOP", "other:")]),
    "shortcut__of_a_message": ("A shortcut of another app.", [ignored("slack:T0SHOP", "shortcut:1.2.ghi")]),
    "shortcut__comment_an_answer": (
        "A form about the answer she chose.",
        [asked("form", "shortcut:1.2.shortcut", target=OURS, **clicked(trigger="1.2.shortcut"))],
    ),
    "command": ("An operator looks at a rollout.", [commanded("1.2.jkl", "status")]),
    "command__blank": ("Nothing but the command: help.", [commanded("1.2.pqr", "")]),
    "command__of_another_kind": ("Not ours.", [ignored("slack:T0SHOP", "command:1.2.mno")]),
    "app_home_opened": (
        "She opened our page: she is shown what she could ask.",
        [asked("opened", "EVENT", channel="D0RITA", thread_ts=None)],
    ),
    "app_home_opened__home_tab": ("She looks at our other page.", [ignored()]),
    "app_context_changed": ("She looks at something else.", [ignored()]),
    "assistant_thread_started": (
        "The old way to open us: shown in that thread.",
        [asked("opened", "EVENT", channel="D0RITA", thread_ts=THREAD)],
    ),
    "tokens_revoked": ("We were thrown out.", [asked("removed", "EVENT", user="", at=1795000000)]),
    "tokens_revoked__of_a_person": ("A person's token: none of ours.", [ignored("slack:T0SHOP")]),
    "app_uninstalled": ("We are gone.", [asked("removed", "EVENT", user="", at=1795000000)]),
    "connect__team_id_of_the_other_side": (
        "A partner asks in a shared channel: still our workspace.",
        [public("posso ajudar?", mention=True, channel="C0PARCEIRO", person=who("U0PARTNER"))],
    ),
    "organisation__event": (
        "Installed for a whole organisation: ids are the organisation's.",
        [somewhere_else(direct("Oi"), "E0ORG")],
    ),
    "organisation__event_without_team": (
        "The same without a team.", [somewhere_else(direct("Oi"), "E0ORG", "1795000000.000900")],
    ),
    "organisation__click": ("The same person clicks.", [button("up", team="E0ORG")]),
    "app_rate_limited": (
        "Too many events: Slack drops some, and operators are told.", [asked("limited", "other:", user="")],
    ),
    "event__missing": ("An envelope without a letter.", [ignored("slack:T0SHOP")]),
    "event__of_no_type": ("Of no type.", [ignored("slack:T0SHOP")]),
    "event__type_is_no_string": ("Of a type that is no word.", [ignored()]),
    "event__authorizations_are_none": (
        "The envelope's own team stands in.",
        [somewhere_else(direct("Oi, tudo bem?"), "T0SHOP", "1795000000.000901")],
    ),
}  # fmt: skip
HANDSHAKES = {"url_verification", "certificate_check"}  # answered by bolt at the door; nothing is stored


def test_every_fixture_has_a_case() -> None:
    assert {path.stem for path in FIXTURES.iterdir()} == set(CASES) | HANDSHAKES


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of(name: str) -> None:
    seen, expected = CASES[name]
    body = load(name)
    found: list[Item] = []
    for item in split(body):
        key = "other:" if item.external_id.startswith("other:") else item.external_id
        key = "EVENT" if key == body.get("event_id") else key
        found.append((item.kind, item.lane, key, read(item.kind, clean_payload(item.payload))))
    assert found == expected, seen


def test_one_mention_delivered_twice_is_one_message() -> None:
    """message.channels and app_mention: two event ids, one ts."""
    first, second = load("mention__as_app_mention"), load("mention__as_message")
    assert first["event_id"] != second["event_id"]
    assert split(first)[0].external_id == split(second)[0].external_id


def test_talk_that_came_before_its_mention_is_known_does_not_hide_it() -> None:
    """Without our id in `authorizations` a mention looks like talk beside us: it must not take the mention's key."""
    beside = load("mention__as_message") | {"authorizations": []}
    assert split(beside)[0].external_id != split(load("mention__as_app_mention"))[0].external_id


def test_an_event_without_an_id_is_stored_once() -> None:
    body = {name: value for name, value in load("app_home_opened").items() if name != "event_id"}
    assert split(body) == split(dict(reversed(body.items())))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TYPES = ["message", "app_mention", "reaction_added", "reaction_removed", "app_home_opened"]
SUBTYPES = ["message_changed", "message_deleted", "file_share", "bot_message"]
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | ANYTHING},
    optional={
        "subtype": st.sampled_from(SUBTYPES) | ANYTHING,
        **{
            name: ANYTHING
            for name in "user text ts channel channel_type thread_ts files message previous_message item reaction"
            " deleted_ts bot_id event_ts".split()
        },
    },
)
BODIES = st.fixed_dictionaries(
    {"type": st.sampled_from(["event_callback", "block_actions", "view_submission"]) | ANYTHING},
    optional={
        "event": EVENTS | ANYTHING,
        "actions": st.lists(st.fixed_dictionaries({"value": ANYTHING, "action_ts": ANYTHING}), max_size=2) | ANYTHING,
        **{
            name: ANYTHING
            for name in "event_id team team_id user channel container view authorizations enterprise command trigger_id"
            " is_enterprise_install".split()
        },
    },
)


@given(BODIES | st.dictionaries(st.text(max_size=6), ANYTHING, max_size=3))
def test_no_request_is_too_strange_to_be_split_and_read(body: dict[str, Any]) -> None:
    items = split(body)
    assert items
    for item in items:
        inbound = read(item.kind, clean_payload(item.payload))
        assert inbound is not None or item.kind == "ignored"
