"""Who is answered in Slack, how often, and what a reaction to any part of it does."""

from typing import Any

import pytest
from factories import make_answer, make_conversation
from servers import ScriptedModel
from sqlalchemy import select
from street import Street
from workspace import Workspace

from bot import jobs
from bot.wiring import Awake
from core.db import transaction
from core.tables import Feedback, OutboxItem
from core.text import split_text


def stands(awake: Awake) -> list[tuple[str, str]]:
    with transaction(awake.engine) as session:
        current = select(Feedback).where(Feedback.superseded_at.is_(None)).order_by(Feedback.id)
        return [(one.raw, one.polarity) for one in session.scalars(current)]


def test_one_mention_delivered_twice_is_answered_once(work: Workspace) -> None:
    for name in ("mention__as_message", "mention__as_app_mention", "mention__as_app_mention"):
        work.does(name)
    (answer,) = work.vendors.sent
    assert (answer["to"], answer["thread"]) == ("C0GERAL", "1795000000.000100")


@pytest.mark.parametrize(
    "name",
    [
        "bot__another_one", "bot__classic", "bot__ourselves", "bot__slack_itself", "bot__slackbot", "talk__beside_us",
        "talk__to_somebody_else", "im__blank", "im__only_a_broadcast", "edit", "delete", "reaction_added",
        "reaction_removed", "mention__nothing_else", "edit__our_own_stream", "subtype__somebody_joined",
        "app_home_opened__home_tab",
    ],
)  # fmt: skip
def test_nobody_is_answered(work: Workspace, model: ScriptedModel, name: str) -> None:
    work.does(name)
    assert work.vendors.sent == []
    assert model.asked == [], "the model was not even woken"


def test_a_follow_up_in_our_thread_needs_no_name(work: Workspace, street: Street) -> None:
    public = {"channel": "C0GERAL", "channel_type": "channel"}
    street.answer(street.slack("<@U0SIMBOT> que dia fecha?", ts="1795000000.000100", **public))
    street.answer(street.slack("e amanhã?", thread_ts="1795000000.000100", **public))
    street.answer(street.slack("e você?", user="U0BETO", **public))
    assert [answer["thread"] for answer in work.vendors.sent] == ["1795000000.000100"] * 2


class TestALongAnswer:
    @pytest.fixture
    def parts(self, awake: Awake, vendors: Any) -> list[dict[str, Any]]:
        """25,000 characters, with what Slack would read as calls to people in it."""
        text = "Uma frase bem comum sobre <!here> férias & folgas. " * 490
        with transaction(awake.engine) as session:
            there = {"channel": "D0RITA", "team": "T0SHOP"}
            answer = make_answer(session, make_conversation(session, channel="slack", lane="slack:x", address=there))
            pieces = split_text(text, awake.channels["slack"].max_text)
            for number, piece in enumerate(pieces, 1):
                buttons = [["fb:1:up", "👍"], ["fb:1:down", "👎"]] if number == len(pieces) else []
                payload = {"address": there, "text": piece, "buttons": buttons}
                session.add(
                    OutboxItem(
                        message_id=answer.id, conversation_id=answer.conversation_id, part=number, parts=len(pieces),
                        channel="slack", lane="slack:x", payload=payload,
                    )
                )  # fmt: skip
        jobs.send("slack:x")
        return list(vendors.sent)

    def test_comes_in_parts_that_slack_takes(self, parts: list[dict[str, Any]], street: Street) -> None:
        assert len(parts) == 3
        for part in parts:
            (markdown, *buttons) = part["blocks"]
            assert markdown["type"] == "markdown" and len(markdown["text"]) <= 12_000
            assert len(str(part["blocks"])) <= 13_200
            assert "<!here>" not in part["text"] + markdown["text"]
            assert bool(buttons) == (part is parts[-1]), "the thumbs stand under the last one"
        assert [row.provider_message_id for row in street.outbox()] == [part["id"] for part in parts]

    def test_a_reaction_to_any_of_them_is_about_the_whole(
        self, parts: list[dict[str, Any]], work: Workspace, awake: Awake
    ) -> None:
        work.does("reaction_added__alias_and_skin_tone", target=parts[1]["ts"])
        assert stands(awake) == [("thumbsdown::skin-tone-4", "negative")]
        work.does("reaction_added", target=parts[2]["ts"])
        assert [polarity for _, polarity in stands(awake)] == ["positive"]

    def test_too_much_for_blocks_goes_as_text(self, street: Street, vendors: Any) -> None:
        vendors.fault("slack", "refuse", method="chat.postMessage", code="msg_blocks_too_long")
        street.answer(street.slack("Oi?", user="U0RITA", channel="D0RITA"))
        (sent,) = vendors.sent
        assert (sent["blocks"], [row.state for row in street.outbox()]) == (None, ["sent"])


def test_what_is_edited_or_deleted_is_not_answered_again_and_not_learned_from(work: Workspace, street: Street) -> None:
    work.does("im")
    work.does("edit")
    (asked,) = street.messages("in")
    assert (asked.text, asked.edited_at is not None) == ("Quantos dias de férias a Ana tem?", True)
    work.does("delete")
    (asked,) = street.messages("in")
    assert (asked.text, asked.consent, asked.deleted_at is not None) == ("", False, True)
    assert len(work.vendors.sent) == 1


@pytest.mark.parametrize("allowed", [False, True])
def test_slack_is_learned_from_only_where_its_setting_allows(
    work: Workspace, street: Street, awake: Awake, allowed: bool
) -> None:
    awake.settings.slack_learning = allowed
    work.does("im")
    assert {message.consent for message in street.messages()} == {allowed}
    assert "aprender" not in work.vendors.texts()[0], "employees are not asked: the operator answers for it"


def test_who_says_do_not_train_is_not_learned_from_not_even_in_a_colleagues_thread(
    street: Street, awake: Awake
) -> None:
    awake.settings.slack_learning = True
    public = {"channel": "C0GERAL", "channel_type": "channel", "thread_ts": "1795000000.000100"}
    for user, said in [("U0RITA", "que dia fecha?"), ("U0BETO", "não treinar"), ("U0BETO", "e a minha folga?")]:
        street.answer(street.slack(f"<@U0SIMBOT> {said}", user=user, **public))
    asked = {message.text: message for message in street.messages("in")}
    rita, beto = asked["que dia fecha?"], asked["e a minha folga?"]
    assert rita.consent and not beto.consent
    assert rita.conversation_id == beto.conversation_id and rita.customer_id != beto.customer_id
    answers = {message.in_reply_to: message for message in street.messages("out")}
    assert (answers[beto.id].customer_id, answers[beto.id].consent) == (beto.customer_id, False)


def test_a_thumb_of_a_colleague_in_the_thread_is_about_what_they_were_told(street: Street, awake: Awake) -> None:
    public = {"channel": "C0GERAL", "channel_type": "channel", "thread_ts": "1795000000.000100"}
    for user in ("U0RITA", "U0BETO"):
        street.answer(street.slack("<@U0SIMBOT> que dia fecha?", user=user, **public))
    jobs.read_signals(street.slack(":-1:", user="U0BETO", **public))
    assert stands(awake) == [("-1", "negative")]
