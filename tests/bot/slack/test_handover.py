"""The notice that somebody asks for a person: answered and given back from Slack."""

import json
from typing import Any

import pytest
from sqlalchemy import select
from workspace import Workspace

from bot import jobs
from bot.wiring import Awake
from core.db import transaction
from core.tables import Conversation, Handover


@pytest.fixture
def asked_for(work: Workspace, awake: Awake) -> str:
    """Ana asks for a person on WhatsApp, and the team's channel is told; the hand-over's id."""
    awake.settings.slack_handover_channel = "C0EQUIPE"
    work.street.says("Quero falar com um atendente")
    work.street.says("Meu CPF é 529.982.247-25")
    with transaction(awake.engine) as session:
        row = session.scalars(select(Handover)).one()
    jobs.send("slack:handover:C0EQUIPE")
    return str(row.id)


def standing(awake: Awake) -> tuple[str | None, str | None, str]:
    """Who has it, who gave it back, and whose the conversation is."""
    with transaction(awake.engine) as session:
        row = session.scalars(select(Handover)).one()
        return row.taken_by, row.returned_by, session.get_one(Conversation, row.conversation_id).state


def test_the_notice_has_two_buttons(work: Workspace, asked_for: str) -> None:
    (posted,) = [sent for sent in work.vendors.sent if sent["to"] == "C0EQUIPE"]
    (buttons,) = [block["elements"] for block in posted["blocks"] if block["type"] == "actions"]
    assert [(b["text"]["text"], b["value"]) for b in buttons] == [
        ("Responder", f"handover:{asked_for}:reply"),
        ("Devolver ao bot", f"handover:{asked_for}:return"),
    ]


def test_an_answer_in_the_form_reaches_the_customer_as_the_teams(work: Workspace, awake: Awake, asked_for: str) -> None:
    work.calls.clear()
    work.does("click__handover_reply", handover=asked_for)
    (opened,) = work.calls
    view = opened["view"]
    assert (opened["method"], view["callback_id"], view["submit"]["text"]) == ("views.open", "npllm_reply", "Enviar")
    said = [block["text"]["text"] for block in view["blocks"] if block["type"] == "section"]
    assert said[0] == "Cliente: Quero falar com um atendente"
    assert said[-1].startswith("Cliente: Meu CPF é") and "529" not in said[-1], "redacted, as the notice is"
    assert standing(awake) == (None, None, "person"), "to look is not to take"

    work.does("view__reply", handover=asked_for)
    jobs.send(work.street.outbox()[-1].lane)
    assert work.vendors.texts()[-1] == "Bom dia! Sou a Rita, já estou vendo."
    assert standing(awake) == ("slack:U0RITA", None, "person")
    assert work.calls[-1]["text"] == "A resposta saiu."
    assert json.loads(view["private_metadata"])["channel"] == "C0EQUIPE"


def test_back_to_the_bot(work: Workspace, awake: Awake, asked_for: str) -> None:
    work.calls.clear()
    work.does("click__handover_return", handover=asked_for)
    assert standing(awake) == (None, "slack:U0RITA", "bot")
    assert work.calls[-1]["text"] == "A conversa voltou para o bot."
    work.does("view__reply", handover=asked_for)
    assert work.calls[-1]["text"] == "Este item não existe mais."


def test_the_teams_channel_may_be_in_one_of_several_workspaces(work: Workspace, awake: Awake) -> None:
    awake.settings.slack_handover_channel = "T0SHOP/C0EQUIPE"
    work.street.says("Quero falar com um atendente")
    (notice,) = [row for row in work.street.outbox() if row.kind == "notice"]
    assert notice.payload["address"] == {"team": "T0SHOP", "channel": "C0EQUIPE"}
    with transaction(awake.engine) as session:
        row = str(session.scalars(select(Handover)).one().id)
    awake.settings.slack_handover_channel = "T0OUTRA/C0EQUIPE"
    work.does("click__handover_return", handover=row)
    assert standing(awake)[1] is None, "a channel of that name elsewhere is another one"
    awake.settings.slack_handover_channel = "T0SHOP/C0EQUIPE"
    work.does("click__handover_return", handover=row, **{"1795000600.000802": "1795000600.000803"})
    assert standing(awake)[1] == "slack:U0RITA"


def test_an_answer_of_blanks_is_refused(work: Workspace, awake: Awake, asked_for: str) -> None:
    work.does("view__reply", **{"handover": asked_for, "Bom dia! Sou a Rita, já estou vendo.": "  "})
    assert work.calls[-1]["text"] == "A resposta está vazia."
    assert standing(awake)[0] is None


def test_not_to_somebody_who_wants_no_more_messages(work: Workspace, awake: Awake, asked_for: str) -> None:
    work.street.says("PARAR")
    before = work.vendors.texts()
    work.does("view__reply", handover=asked_for)
    assert work.calls[-1]["text"].startswith("Esta pessoa pediu para não receber mais mensagens")
    assert (work.vendors.texts(), standing(awake)[0]) == (before, None)
    assert [row.kind for row in work.street.outbox() if row.kind == "person"] == []


def test_not_from_another_channel(work: Workspace, awake: Awake, asked_for: str) -> None:
    awake.settings.slack_handover_channel = "C0OUTRA"
    for name in ("click__handover_reply", "click__handover_return"):
        work.does(name, handover=asked_for)
        assert "SLACK_HANDOVER_CHANNEL" in work.calls[-1]["text"]
    assert standing(awake) == (None, None, "person")


def test_not_what_a_colleague_has(work: Workspace, awake: Awake, asked_for: str, vendors: Any) -> None:
    with transaction(awake.engine) as session:
        session.scalars(select(Handover)).one().taken_by = "bia"
    before = vendors.texts()
    work.does("view__reply", handover=asked_for)
    assert work.calls[-1]["text"] == "Este item já foi decidido, ou está com outra pessoa."
    assert vendors.texts() == before
