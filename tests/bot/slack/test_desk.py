"""What is asked of us in Slack beside talking: done once, and said to who asked."""

import json
from typing import Any

import pytest
from factories import QUICK, make_version
from sqlalchemy import select
from workspace import Workspace

from bot import rollout_line
from bot.wiring import Awake
from core.db import transaction
from core.errors import VendorUnavailable
from core.tables import Feedback, InboundEvent, Rollout, RolloutEvent, now


def ratings(awake: Awake) -> list[tuple[str, str, str | None]]:
    """What stands: signal, polarity, comment."""
    with transaction(awake.engine) as session:
        current = session.scalars(select(Feedback).where(Feedback.superseded_at.is_(None)).order_by(Feedback.id))
        return [(one.signal, one.polarity, one.comment) for one in current]


class TestTheFormAboutAnAnswer:
    def test_a_thumb_down_opens_it_and_what_is_written_stands_beside_the_thumb(
        self, work: Workspace, awake: Awake
    ) -> None:
        answer, _ = work.is_answered()
        work.does("click__feedback_down", answer=answer)
        (opened,) = work.calls
        assert (opened["method"], opened["trigger_id"]) == ("views.open", "1.2.abc")
        view = opened["view"]
        assert view["title"]["text"] == "Sobre esta resposta"
        assert [block["label"]["text"] for block in view["blocks"]] == ["O que faltou ou está errado?", "Sinalizar"]
        assert json.loads(view["private_metadata"]) == {"answer": answer}
        work.does("view__feedback_comment", answer=answer)
        assert ratings(awake) == [("button", "negative", "Faltou o prazo")]
        work.does("view__feedback_problem_with_comment", answer=answer)
        assert ratings(awake) == [("flag", "negative", "Preço de 2024")]
        assert len(work.vendors.sent) == 1, "nothing of it is answered"

    def test_a_thumb_up_opens_nothing(self, work: Workspace, awake: Awake) -> None:
        answer, _ = work.is_answered()
        work.does("click__feedback_up", answer=answer)
        assert work.calls == []
        assert ratings(awake) == [("button", "positive", None)]

    def test_from_the_menu_of_an_answer_further_up(self, work: Workspace, awake: Awake) -> None:
        _, ts = work.is_answered()
        work.does("shortcut__comment_an_answer", target=ts)
        (opened,) = work.calls
        assert json.loads(opened["view"]["private_metadata"]) == {"target": f"D0RITA:{ts}"}
        work.does("view__feedback_from_the_menu", target=ts)
        assert ratings(awake) == [("comment", "neutral", "Mudou em março")]

    def test_from_the_menu_of_somebody_elses_message(self, work: Workspace) -> None:
        work.does("shortcut__comment_an_answer")
        (said,) = work.calls
        assert (said["method"], said["response_type"]) == ("response_url", "ephemeral")
        assert said["text"] == "Só dá para comentar respostas minhas."

    def test_too_late_is_said_to_who_clicked(self, work: Workspace) -> None:
        answer, _ = work.is_answered()
        work.vendors.fault("slack", "refuse", method="views.open", code="expired_trigger_id")
        work.does("click__feedback_down", answer=answer)
        (said,) = work.calls
        assert said["text"].startswith("O formulário demorou")

    def test_in_english(self, work: Workspace, awake: Awake) -> None:
        awake.settings.language = "en"
        answer, _ = work.is_answered()
        work.does("click__feedback_down", answer=answer)
        assert work.calls[0]["view"]["submit"]["text"] == "Send"


class TestOurPageIsOpened:
    def test_she_is_shown_what_she_could_ask(self, work: Workspace) -> None:
        work.does("app_home_opened")
        (call,) = work.calls
        assert call["method"] == "assistant.threads.setSuggestedPrompts"
        assert (call["channel_id"], call["title"]) == ("D0RITA", "O que você quer saber?")
        assert "Como peço férias?" in [prompt["message"] for prompt in call["prompts"]]
        assert "thread_ts" not in call

    def test_the_old_way_it_is_shown_in_its_thread(self, work: Workspace) -> None:
        work.does("assistant_thread_started")
        assert work.calls[0]["thread_ts"] == "1794999000.000100"

    def test_an_app_without_the_feature_is_left_in_peace(self, work: Workspace) -> None:
        work.vendors.fault("slack", "refuse", code="method_not_supported_for_channel_type")
        work.does("app_home_opened")
        assert work.outcomes() == ["opened"]


class TestRollout:
    @pytest.fixture
    def operator(self, awake: Awake) -> None:
        awake.settings.slack_operators = ["U0RITA"]

    def test_an_operator_steers_and_is_in_the_audit_trail(self, work: Workspace, awake: Awake, operator: None) -> None:
        with transaction(awake.engine) as session:
            started = rollout_line.start(session, make_version(session).name, QUICK, actor="ana").id
        work.does("command", status='pause --reason "fim de semana"')
        (said,) = work.calls
        assert (said["method"], said["response_type"]) == ("response_url", "ephemeral")
        assert "paused" in said["text"]
        with transaction(awake.engine) as session:
            trail = session.scalars(select(RolloutEvent).where(RolloutEvent.rollout_id == started)).all()
        assert [(e.actor, e.verb, e.reason) for e in trail][-1] == ("slack:U0RITA", "pause", "fim de semana")

    def test_without_words_it_lists_the_verbs(self, work: Workspace, operator: None) -> None:
        work.does("command__blank")
        assert "promote:" in work.calls[0]["text"]

    @pytest.mark.parametrize("listed", [[], ["U0BETO"], ["T0OTHER/U0RITA"]])
    def test_nobody_else_may(self, work: Workspace, awake: Awake, listed: list[str]) -> None:
        awake.settings.slack_operators = listed
        with transaction(awake.engine) as session:
            rollout_line.start(session, make_version(session).name, QUICK, actor="ana")
        work.does("command", status="abort")
        assert "SLACK_OPERATORS" in work.calls[0]["text"]
        with transaction(awake.engine) as session:
            assert [r.state for r in session.scalars(select(Rollout))] == ["running"]

    def test_a_verb_that_was_interrupted_is_not_run_again(
        self, work: Workspace, awake: Awake, operator: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs: list[str] = []

        def dies(*_: Any, **__: Any) -> str:
            runs.append("once")
            raise SystemExit

        monkeypatch.setattr("bot.rollout_verbs.run", dies)
        with pytest.raises(SystemExit):
            work.does("command")
        work.works()
        assert runs == ["once"]
        assert work.calls[0]["text"].startswith("Não sei se isto foi feito")

    def test_an_answer_goes_to_nobody_but_slack(self, work: Workspace, operator: None) -> None:
        """The address comes with the request: only Slack's own is called."""
        work.does("command", response_url="http://169.254.169.254/latest")
        assert work.calls == []
        assert work.outcomes() == ["rollout"]


class TestSlackMisbehaves:
    def test_told_to_wait_it_waits_that_long(self, work: Workspace, awake: Awake) -> None:
        work.vendors.fault("slack", "429", retry_after=50)
        with pytest.raises(VendorUnavailable):
            work.does("app_home_opened")
        (event,) = work.street.events()
        assert event.handled_at is None
        assert event.not_before is not None and 45 < (event.not_before - now()).total_seconds() <= 50
        with transaction(awake.engine) as session:
            session.get_one(InboundEvent, event.id).not_before = None
        work.works()
        assert [call["method"] for call in work.calls] == ["assistant.threads.setSuggestedPrompts"]

    def test_what_may_have_been_said_is_not_said_twice(self, work: Workspace, awake: Awake) -> None:
        answer, _ = work.is_answered()
        work.vendors.fault("slack", "drop", method="views.open")
        client: Any = awake.channels["slack"]
        before, client.client.timeout = client.client.timeout, 0.3
        try:
            work.does("click__feedback_down", answer=answer)
        finally:
            client.client.timeout = before
        work.works()
        assert [call["method"] for call in work.calls] == ["views.open"]
        assert work.outcomes()[-1] == "form"
