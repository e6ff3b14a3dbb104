"""One chat turn, end to end: a row of the ledger, a scripted model, the fake vendors."""

import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import BoundedSemaphore
from threading import Event as Gate
from typing import Any

import pytest
from channels import ScriptedChannel
from factories import make_version
from servers import ScriptedModel
from sqlalchemy import select, update
from street import ANA, RUI, Street
from together import in_threads

from bot import chat, guardrails, jobs, outbox, people
from bot.lanes import LeaseLost, lease
from bot.rollout_line import start
from bot.wiring import MOST_TYPING, Awake
from core import knowledge
from core.db import transaction
from core.errors import Unavailable, VendorUnavailable
from core.messages import Identifier, InboundMessage, Person
from core.registry import FolderStore
from core.rollouts import Plan, Stage
from core.tables import (
    AnnotationItem,
    Assignment,
    Conversation,
    Customer,
    Event,
    InboundEvent,
    Lane,
    Message,
    OutboxItem,
    TrainingExample,
    now,
)
from integrations.redis.queue import connect

QUESTION = people.CONSENT_QUESTION["pt"]


@pytest.fixture(autouse=True)
def _plain_answers(model: ScriptedModel) -> None:
    """Without the figures of the question, so that no guard has a say."""
    model.say = lambda name, question: f"Resposta de {name}."


class TestOneMessage:
    def test_it_is_answered_once(self, street: Street, vendors: Any) -> None:
        street.says("Qual colchão vocês indicam?")
        assert vendors.texts() == ["Resposta de base-model.", QUESTION]
        (asked,) = street.messages("in")
        answer, consent = street.messages("out")
        assert (asked.text, asked.role, asked.channel) == ("Qual colchão vocês indicam?", "customer", "meta")
        assert (answer.text, answer.in_reply_to, answer.version, answer.role) == (
            "Resposta de base-model.",
            asked.id,
            "base",
            "bot",
        )
        assert answer.latency_ms is not None
        assert answer.first_token_ms is not None
        assert (answer.prompt_tokens, answer.completion_tokens) == (10, 3)
        assert (consent.kind, consent.in_reply_to) == ("consent", None)
        (event,) = street.events()
        assert (event.outcome, event.error) == (f"answered:{answer.id}", None)

    def test_through_every_channel(self, street: Street, vendors: Any) -> None:
        street.answer(street.twilio("Oi, vocês entregam?"))
        street.answer(street.meta("Oi, vocês entregam?", sender=RUI))
        street.answer(street.slack("Qual é o prazo de troca?"))
        street.answer(street.web("Oi"))
        assert [entry["vendor"] for entry in vendors.sent] == ["twilio", "twilio", "meta", "meta", "slack"]
        assert {row.channel: row.state for row in street.outbox()} == dict.fromkeys(
            ("twilio", "meta", "slack", "web"), "sent"
        )

    def test_buttons_stand_under_the_answer_alone(self, street: Street, vendors: Any) -> None:
        street.says("Qual colchão?")
        answer = street.messages("out")[0]
        verdicts = ("up", "down", "problem")
        assert vendors.sent[0]["buttons"] == [f"fb:{answer.id}:{verdict}" for verdict in verdicts]
        assert vendors.sent[1]["buttons"] == []

    def test_a_long_answer_goes_in_parts(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        awake.channels["meta"] = channel = ScriptedChannel(max_text=60)
        model.say = lambda *_: "Temos modelos de solteiro. Temos modelos de casal. Temos modelos king e queen."
        street.says("Quais modelos?")
        assert channel.texts()[:2] == [
            "Temos modelos de solteiro. Temos modelos de casal.",
            "Temos modelos king e queen.",
        ]
        assert [bool(sent.buttons) for sent in channel.sends[:2]] == [False, True]

    def test_what_was_looked_up_is_shown_to_the_model_and_kept(
        self, awake: Awake, street: Street, model: ScriptedModel
    ) -> None:
        with transaction(awake.engine) as session:
            (passage,) = knowledge.add(
                session, context="customers", language="pt", text="O colchão Cumbuco de casal custa R$ 1.899,00."
            )
        street.says("Quanto custa o Cumbuco de casal?")
        assert "R$ 1.899,00" in model.asked[0]["messages"][-1]["content"]
        answer = street.messages("out")[0]
        assert answer.memories == [str(passage)]
        assert answer.route["passages"] == ["O colchão Cumbuco de casal custa R$ 1.899,00."]

    def test_a_greeting_is_not_looked_up(self, street: Street, model: ScriptedModel) -> None:
        street.says("Oi, bom dia!")
        assert model.asked[0]["messages"][-1]["content"] == "Oi, bom dia!"

    def test_the_model_sees_the_last_turns(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        for text in ("Vocês têm colchão?", "E o de casal?", "Qual o prazo de entrega?", "Aceita boleto?"):
            street.says(text)
        seen = model.asked[-1]["messages"]
        assert [m["content"] for m in seen if m["role"] == "user"][:-1] == ["E o de casal?", "Qual o prazo de entrega?"]
        assert [m["role"] for m in seen] == ["system", "user", "assistant", "user", "assistant", "user"]

    def test_after_a_day_of_silence_a_new_conversation_begins(
        self, awake: Awake, street: Street, model: ScriptedModel
    ) -> None:
        street.says("Vocês têm colchão?")
        with transaction(awake.engine) as session:
            session.execute(update(Conversation).values(last_message_at=now() - timedelta(hours=25)))
        street.says("Aceita boleto?")
        assert len(model.asked[-1]["messages"]) == 2
        with transaction(awake.engine) as session:
            assert len(session.scalars(select(Conversation)).all()) == 2
            assert len(session.scalars(select(Customer)).all()) == 1

    def test_english_is_answered_in_english(self, street: Street, model: ScriptedModel, vendors: Any) -> None:
        street.says("What is the price of the mattress?")
        assert "Answer in at most two sentences" in model.asked[0]["messages"][0]["content"]
        assert vendors.texts()[1] == people.CONSENT_QUESTION["en"]

    def test_a_megabyte_of_text(self, street: Street, vendors: Any) -> None:
        """Through a channel that takes it: it is bounded, answered once, and harms nobody."""
        street.answer(street.web("Quanto custa? " * 75_000))
        assert len(street.messages("in")[0].text) <= 8_000
        assert [row.state for row in street.outbox()] == ["sent", "sent"]

    def test_nul_is_no_obstacle(self, street: Street, vendors: Any) -> None:
        street.says("Quanto\x00 custa?\x00")
        assert street.messages("in")[0].text == "Quanto custa?"
        assert len(vendors.sent) == 2

    def test_a_repeat_of_the_vendor_under_another_key(self, awake: Awake, street: Street, vendors: Any) -> None:
        """The same message id in a second row (two webhooks pointed at us): one answer."""
        lane = street.meta({"id": "wamid.same", "type": "text", "text": {"body": "Oi"}})
        street.answer(lane)
        with transaction(awake.engine) as session:
            first = session.scalars(select(InboundEvent)).one()
            again = InboundEvent(
                source="meta", external_id="another", kind="message", lane=lane, payload=dict(first.payload)
            )
            session.add(again)
        street.answer(lane)
        assert [event.outcome for event in street.events()][1] == "repeat"
        assert len(vendors.sent) == 2


class TestTwice:
    """Every job may run twice, or on two workers at once."""

    def test_the_same_job_again(self, street: Street, vendors: Any, model: ScriptedModel) -> None:
        lane = street.meta("Qual colchão?")
        for _ in range(3):
            street.answer(lane)
        assert len(vendors.sent) == 2
        assert len(model.asked) == 1

    def test_six_workers_at_once(self, street: Street, vendors: Any, model: ScriptedModel) -> None:
        model.delay = 0.2
        lane = street.meta("Qual colchão?")
        in_threads(lambda _: street.answer(lane), 6)
        street.answer(lane)
        assert len(model.asked) == 1
        assert vendors.texts() == ["Resposta de base-model.", QUESTION]

    def test_messages_of_one_person_are_answered_in_order(
        self, street: Street, vendors: Any, model: ScriptedModel
    ) -> None:
        model.say = lambda _, question: f"Eco: {question.split()[-1]}"
        texts = [f"Pergunta sobre {word}" for word in ("espuma", "molas", "entrega", "garantia")]
        for text in texts:
            lane = street.meta(text)
        in_threads(lambda _: street.answer(lane), 4)
        street.answer(lane)
        said = [text for text in vendors.texts() if text != QUESTION]
        assert said == ["Eco: espuma", "Eco: molas", "Eco: entrega", "Eco: garantia"]

    def test_order_is_kept_when_the_first_has_to_wait(
        self, awake: Awake, street: Street, vendors: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lane = street.meta("primeira")
        street.meta("segunda")
        real = chat.take_turn

        def stumble(awake: Awake, event_id: int, message: Any, held: Any, before: Any) -> None:
            if message.text == "primeira":
                raise RuntimeError("something is wrong for a moment")
            real(awake, event_id, message, held, before)

        with monkeypatch.context() as broken:
            broken.setattr(jobs, "take_turn", stumble)
            street.answer(lane)
        first, second = street.events()
        assert (first.attempts, first.handled_at, second.attempts) == (1, None, 0)
        assert first.not_before is not None
        assert "something is wrong" in str(first.error)
        street.answer(lane)
        assert vendors.sent == []  # the first waits for its next try, and the second behind it
        with transaction(awake.engine) as session:
            session.execute(update(InboundEvent).values(not_before=now()))
        street.answer(lane)
        assert [message.text for message in street.messages("in")] == ["primeira", "segunda"]
        assert all(event.handled_at for event in street.events())

    def test_what_never_works_is_given_up_and_the_next_is_answered(
        self, awake: Awake, street: Street, vendors: Any
    ) -> None:
        lane = street.meta("Oi")
        with transaction(awake.engine) as session:
            session.add(InboundEvent(source="pigeon", external_id="1", kind="message", lane=lane, payload={}))
        street.meta("Ainda está aí?")
        for _ in range(jobs.MAX_ATTEMPTS):
            street.answer(lane)
            with transaction(awake.engine) as session:
                session.execute(update(InboundEvent).values(not_before=now()))
        street.answer(lane)
        assert [event.outcome and event.outcome.split(":")[0] for event in street.events()] == [
            "answered",
            "given up",
            "answered",
        ]


class _Died(BaseException):
    """The worker's process is gone: nothing of ours catches this."""


class TestDyingWorker:
    """Wherever a worker dies, in the end the vendor has one answer, and the customer one conversation."""

    def die_in(
        self, street: Street, lane: str, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *, after: bool
    ) -> None:
        """Run the job and end it before or after a function; its lease runs out."""
        real = getattr(module, name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            if after:
                real(*args, **kwargs)
            raise _Died

        with monkeypatch.context() as patch:
            patch.setattr(module, name, dying)
            patch.setattr(
                "bot.lanes._RELEASE", chat.select(Lane).where(Lane.lane == "nobody's")
            )  # a dead one releases nothing
            with pytest.raises(_Died):
                street.answer(lane)
        with transaction(street.awake.engine) as session:
            session.execute(update(Lane).values(leased_until=now() - timedelta(seconds=1)))

    @pytest.mark.parametrize(
        ("module", "name", "after", "asked"),
        [
            (chat, "receive", True, 1),
            (chat, "generate", True, 2),
            (chat, "save", False, 2),
            (chat, "save", True, 1),
            (outbox, "_act", False, 1),
            (outbox, "_sent", False, 1),
            (outbox, "_sent", True, 1),
        ],
        ids=["message saved", "model asked", "not saved", "saved", "claimed", "vendor accepted", "noted as sent"],
    )
    @pytest.mark.parametrize("channel", ["twilio", "slack"])
    def test_one_answer_in_the_end(
        self, street: Street, vendors: Any, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch,
        module: Any, name: str, after: bool, asked: int, channel: str,
    ) -> None:  # fmt: skip
        lane = street.twilio("Qual colchão?") if channel == "twilio" else street.slack("Qual colchão?")
        self.die_in(street, lane, monkeypatch, module, name, after=after)
        for _ in range(2):
            street.answer(lane)
        expected = ["Resposta de base-model.", *([QUESTION] if channel == "twilio" else [])]
        assert vendors.texts() == expected
        assert [row.state for row in street.outbox()] == ["sent"] * len(expected)
        assert len(street.messages("in")) == 1
        assert len(model.asked) == asked

    def test_meta_cannot_be_asked_so_its_status_tells(
        self, street: Street, vendors: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from core.messages import InboundStatus

        lane = street.meta("Qual colchão?")
        self.die_in(street, lane, monkeypatch, outbox, "_sent", after=False)
        street.answer(lane)
        first = street.outbox()[0]
        # The question of consent behind it did not wait; the answer itself is in the vendor's hands once.
        assert (first.state, [entry["ours"] == str(first.id) for entry in vendors.sent]) == ("unknown", [True, False])
        with transaction(street.awake.engine) as session:
            status = InboundStatus("meta", vendors.sent[0]["id"], "sent", our_id=str(first.id))
            outbox.record_status(street.awake, session, status)
        street.answer(lane)
        assert vendors.texts() == ["Resposta de base-model.", QUESTION]

    def test_who_was_only_slow_writes_nothing_any_more(
        self, awake: Awake, street: Street, vendors: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped in the model call for longer than its lease: another worker answers, the first is refused."""
        lane = street.twilio("Qual colchão?")
        real = awake.models.reply
        calls: list[Any] = []

        def slow(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == 1:
                awake.heartbeat.held.clear()
                with transaction(awake.engine) as session:
                    session.execute(update(Lane).values(leased_until=now() - timedelta(seconds=1)))
                street.answer(lane)
            return real(*args, **kwargs)

        monkeypatch.setattr(awake.models, "reply", slow)
        street.answer(lane)
        assert len(calls) == 2
        assert vendors.texts() == ["Resposta de base-model.", QUESTION]
        assert len(street.messages("out")) == 2


class TestChainOfModels:
    @pytest.fixture
    def rollout(self, awake: Awake, tmp_path: Any) -> Any:
        """A canary that gets (almost) everybody, over a champion."""
        store = FolderStore(awake.settings.data_dir / "adapters")
        with transaction(awake.engine) as session:
            champion = make_version(session, store=store, folder=tmp_path / "a", champion=True)
            canary = make_version(session, store=store, folder=tmp_path / "b")
            plan = Plan("all", (Stage(0.999999, 30, 0.0, 0.15),), epoch="stage")
            return start(session, canary.name, plan, actor="test"), champion.name, canary.name

    def test_the_version_that_is_routed_answers(self, street: Street, rollout: Any, model: ScriptedModel) -> None:
        _, _, canary = rollout
        street.says("Qual colchão?")
        answer = street.messages("out")[0]
        assert (answer.version, answer.arm, answer.rollout_id) == (canary, "challenger", rollout[0].id)
        assert answer.assignment_probability == pytest.approx(0.999999)
        assert canary in model.loaded

    def test_a_failing_canary_is_answered_by_the_champion_in_the_same_job(
        self, awake: Awake, street: Street, rollout: Any, model: ScriptedModel, vendors: Any
    ) -> None:
        _, champion, canary = rollout
        model.failing = {canary}
        street.says("Qual colchão?")
        assert vendors.texts()[0] == f"Resposta de {champion}."
        answer = street.messages("out")[0]
        assert (answer.version, answer.arm) == (champion, None)
        assert len(answer.route["failures"]) == 1
        assert canary in answer.route["failures"][0]
        with transaction(awake.engine) as session:
            unit = session.scalars(select(Assignment)).one()
            assert (unit.arm, unit.served, unit.failed) == ("challenger", 1, 1)

    def test_an_answer_that_worked_counts_no_failure(self, awake: Awake, street: Street, rollout: Any) -> None:
        street.says("Qual colchão?")
        street.says("E o de casal?")
        with transaction(awake.engine) as session:
            unit = session.scalars(select(Assignment)).one()
            assert (unit.served, unit.failed) == (2, 0)

    def test_files_that_changed_are_never_loaded(
        self, awake: Awake, street: Street, rollout: Any, model: ScriptedModel
    ) -> None:
        _, champion, canary = rollout
        for weights in (awake.settings.data_dir / "adapters").rglob("adapter_model.safetensors"):
            weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
        street.says("Qual colchão?")
        answer = street.messages("out")[0]
        assert (answer.version, model.loaded) == ("base", [])
        assert len(answer.route["failures"]) == 2

    def test_a_model_server_that_forgot_is_told_again(self, street: Street, rollout: Any, model: ScriptedModel) -> None:
        street.says("Qual colchão?")
        model.loaded.clear()
        street.says("E o de casal?")
        assert [m.version for m in street.messages("out") if m.kind == "text"] == [rollout[2]] * 2

    def test_base_and_then_fallbacks(
        self, awake: Awake, street: Street, model: ScriptedModel, vendors: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from integrations.openai.model import Server

        model.failing = {"base-model"}
        model.loaded = ["rescuer"]
        monkeypatch.setattr(awake.models, "outside", [(Server("http://127.0.0.1:9/v1"), "nobody"),
                                                      (awake.models.server, "rescuer")])  # fmt: skip
        street.says("Qual colchão?")
        assert vendors.texts()[0] == "Resposta de rescuer."
        answer = street.messages("out")[0]
        assert (answer.version, len(answer.route["failures"])) == ("rescuer", 2)

    def test_all_fail_and_the_customer_is_not_left_without_a_word(
        self, street: Street, model: ScriptedModel, vendors: Any
    ) -> None:
        model.failing = {"base-model"}
        street.says("Qual colchão?")
        assert vendors.texts()[0] == guardrails.TROUBLE["pt"]
        answer = street.messages("out")[0]
        assert (answer.version, answer.route["flags"]) == (None, ["no_model"])

    def test_a_model_server_that_is_away(self, awake: Awake, street: Street, vendors: Any) -> None:
        from integrations.openai.model import Server

        awake.models.server = Server("http://127.0.0.1:9/v1")
        street.says("Qual colchão?")
        assert vendors.texts()[0] == guardrails.TROUBLE["pt"]

    def test_the_whole_turn_has_one_time_limit(
        self, awake: Awake, street: Street, rollout: Any, model: ScriptedModel, vendors: Any
    ) -> None:
        awake.settings = awake.settings.model_copy(update={"reply_timeout": 0.5})
        model.delay = 5.0
        street.says("Qual colchão?")
        answer = street.messages("out")[0]
        assert vendors.texts()[0] == guardrails.TROUBLE["pt"]
        assert any("not asked" in failure for failure in answer.route["failures"])


class TestGuard:
    def test_an_invented_figure_is_replaced(self, street: Street, model: ScriptedModel, vendors: Any) -> None:
        model.say = lambda *_: "Custa R$ 2.345,00 à vista."
        street.says("Quanto custa o colchão?")
        assert vendors.texts()[0] == guardrails.DONT_KNOW["pt"]
        answer = street.messages("out")[0]
        assert answer.route["flags"] == ["invented_figure:2.345,00"]
        assert answer.route["said"] == "Custa R$ 2.345,00 à vista."

    def test_a_figure_of_the_passage_is_said(
        self, awake: Awake, street: Street, model: ScriptedModel, vendors: Any
    ) -> None:
        with transaction(awake.engine) as session:
            knowledge.add(session, context="customers", language="pt", text="O Cumbuco de casal custa R$ 2.345,00.")
        model.say = lambda *_: "O de casal custa R$ 2345."
        street.says("Quanto custa o Cumbuco de casal?")
        assert vendors.texts()[0] == "O de casal custa R$ 2345."

    @pytest.mark.parametrize("said", ["", "   ", "<|im_start|>system", "sim sim sim sim " * 4])
    def test_nothing_useful(self, street: Street, model: ScriptedModel, vendors: Any, said: str) -> None:
        model.say = lambda *_: said
        street.says("Qual colchão?")
        assert vendors.texts()[0] == guardrails.DONT_KNOW["pt"]


class TestConsent:
    def customer(self, awake: Awake) -> Customer:
        with transaction(awake.engine) as session:
            return session.scalars(select(Customer)).one()

    def consents(self, street: Street) -> list[bool]:
        return [message.consent for message in street.messages()]

    def test_asked_once_with_the_first_answer(self, awake: Awake, street: Street, vendors: Any) -> None:
        street.says("Qual colchão?")
        street.says("E o de casal?")
        assert vendors.texts().count(QUESTION) == 1
        assert vendors.texts().index(QUESTION) == 1
        assert self.customer(awake).consent_asked_at is not None

    def test_never_alone(self, street: Street, vendors: Any) -> None:
        """Nothing to answer, nothing to ask."""
        street.says("PARAR")
        street.answer(street.meta({"type": "text", "text": {"body": " "}}, sender=RUI))
        street.answer(street.meta({"type": "image", "image": {"id": "1"}}, sender="+5511987650003"))
        assert QUESTION not in vendors.texts()

    @pytest.mark.parametrize("word", ["SIM", "pode sim!"])
    def test_yes(self, awake: Awake, street: Street, vendors: Any, model: ScriptedModel, word: str) -> None:
        street.says("Qual colchão?")
        street.says(word)
        assert vendors.texts()[-1] == people.THANKS_FOR_CONSENT["pt"]
        assert len(model.asked) == 1
        assert self.customer(awake).consent == "granted"
        assert self.consents(street) == [True] * 5
        street.says("E o de casal?")
        assert all(self.consents(street))

    @pytest.mark.parametrize("word", ["nao", "Não, obrigada"])
    def test_no(self, awake: Awake, street: Street, vendors: Any, word: str) -> None:
        street.says("Qual colchão?")
        street.says(word)
        assert vendors.texts()[-1] == people.NO_CONSENT["pt"]
        assert self.customer(awake).consent == "denied"
        street.says("E o de casal?")
        assert not any(self.consents(street))

    def test_withdrawn_for_everything_ever_said(self, awake: Awake, street: Street, vendors: Any) -> None:
        for text in ("Qual colchão?", "SIM", "E o de casal?", "NÃO TREINAR"):
            street.says(text)
        assert vendors.texts()[-1] == people.NO_CONSENT["pt"]
        assert self.customer(awake).consent == "denied"
        street.says("E a garantia?")
        assert not any(self.consents(street))

    def test_yes_to_something_else_is_a_question(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        """Asked days ago, or answered before: then it is for the model."""
        street.says("Qual colchão?")
        with transaction(awake.engine) as session:
            session.execute(update(Customer).values(consent_asked_at=now() - timedelta(days=2)))
        street.says("sim")
        assert len(model.asked) == 2
        assert self.customer(awake).consent == "unknown"

    def test_a_sentence_with_yes_in_it_is_no_answer(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        street.says("Qual colchão?")
        street.says("sim, e quanto custa o de casal?")
        assert (len(model.asked), self.customer(awake).consent) == (2, "unknown")

    def test_slack_is_never_asked_and_learned_from_only_by_setting(
        self, awake: Awake, street: Street, vendors: Any
    ) -> None:
        street.answer(street.slack("Qual é o prazo de troca?"))
        assert vendors.texts() == ["Resposta de base-model."]
        assert not any(self.consents(street))
        awake.settings = awake.settings.model_copy(update={"slack_learning": True})
        street.answer(street.slack("E o de devolução?"))
        assert self.consents(street)[-2:] == [True, True]


class TestOptOut:
    def test_nothing_is_sent_until_they_come_back(self, street: Street, vendors: Any, model: ScriptedModel) -> None:
        street.says("Qual colchão?")
        so_far = len(vendors.sent)
        for text in ("PARAR", "oi?", "NÃO", "Quanto custa?"):
            street.says(text)
        assert len(vendors.sent) == so_far
        assert len(model.asked) == 1
        street.says("VOLTAR")
        street.says("Quanto custa?")
        assert len(model.asked) == 2
        assert len(vendors.sent) == so_far + 1

    @pytest.mark.parametrize("word", ["STOP", "START", "HELP"])
    def test_what_twilio_answered_is_not_answered_again(self, street: Street, vendors: Any, word: str) -> None:
        """Also where we did not know that the person had opted out."""
        street.answer(street.twilio("Começar", OptOutType=word))
        assert vendors.sent == []

    def test_what_was_waiting_for_them_is_not_sent_either(self, awake: Awake, street: Street) -> None:
        """The vendor had asked us to wait, and meanwhile the person opted out."""
        awake.channels["meta"] = channel = ScriptedChannel()
        channel.script = [VendorUnavailable("busy", retry_after=60.0)]
        street.says("Qual colchão?")
        street.says("PARAR")
        with transaction(awake.engine) as session:
            session.execute(update(OutboxItem).values(not_before=now() - timedelta(seconds=1)))
        jobs.send(street.outbox()[0].lane)
        assert channel.texts() == []
        assert {row.state for row in street.outbox()} == {"failed"}

    def test_media_and_buttons_of_theirs_are_not_answered(self, street: Street, vendors: Any) -> None:
        street.says("SAIR")
        street.answer(street.meta({"type": "image", "image": {"id": "1"}}))
        assert vendors.sent == []

    def test_what_they_say_is_not_learned_from(self, street: Street) -> None:
        for text in ("Qual colchão?", "SIM", "PARAR", "meu segredo"):
            street.says(text)
        assert street.messages("in")[-1].consent is False

    def test_no_training_counts_for_them_too(self, awake: Awake, street: Street, vendors: Any) -> None:
        for text in ("Qual colchão?", "SIM", "PARAR"):
            street.says(text)
        so_far = len(vendors.sent)
        street.says("NÃO TREINAR")
        with transaction(awake.engine) as session:
            assert session.scalars(select(Customer.consent)).one() == "denied"
        assert len(vendors.sent) == so_far


class TestUnreadable:
    @pytest.mark.parametrize("kind", ["image", "audio", "location", "contacts"])
    def test_media_get_one_canned_sentence(self, street: Street, vendors: Any, model: ScriptedModel, kind: str) -> None:
        content: Any = {"latitude": 1.0, "longitude": 2.0} if kind == "location" else {"id": "1"}
        street.answer(street.meta({"type": kind, kind: [content] if kind == "contacts" else content}))
        assert vendors.texts() == [guardrails.CANNOT_READ["pt"]]
        assert model.asked == []

    def test_a_caption_is_answered(self, street: Street, model: ScriptedModel) -> None:
        street.answer(street.meta({"type": "image", "image": {"id": "1", "caption": "Vocês têm deste?"}}))
        assert "Vocês têm deste?" in model.asked[0]["messages"][-1]["content"]

    @pytest.mark.parametrize(
        ("channel", "said"),
        [("meta", " \n\t"), ("meta", "\u200b\u200d"), ("twilio", ""), ("twilio", "\x00"), ("web", "\x00 ")],
    )
    def test_blank_messages_never_reach_the_model(
        self, street: Street, vendors: Any, model: ScriptedModel, said: str, channel: str
    ) -> None:
        lane: str = getattr(street, channel)(said)
        street.answer(lane)
        assert (model.asked, vendors.sent) == ([], [])
        assert all(event.handled_at for event in street.events())

    def test_edits_and_deletes_are_never_answered(self, street: Street, vendors: Any, model: ScriptedModel) -> None:
        street.answer(street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Quanto custa?"}}))
        so_far = len(vendors.sent)
        edit = {"original_message_id": "wamid.1", "message": {"type": "text", "text": {"body": "Quanto custa o king?"}}}
        street.answer(street.meta({"type": "edit", "edit": edit}))
        assert street.messages("in")[0].text == "Quanto custa o king?"
        assert street.messages("in")[0].edited_at is not None
        street.answer(street.meta({"type": "revoke", "revoke": {"original_message_id": "wamid.1"}}))
        (deleted,) = street.messages("in")
        assert (deleted.text, deleted.consent) == ("", False)
        assert deleted.deleted_at is not None
        assert (len(vendors.sent), len(model.asked)) == (so_far, 1)

    @pytest.mark.parametrize("edited", [False, True])
    def test_what_was_taken_back_is_nowhere(
        self, awake: Awake, street: Street, vendors: Any, model: ScriptedModel, edited: bool
    ) -> None:
        replies = iter(["Não posso guardar isso.", "Custa R$ 10.", "Entregamos."])
        model.say = lambda *_: next(replies)
        street.says({"id": "wamid.1", "type": "text", "text": {"body": "minha senha é abacaxi"}})
        street.says("Quanto custa?")
        answers = [message for message in street.messages("out") if message.kind == "text" and message.version]
        assert "abacaxi" in str(answers[1].route["history"])
        with transaction(awake.engine) as session:
            for answer in answers:
                session.add(
                    AnnotationItem(context="customers", message_id=answer.id, reason="sample", question="abacaxi?",
                                   answer=answer.text, history=answer.route["history"])
                )  # fmt: skip
                session.add(
                    TrainingExample(context="customers", sha256=uuid.uuid4().hex, customer_id=answer.customer_id,
                                    message_id=answer.id, source="feedback", answer=answer.text, split="train",
                                    messages=[{"role": "user", "content": "abacaxi"}], dropped="quarantine: odd")
                )  # fmt: skip
            session.flush()
            session.execute(update(AnnotationItem).where(AnnotationItem.history != []).values(question="Quanto custa?"))
        if edited:
            inner = {"type": "text", "text": {"body": "minha senha era abacaxi"}}
            street.says({"type": "edit", "edit": {"original_message_id": "wamid.1", "message": inner}})
        street.says({"type": "revoke", "revoke": {"original_message_id": "wamid.1"}})
        tables = (Message, InboundEvent, AnnotationItem, TrainingExample, OutboxItem, Event)
        with awake.engine.connect() as connection:
            left = {table.__tablename__: str(connection.execute(select(table.__table__)).all()) for table in tables}
        assert [name for name, rows in left.items() if "abacaxi" in rows] == []
        assert "Quanto custa?" in left["annotation_items"], "the other answer is still looked at"

    def test_a_person_of_the_team_has_taken_over(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        street.says("Qual colchão?")
        with transaction(awake.engine) as session:
            session.execute(update(Conversation).values(state="person"))
        street.says("Oi de novo, pode me ajudar?")
        assert len(model.asked) == 1
        assert street.events()[-1].outcome == "with a person"


class TestWhenThingsAreAway:
    def test_a_ledger_that_is_away_loses_nothing(
        self, awake: Awake, street: Street, vendors: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lane = street.meta("Qual colchão?")

        def away(*_: Any, **__: Any) -> None:
            raise Unavailable("The database does not answer.")

        with monkeypatch.context() as broken:
            broken.setattr(chat, "save", away)
            with pytest.raises(Unavailable):
                street.answer(lane)
        (event,) = street.events()
        assert (event.handled_at, event.attempts) == (None, 1)
        with transaction(awake.engine) as session:
            session.execute(update(InboundEvent).values(not_before=now()))
        street.answer(lane)
        assert len(vendors.sent) == 2
        assert len(street.messages("in")) == 1

    def test_what_is_away_is_never_given_up(
        self, awake: Awake, street: Street, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lane = street.meta("Qual colchão?")

        def away(*_: Any, **__: Any) -> None:
            raise Unavailable("away")

        with monkeypatch.context() as broken:
            broken.setattr(chat, "save", away)
            for _ in range(jobs.MAX_ATTEMPTS + 2):
                with pytest.raises(Unavailable):
                    street.answer(lane)
                with transaction(awake.engine) as session:
                    session.execute(update(InboundEvent).values(not_before=now()))
        street.answer(lane)
        assert str(street.events()[0].outcome).startswith("answered")

    def test_the_embedder_is_away(self, awake: Awake, street: Street, vendors: Any) -> None:
        assert awake.embeddings is not None
        awake.embeddings = type(awake.embeddings)(url="http://127.0.0.1:9/v1", key=None, model="m", name="m")
        street.says("Qual colchão?")
        assert vendors.texts()[0] == "Resposta de base-model."

    def test_redis_is_away(self, awake: Awake, street: Street, vendors: Any) -> None:
        """The website's waiting page is told nothing; the answer is kept all the same."""
        awake.web.redis = connect("redis://127.0.0.1:1")
        street.answer(street.web("Qual colchão?"))
        assert [row.state for row in street.outbox()] == ["sent", "sent"]


def test_logs_hold_nobodys_words(
    street: Street, model: ScriptedModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in a turn: what a person wrote stands in no log line."""
    caplog.set_level(logging.DEBUG, logger="bot")
    secret = "meu segredo\né torta de limão"
    model.failing = {"base-model"}
    street.says(f"{secret} 1")
    model.failing = set()

    def broken(awake: Awake, event_id: int, turn: Any, *_: Any) -> None:
        with transaction(awake.engine) as session:
            known = session.get_one(Message, turn.message_id)
            known.direction = "sideways"  # refused by the table, whose error quotes the row

    with monkeypatch.context() as patch:
        patch.setattr(chat, "save", broken)
        street.says(f"{secret} 2")
    from bot.logs import _Formatter

    lines = [_Formatter("awake").format(record) for record in caplog.records]
    assert any("could not be handled" in line for line in lines)
    assert any("No answer from base" in line for line in lines)
    assert not [line for line in lines if "segredo" in line or "torta" in line or ANA in line]


def test_a_job_that_fails_leaves_the_lane_neither_in_the_log_nor_in_redis(
    street: Street, awake: Awake, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ tells a job's arguments with its failure, and a lane is called by somebody's phone."""
    from rq.serializers import JSONSerializer

    from bot.logs import _Formatter
    from bot.workers import ThreadWorker
    from core.jobs import ANSWER
    from integrations.redis.queue import enqueue, queue

    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr("bot.jobs.take_turn", away)
    client = connect(str(awake.settings.redis_url))
    enqueue(client, ANSWER, street.meta("Qual colchão?"))
    worker = ThreadWorker([queue(client, "awake")], connection=client, serializer=JSONSerializer)
    monkeypatch.setattr(logging.getLogger("rq.worker"), "propagate", True)
    worker.work(burst=True, logging_level="WARNING", with_scheduler=False)
    lines = [_Formatter("awake").format(record) for record in caplog.records]
    assert any("bot.jobs.answer" in line for line in lines)
    assert not [line for line in lines if ANA.lstrip("+") in line]
    assert [*client.scan_iter("rq:job:*"), *client.scan_iter("rq:results:*")] == []


def test_a_lost_lease_is_no_error_of_the_event(street: Street, monkeypatch: pytest.MonkeyPatch, awake: Awake) -> None:
    lane = street.meta("Qual colchão?")

    def lost(*_: Any, **__: Any) -> None:
        raise LeaseLost("The lease ran out.")

    with monkeypatch.context() as patch:
        patch.setattr(chat, "save", lost)
        street.answer(lane)
    (event,) = street.events()
    assert (event.attempts, event.error, event.handled_at) == (0, None, None)
    with lease(awake.engine, awake.heartbeat, lane) as held:
        assert held is not None


def test_something_stored_at_the_last_moment_is_rung_for(awake: Awake, street: Street, monkeypatch: Any) -> None:
    """Between the last look and the release: its own bell found the lane taken."""
    lane = street.meta("primeira")
    real: Callable[..., Any] = jobs._next
    looks: list[Any] = []

    def next_(awake: Awake, lane: str) -> Any:
        looks.append(found := real(awake, lane))
        if not found and len(looks) == 2:
            street.meta("segunda")
        return found

    monkeypatch.setattr(jobs, "_next", next_)
    awake.redis.delete("npllm:bell")
    street.answer(lane)
    assert awake.redis.lrange("npllm:bell", 0, -1) == [lane.encode()]


def test_a_slow_vendor_gathers_no_typing_indicators(awake: Awake) -> None:
    """They were kept without limit, and shown long after their answers."""
    shown, vendor = [], Gate()

    class Slow:
        def typing(self, address: dict[str, Any]) -> None:
            shown.append(address)
            vendor.wait(20)

    busy = replace(
        awake, channels={"meta": Slow()}, typists=ThreadPoolExecutor(4), may_type=BoundedSemaphore(MOST_TYPING)
    )
    message = InboundMessage("meta", Person((Identifier("phone", "+5511"),)), "1", "oi", {})
    for _ in range(5 * MOST_TYPING):
        busy.show_typing(message)
    vendor.set()
    busy.typists.shutdown()
    assert len(shown) == MOST_TYPING
    assert all(busy.may_type.acquire(blocking=False) for _ in range(MOST_TYPING)), "each place is free again"
