"""Meta's webhooks, one body a file in fixtures/: what each becomes in the ledger, and what the bot reads in it.

A new case is a file and a line in CASES. Meta sends them compact and ASCII-escaped; `body` makes them so.
"""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadInput, BadSignature, NotAllowed, TooLarge
from core.messages import (
    MAX_TEXT,
    Identifier,
    Inbound,
    InboundEdit,
    InboundMessage,
    InboundPerson,
    InboundSignal,
    InboundStatus,
    ItemKind,
    Person,
)
from integrations.meta.webhook import MAX_ITEM, handshake, read, split, verify

FIXTURES = Path(__file__).parent / "fixtures"
NUMBER = "100000000000001"
OURS = "wamid.OURS1"  # a message we sent
ANSWER = "0190a0b0-0000-7000-8000-0000000000a1"
PHONE, BSUID = Identifier("phone", "+5511990000001"), Identifier("bsuid", "BR.9900000000000012")
NEW_PHONE = Identifier("phone", "+5511990000009")
NEW_BSUID = Identifier("bsuid", "BR.9900000000000013")
MARINA = Person((PHONE,), "Marina Prado")
JOAO = Person((Identifier("phone", "+5511990000002"),), "João Lima")
SENT = datetime.fromtimestamp(1795000000, UTC)

Item = tuple[ItemKind, str, str, Inbound | None]  # kind, lane, key, what the bot reads


def body(name: str) -> bytes:
    return json.dumps(json.loads((FIXTURES / f"{name}.json").read_text())).encode()


def lane(person: str = "+5511990000001", number: str = NUMBER) -> str:
    return f"meta:{number}:{person}"


def message(
    name: str, text: str, *, person: Person = MARINA, to: str = "5511990000001", number: str = NUMBER, **more: Any
) -> Item:
    """A message: somebody is answered."""
    where = "recipient" if to.startswith("BR.") else "to"
    address = {where: to, "phone_number_id": number, "reply_to": f"wamid.{name}"}
    read_as = InboundMessage("meta", person, f"wamid.{name}", text, address, sent_at=SENT, **more)
    return "message", lane(person.identifiers[0].value, number), f"wamid.{name}", read_as


def media(name: str, kind: str, mime: str, id: str, text: str = "", *, voice: bool = False) -> Item:
    return message(name, text, kind=kind, attachments=({"id": id, "type": mime, "voice": voice},))


def rating(name: str, signal: Any, raw: str, *, quoted: bool = True, answer: str | None = None) -> Item:
    """Feedback: counted, never answered."""
    target = OURS if quoted else None
    read_as = InboundSignal("meta", MARINA, signal, "replace", raw, answer_id=answer, target=target, given_at=SENT)
    return "signal", lane(), f"wamid.{name}", read_as


def reaction(name: str, emoji: str, *, at: datetime = SENT) -> Item:
    op: Any = "replace" if emoji else "remove"
    read_as = InboundSignal("meta", MARINA, "reaction", op, emoji, target=OURS, given_at=at)
    return "signal", lane(), f"wamid.{name}", read_as


def edit(name: str, original: str, text: str | None) -> Item:
    read_as = InboundEdit("meta", original, text, (original,), SENT, MARINA)
    return "edit" if text else "delete", lane(), f"wamid.{name}", read_as


def status(delivery: str, our_id: str | None = None, error: str | None = None) -> Item:
    read_as = InboundStatus("meta", OURS, delivery, our_id, error, "template" if error == "131047" else None)
    return "status", f"meta:{NUMBER}:{OURS}", f"{OURS}:status:{delivery}", read_as


def told(key: str, person: Person, now: Any = (), *, gone: Any = (), templates: bool | None = None) -> Item:
    """Something about a person: nothing is answered."""
    return "person", f"meta:{NUMBER}:people", key, InboundPerson("meta", person, now, gone, templates)


def ignored(key: str, where: str = lane()) -> Item:
    """Kept, never answered."""
    return "ignored", where, key, None


# fixture: (what a person would see, the ledger's items)
CASES: dict[str, tuple[str, list[Item]]] = {
    "text": ("She asks; she is answered.", [message("text", "Vocês entregam colchão em Niterói?")]),
    "text__emoji_in_a_sentence": (
        "A sentence with an emoji is a sentence, no rating.",
        [message("text__emoji_in_a_sentence", "Adorei o travesseiro 😍 mas ele veio sem a fronha")],
    ),
    "text__nul": ("NUL bytes are gone.", [message("text__nul", "Oi, o frete é grátis?")]),
    "text__lone_surrogate": ("Half an emoji is gone.", [message("text__lone_surrogate", "Oi , tudo bem?")]),
    "text__quoted": ("A reply with a question is a question.", [message("text__quoted", "E no Rio?", quoted=OURS)]),
    "text__forwarded": ("A forwarded text is a text.", [message("text__forwarded", "Promoção de travesseiros!")]),
    "text__from_an_ad": ("The ad is not hers.", [message("text__from_an_ad", "Quero saber deste colchão")]),
    "text__older_number_without_ninth_digit": (
        "The old form of her number is the same person; the answer goes where Meta said.",
        [message("text__older_number_without_ninth_digit", "Qual o prazo?", to="551190000001")],
    ),
    "text__number_and_user_id": (
        "Number and user id are one person, known by both from now on.",
        [
            message(
                "text__number_and_user_id", "Tem loja em Santos?", person=Person((PHONE, BSUID), "Marina Prado")
            )
        ],
    ),
    "text__user_id_without_number": (
        "She hides her number: her user id is who she is, and a `recipient`.",
        [
            message(
                "text__user_id_without_number", "Tem loja em Santos?", to="BR.9900000000000012",
                person=Person((BSUID, Identifier("parent_bsuid", "BR.ENT.7700000000000034")), "Marina Prado"),
            )
        ],
    ),
    "text__user_id_in_place_of_the_number": (
        "The same where the user id stands in the number's place.",
        [
            message(
                "text__user_id_in_place_of_the_number", "Tem loja em Santos?", to="BR.9900000000000012",
                person=Person((BSUID,), "Marina Prado"),
            )
        ],
    ),
    "text__sender_only_in_the_contact": ("The contact says who.", [message("text__sender_only_in_the_contact", "Oi")]),
    "text__without_contact": ("A number is enough.", [message("text__without_contact", "Oi", person=Person((PHONE,)))]),
    "text__in_a_group": ("Said to a group: kept, not answered in private.", [ignored("wamid.text__in_a_group")]),
    "text__nobody": ("From nobody: kept, not answered.", [ignored("wamid.text__nobody", lane("unknown"))]),
    "text__blank": ("Nothing to see in it: never answered.", [ignored("wamid.text__blank")]),
    "text__without_object": ("A text without its text.", [ignored("wamid.text__without_object")]),
    "text__body_is_a_number": ("A number is readable.", [message("text__body_is_a_number", "42")]),
    "image__with_caption": (
        "The caption is her question.",
        [media("image__with_caption", "image", "image/jpeg", "700000000000001", "Chegou rasgado, e agora?")],
    ),
    "image__without_caption": (
        "She is asked to write.", [media("image__without_caption", "image", "image/jpeg", "700000000000001")],
    ),
    "voice": (
        "She is asked to write.", [media("voice", "audio", "audio/ogg; codecs=opus", "700000000000002", voice=True)],
    ),
    "audio": ("A song is no voice.", [media("audio", "audio", "audio/mpeg", "700000000000003")]),
    "video": ("She is asked to write.", [media("video", "video", "video/mp4", "700000000000004")]),
    "document": (
        "A file with words.",
        [media("document", "document", "application/pdf", "700000000000005", "Segue o comprovante")],
    ),
    "sticker": ("She is asked to write.", [media("sticker", "sticker", "image/webp", "700000000000006")]),
    "location": ("A place on the map.", [message("location", "", kind="location")]),
    "contacts": ("Somebody's card.", [message("contacts", "", kind="contacts")]),
    "order": ("A cart with words.", [message("order", "Quero estes dois", kind="order")]),
    "button__template": ("A button is what it says.", [message("button__template", "Ver prazos", quoted=OURS)]),
    "button__without_context": ("Also without context.", [message("button__without_context", "Ver prazos")]),
    "button__template_with_a_thumb": (
        "A template's own 👍 rates what it stands under.", [rating("button__template_with_a_thumb", "reaction", "👍")],
    ),
    "button__ours_in_a_template": (
        "👎 to exactly that answer.", [rating("button__ours_in_a_template", "button", "👎", answer=ANSWER)],
    ),
    "interactive__ours_up": (
        "👍 to exactly that answer.", [rating("interactive__ours_up", "button", "👍", answer=ANSWER)],
    ),
    "interactive__another_button": (
        "Somebody else's button is what it says.",
        [message("interactive__another_button", "Falar com uma pessoa", quoted=OURS)],
    ),
    "interactive__list": (
        "A list's line is what it says.", [message("interactive__list", "Colchões de casal", quoted=OURS)],
    ),
    "interactive__flow": (
        "A form is what she filled in, not the word 'Sent'; its token and files are no words.",
        [
            message(
                "interactive__flow",
                "nome: Marina Prado\ndata de entrega: 2026-12-03\nquantos: 2\nmontagem: ✓\nhorários: manhã, tarde",
                quoted=OURS,
            )
        ],
    ),
    "interactive__flow_with_nothing_filled_in": (
        "A form of which nothing is to be said: kept, not answered.",
        [ignored("wamid.interactive__flow_with_nothing_filled_in")],
    ),
    "interactive__flow_unreadable": ("Half a form.", [ignored("wamid.interactive__flow_unreadable")]),
    "interactive__address": (
        "An address is its words.",
        [message("interactive__address", "Marina Prado\nRua das Flores, 12\nSantos", quoted=OURS)],
    ),
    "interactive__without_object": (
        "Meta leaves the object out at times: never an empty turn.", [ignored("wamid.interactive__without_object")],
    ),
    "reaction_added": ("👍 appears under the answer.", [reaction("reaction_added", "👍")]),
    "reaction_added__skin_tone": ("👎 in her skin's tone.", [reaction("reaction_added__skin_tone", "👎🏽")]),
    "reaction_changed": (
        "A minute later it is a ❤️.", [reaction("reaction_changed", "❤️", at=datetime.fromtimestamp(1795000060, UTC))],
    ),
    "reaction_removed__missing_key": ("It is gone (today's way).", [reaction("reaction_removed__missing_key", "")]),
    "reaction_removed__null": ("It is gone (null).", [reaction("reaction_removed__null", "")]),
    "reaction_removed__empty_string": ("It is gone (the old way).", [reaction("reaction_removed__empty_string", "")]),
    "reaction_added__misspelt_key": (
        "Meta's own misspelt sample.", [reaction("reaction_added__misspelt_key", "👍")],
    ),
    "reaction_added__in_a_group": ("To what others said.", [ignored("wamid.reaction_added__in_a_group")]),
    "reaction__without_target": ("A thumb for nothing.", [ignored("wamid.reaction__without_target")]),
    "reaction__without_object": ("A reaction without itself.", [ignored("wamid.reaction__without_object")]),
    "emoji__alone": ("👏 to the last answer.", [rating("emoji__alone", "reaction", "👏👏", quoted=False)]),
    "quoted__stars": ("Two stars to the quoted answer.", [rating("quoted__stars", "stars", "⭐⭐")]),
    "quoted__stars_in_words": ("Five in words.", [rating("quoted__stars_in_words", "stars", "5 estrelas")]),
    "quoted__word": ("The quoted answer is wrong.", [rating("quoted__word", "keyword", "Errada")]),
    "quoted__no_is_an_answer": (
        "'I do not want to' answers our question, it rates nothing.",
        [message("quoted__no_is_an_answer", "não quero", quoted=OURS)],
    ),
    "word__alone_is_a_message": ("'Wrong' about what? Asked.", [message("word__alone_is_a_message", "Errada")]),
    "edit__text": (
        "Her question has another town; she is not answered twice.",
        [edit("edit__text", "wamid.text", "Vocês entregam colchão em Maricá?")],
    ),
    "edit__caption": ("Her caption has other words.", [edit("edit__caption", "wamid.image", "Chegou molhado")]),
    "revoke": ("Her question is gone.", [edit("revoke", "wamid.text", None)]),
    "unsupported": ("A poll: Meta does not show it to us.", [ignored("wamid.unsupported")]),
    "system__number_changed": (
        "She has a new number; the old one may be somebody else's soon.",
        [told("wamid.system__number_changed", Person((PHONE,)), (NEW_PHONE,), gone=(PHONE,))],
    ),
    "system__user_id_changed": (
        "She has a new user id, and still hides her number.",
        [told("wamid.system__user_id_changed", Person((BSUID,)), (NEW_BSUID,))],
    ),
    "system__something_else": ("WhatsApp says something.", [ignored("wamid.system__something_else")]),
    "request_welcome": ("She opened the chat.", [ignored("wamid.request_welcome")]),
    "ephemeral": ("A message that vanishes.", [ignored("wamid.ephemeral")]),
    "type__missing": ("Of no type.", [ignored("wamid.type__missing")]),
    "type__not_known_yet": (
        "Something new that she sent: she is asked to write.", [message("type__not_known_yet", "", kind="unknown")],
    ),
    "type__not_known_yet_with_words": (
        "Words that she sent are read, whatever they came in.",
        [message("type__not_known_yet_with_words", "Qual destes colchões vocês têm?", kind="unknown")],
    ),
    "type__no_string": ("A type that is no word.", [ignored("wamid.type__no_string")]),
    "status__sent": ("One tick.", [status("sent", "row-1")]),
    "status__delivered": ("Two ticks.", [status("delivered", "row-1")]),
    "status__read": ("Blue ticks.", [status("read")]),
    "status__played": ("She heard it.", [status("played")]),
    "status__deleted": ("It was deleted.", [status("deleted")]),
    "status__warning": ("Meta warns.", [status("warning")]),
    "status__failed": ("Too late to write freely.", [status("failed", "row-1", "131047")]),
    "status__user_without_number": ("Delivered to somebody without a number.", [status("delivered")]),
    "batch__entries_changes_messages_statuses": (
        "Two people, two numbers of ours, two ticks and a template: nothing is lost.",
        [
            message("a", "Oi"),
            message("b", "Olá", person=JOAO, to="5511990000002"),
            message("c", "Tem Pix?"),
            status("sent"),
            status("delivered"),
            message("d", "Outra loja", person=JOAO, to="5511990000002", number="100000000000002"),
            ignored("change:", "meta:"),
        ],
    ),
    "batch__contact_of_only_one_of_two": (
        "Her user id is not lent to him, whose contact Meta left out.",
        [
            message("e", "Oi", person=Person((PHONE, BSUID), "Marina Prado")),
            message("f", "Olá", person=Person(JOAO.identifiers), to="5511990000002"),
        ],
    ),
    "batch__with_things_that_are_none": (
        "The one message among the rubbish is answered.",
        [message("g", "Oi"), ignored("change:", "meta:"), ignored("change:", "meta:")],
    ),
    "change__template_status": ("A template was refused.", [ignored("change:", "meta:")]),
    "change__user_preferences": (
        "She wants no more advertising: nothing is sent that she did not just ask for.",
        [told("user_preferences:", Person((PHONE,)), templates=False)],
    ),
    "change__user_preferences_resumed": (
        "She takes it again; she hides her number.",
        [told("user_preferences:", Person((BSUID,)), templates=True)],
    ),
    "change__sent_from_the_phone": (
        "Rita answered from the shop's phone: no customer, no answer.", [ignored("change:", f"meta:{NUMBER}")],
    ),
    "change__history_of_a_picture": (
        "The phone's old conversations, when it is connected: nobody waits for an answer, and what she writes now keeps"
        " its own key.",
        [ignored("change:", f"meta:{NUMBER}")],
    ),
    "change__user_id_update": (
        "She has a new user id: she is who she was.",
        [told("user_id_update:", Person((PHONE, BSUID)), (NEW_BSUID,))],
    ),
    "change__error": ("Meta reports an error of its own.", [ignored("change:", f"meta:{NUMBER}")]),
    "body__another_product": ("Messenger's, at the wrong door.", [ignored("body:", "meta:")]),
    "body__empty_object": ("Nothing at all.", [ignored("body:", "meta:")]),
}  # fmt: skip


def test_every_fixture_has_a_case() -> None:
    assert {path.stem for path in FIXTURES.iterdir()} == set(CASES)


def _clean(value: Any) -> Any:
    """What the ledger keeps of a payload, and so what a worker reads."""
    from core.messages import clean_payload

    return clean_payload(value)


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of(name: str) -> None:
    seen, expected = CASES[name]
    items = split(body(name))
    found = [(item.kind, item.lane, item.external_id, read(item.kind, _clean(item.payload))) for item in items]
    # What has no id of its own is named by its content.
    found = [
        (kind, lane, key[: key.index(":") + 1] if key.startswith(("change:", "body:", "user_")) else key, inbound)
        for kind, lane, key, inbound in found
    ]
    assert found == expected, seen


def test_what_has_no_id_is_stored_once_however_often_it_comes() -> None:
    keys = {item.external_id for _ in range(2) for item in split(body("change__template_status"))}
    assert len(keys) == 1
    assert keys != {item.external_id for item in split(body("change__user_preferences"))}


def test_a_batch_of_a_thousand_is_a_thousand_items() -> None:
    data = json.loads(body("text"))
    value = data["entry"][0]["changes"][0]["value"]
    value["messages"] = [{**value["messages"][0], "id": f"wamid.{number}"} for number in range(1000)]
    items = split(json.dumps(data).encode())
    assert len({item.external_id for item in items}) == 1000


def test_a_message_larger_than_whatsapp_allows_is_refused_where_it_came_alone() -> None:
    data = json.loads(body("text"))
    messages = data["entry"][0]["changes"][0]["value"]["messages"]
    messages[0]["text"]["body"] = "a" * MAX_ITEM
    with pytest.raises(TooLarge, match=r"wamid\.text"):
        split(json.dumps(data).encode())
    messages.append(dict(messages[0], id="wamid.second", text={"body": "Oi"}))
    first, second = split(json.dumps(data).encode())
    said = read(first.kind, first.payload)
    assert isinstance(said, InboundMessage)
    assert said.text == "a" * MAX_TEXT  # the beginning of what is too long, rather than nothing
    assert second.external_id == "wamid.second"


def test_what_is_too_large_does_not_take_its_batch_with_it() -> None:
    data = json.loads(body("text"))
    history = {"field": "history", "value": {"history": [{"messages": [{"text": "a" * 3000}] * 100}]}}
    data["entry"].insert(0, {"id": "1", "changes": [history]})
    first, second = split(json.dumps(data).encode())
    assert (first.kind, set(first.payload)) == ("ignored", {"bytes"})
    assert (second.kind, second.external_id) == ("message", "wamid.text")


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"1", b"{", b'{"entry":', b"\xff\xfe", b'{"a":' * 9000])
def test_what_is_no_json_object(raw: bytes) -> None:
    with pytest.raises(BadInput):
        split(raw)


def test_an_object_nested_without_end() -> None:
    with pytest.raises(BadInput, match="nested"):
        split(b'{"a":' * 100 + b"1" + b"}" * 100)


class TestSignature:
    """https://developers.facebook.com/docs/messenger-platform/webhooks#validate-payloads"""

    def sign(self, raw: bytes) -> str:
        return "sha256=" + hmac.new(b"secret", raw, hashlib.sha256).hexdigest()

    def test_the_raw_bytes_are_signed(self) -> None:
        raw = body("text__emoji_in_a_sentence")
        assert b"\\ud83d" in raw
        verify("secret", raw, self.sign(raw))

    def test_a_body_written_anew_is_another_one(self) -> None:
        raw = body("text__emoji_in_a_sentence")
        again = json.dumps(json.loads(raw), ensure_ascii=False).encode()
        with pytest.raises(BadSignature, match="X-Hub-Signature-256"):
            verify("secret", again, self.sign(raw))

    @pytest.mark.parametrize("signature", [None, "", "sha256=", "sha1=" + "0" * 40, "0" * 64, "é"])
    def test_missing_or_wrong(self, signature: str | None) -> None:
        with pytest.raises(BadSignature):
            verify("secret", b"{}", signature)

    def test_another_secret_is_wrong(self) -> None:
        with pytest.raises(BadSignature):
            verify("other", b"{}", self.sign(b"{}"))


class TestHandshake:
    def test_the_bare_challenge(self) -> None:
        assert handshake("token", "subscribe", "token", "1158201444") == "1158201444"

    @pytest.mark.parametrize(
        ("mode", "token", "challenge"),
        [
            ("subscribe", "other", "1"),
            ("subscribe", None, "1"),
            ("subscribe", "", "1"),
            ("unsubscribe", "token", "1"),
            (None, "token", "1"),
            ("subscribe", "token", None),
        ],
    )
    def test_refused(self, mode: str | None, token: str | None, challenge: str | None) -> None:
        with pytest.raises(NotAllowed, match="META_VERIFY_TOKEN"):
            handshake("token", mode, token, challenge)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["text", "reaction", "interactive", "button", "edit", "revoke", "image", "order", "system", "poll"]
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": ANYTHING, "from": ANYTHING, "from_user_id": ANYTHING, "type": st.sampled_from(KINDS) | ANYTHING,
        "timestamp": ANYTHING, "context": ANYTHING, **{kind: ANYTHING for kind in KINDS},
        "reaction": st.fixed_dictionaries({"message_id": ANYTHING, "emoji": ANYTHING}) | ANYTHING,
        "edit": st.fixed_dictionaries({"original_message_id": ANYTHING, "message": ANYTHING}) | ANYTHING,
    },
)  # fmt: skip
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": ANYTHING,
        "contacts": st.lists(st.fixed_dictionaries({"wa_id": ANYTHING, "profile": ANYTHING})) | ANYTHING,
        "messages": st.lists(MESSAGES, max_size=3) | ANYTHING,
        "statuses": st.lists(
            st.fixed_dictionaries({"id": ANYTHING, "status": ANYTHING, "errors": ANYTHING}), max_size=2
        )
        | ANYTHING,
    },
)


@given(VALUES | ANYTHING)
def test_no_change_is_too_strange_to_be_split_and_read(value: Any) -> None:
    raw = json.dumps({"entry": [{"changes": [{"value": value}]}]}).encode()
    items = split(raw)
    assert items
    for item in items:
        inbound = read(item.kind, _clean(item.payload))
        assert inbound is not None or item.kind == "ignored"
