"""An answer while it is being written: what she sees at each moment, and that she sees one message in the end."""

from typing import Any

import pytest
from servers import ScriptedModel
from street import Street
from workspace import Workspace

from bot.slack import live
from bot.wiring import Awake
from core.errors import Unavailable, VendorUnavailable
from core.messages import Identifier, InboundMessage, Outgoing, Person
from integrations.slack.client import SlackClient

LONG = (
    "Você tem trinta dias de férias por ano. Peça ao seu gestor com um mês de antecedência, pelo portal. "
    "Quem quiser pode dividir o período em até três partes; uma delas precisa de duas semanas seguidas."
)


@pytest.fixture(autouse=True)
def growing(awake: Awake, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown from the first word, a piece at every chance."""
    awake.settings.slack_stream_after = 0.0
    client: Any = awake.channels["slack"]
    client._refused.clear()
    monkeypatch.setattr(live, "PAUSE", 0.0)
    model.say = lambda name, question: LONG


def asks(street: Street, **more: Any) -> None:
    street.answer(street.slack("Quantos dias de férias?", **more))


def methods(work: Workspace) -> list[str]:
    return [call["method"] for call in work.calls]


def test_she_sees_that_we_think_then_the_answer_grow(work: Workspace, street: Street) -> None:
    asks(street, ts="1795000000.000100")
    status, start, *pieces, stop = work.calls
    assert (status["method"], status["status"]) == ("assistant.threads.setStatus", "está pensando…")
    assert status["thread_ts"] == "1795000000.000100"
    assert (start["method"], "recipient_user_id" in start) == ("chat.startStream", False)
    assert {piece["method"] for piece in pieces} == {"chat.appendStream"} and len(pieces) > 2
    assert stop["method"] == "chat.stopStream"
    (seen,) = work.vendors.sent
    assert seen["text"] == LONG
    assert [value.rsplit(":")[-1] for value in seen["buttons"]] == ["up", "down"]
    (row,) = street.outbox()
    assert (row.state, row.provider_message_id) == ("sent", seen["id"])
    assert seen["ours"] == str(row.id)


def test_in_a_channel_slack_wants_to_know_for_whom(work: Workspace, street: Street) -> None:
    mention = {"channel": "C0GERAL", "channel_type": "channel", "ts": "1795000000.000200"}
    street.answer(street.slack("<@U0SIMBOT> quantos dias?", **mention))
    start = next(call for call in work.calls if call["method"] == "chat.startStream")
    assert (start["recipient_user_id"], start["recipient_team_id"]) == ("U0ANA", "T0SIM")
    assert start["thread_ts"] == "1795000000.000200"


def test_a_quick_answer_is_posted_as_a_whole(work: Workspace, street: Street, awake: Awake) -> None:
    awake.settings.slack_stream_after = 60.0
    asks(street)
    assert methods(work) == ["assistant.threads.setStatus"]
    assert work.vendors.texts() == [LONG]


@pytest.mark.parametrize("method", ["chat.startStream", "chat.appendStream", "assistant.threads.setStatus"])
@pytest.mark.parametrize("kind", ["refuse", "429", "500"])
def test_a_nicety_that_fails_costs_nothing_but_itself(work: Workspace, street: Street, method: str, kind: str) -> None:
    work.vendors.fault("slack", kind, method=method, code="method_not_supported_for_channel_type")
    asks(street)
    assert work.vendors.texts() == [LONG]
    assert [row.state for row in street.outbox()] == ["sent"]


def test_what_slack_does_not_allow_is_not_asked_again_at_once(work: Workspace, street: Street) -> None:
    work.vendors.fault("slack", "refuse", method="chat.startStream", code="unknown_method")
    asks(street)
    asks(street)
    assert methods(work).count("chat.startStream") == 0
    assert work.vendors.texts() == [LONG, LONG]


def test_another_model_takes_over_and_its_words_hold(work: Workspace, street: Street, awake: Awake) -> None:
    """The first one stopped in the middle: what was shown of it is replaced."""
    shown = live.LiveAnswer(awake.channels["slack"], _message("D0ANA"), lambda ts: None)  # type: ignore[arg-type]
    shown("Resposta que outra pessoa começou a escrever aqui ")
    shown("e que continua mais um pouco até não valer mais. ")
    assert _finish(awake, shown, "Outra resposta.") == f"D0ANA:{shown.ts}"
    (seen,) = work.vendors.sent
    assert seen["text"] == "Outra resposta."
    assert methods(work)[-2:] == ["chat.stopStream", "chat.update"]


def test_a_mention_is_not_put_together_from_two_pieces(work: Workspace, awake: Awake) -> None:
    shown = live.LiveAnswer(awake.channels["slack"], _message("D0ANA"), lambda ts: None)  # type: ignore[arg-type]
    shown("Uma frase que é longa o bastante para ser mostrada <")
    shown("!channel> e outra frase que é longa o bastante para isso")
    _finish(awake, shown, "Uma frase que é longa o bastante para ser mostrada <!channel> e outra frase que é longa o"
            " bastante para isso.")  # fmt: skip
    assert "<!channel>" not in str([call for call in work.calls])
    assert work.vendors.texts()[0].endswith("&lt;!channel> e outra frase que é longa o bastante para isso.")


class TestTheWorkerDies:
    def test_the_turn_that_is_tried_again_finishes_the_same_message(
        self, work: Workspace, street: Street, awake: Awake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dies(*_: Any, **__: Any) -> None:
            raise SystemExit

        lane = street.slack("Quantos dias de férias?")
        with monkeypatch.context() as here:
            here.setattr("bot.chat.save", dies)
            with pytest.raises(SystemExit):
                street.answer(lane)
        assert work.vendors.sent == [], "the message still grows"
        street.answer(lane)
        assert work.vendors.texts() == [LONG]
        assert methods(work).count("chat.startStream") == 1

    def test_ended_and_not_heard_it_is_ended_once(self, work: Workspace, street: Street, awake: Awake) -> None:
        """The time-out of the call that ends it: looked up, found, not said again."""
        work.vendors.fault("slack", "drop", method="chat.stopStream")
        client: Any = awake.channels["slack"]
        before, client.client.timeout = client.client.timeout, 0.3
        try:
            asks(street)
        finally:
            client.client.timeout = before
        assert [row.state for row in street.outbox()] == ["unknown"]
        assert work.vendors.texts() == [LONG]

    def test_an_ended_message_can_be_ended_again(self, work: Workspace, awake: Awake) -> None:
        shown = live.LiveAnswer(awake.channels["slack"], _message("D0ANA"), lambda ts: None)  # type: ignore[arg-type]
        shown("Uma resposta comprida o bastante para aparecer logo.")
        first = _finish(awake, shown, "Uma resposta comprida o bastante para aparecer logo. Fim.")
        again = _finish(awake, shown, "Uma resposta comprida o bastante para aparecer logo. Fim.")
        assert first == again
        assert work.vendors.texts() == ["Uma resposta comprida o bastante para aparecer logo. Fim."]

    def test_somebody_deleted_it_meanwhile(self, work: Workspace, awake: Awake) -> None:
        shown = live.LiveAnswer(awake.channels["slack"], _message("D0ANA"), lambda ts: None)  # type: ignore[arg-type]
        shown.ts = "1.2"
        assert _finish(awake, shown, "Então de novo.") != "D0ANA:1.2"
        assert work.vendors.texts() == ["Então de novo."]

    def test_told_to_wait_the_outbox_waits(self, work: Workspace, awake: Awake) -> None:
        shown = live.LiveAnswer(awake.channels["slack"], _message("D0ANA"), lambda ts: None)  # type: ignore[arg-type]
        shown("Uma resposta comprida o bastante para aparecer logo.")
        work.vendors.fault("slack", "429", method="chat.stopStream", retry_after=9)
        with pytest.raises(VendorUnavailable) as raised:
            _finish(awake, shown, "Outra.")
        assert raised.value.retry_after == 9.0


def test_a_workspace_without_a_token_is_not_asked(awake: Awake) -> None:
    def none(team: str) -> str:
        raise Unavailable("never installed")

    client = SlackClient(token=none, base_url=awake.settings.slack_api_base_url)
    assert client.offer("chat.startStream", team="T0NONE", channel="D1") is None


def _message(channel: str) -> Any:
    person = Person((Identifier("slack_user", "U0ANA", "T0SIM"),))
    return InboundMessage("slack", person, f"{channel}:1.1", "?", {"channel": channel, "team": "T0SIM"})


def _finish(awake: Awake, shown: live.LiveAnswer, text: str) -> str:
    return awake.channels["slack"].send(
        Outgoing("row-1", {"channel": "D0ANA", "team": "T0SIM"}, text, extra=shown.state())
    )
