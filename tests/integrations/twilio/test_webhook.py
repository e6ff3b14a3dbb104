"""Twilio's webhooks, one payload a file in fixtures/: what each becomes in the ledger, and what the bot reads in it.

A new case is a file and a line in CASES.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from core.errors import BadInput, BadSignature
from core.messages import Identifier, Inbound, InboundMessage, InboundSignal, InboundStatus, ItemKind, Person
from integrations.twilio.webhook import Form, read, split, split_status, verify

FIXTURES = Path(__file__).parent / "fixtures"
OURS = "SMffffffffffffffffffffffffffffff01"  # a message we sent
ANSWER = "0190a0b0-0000-7000-8000-0000000000a1"
MEDIA = "https://api.twilio.com/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages/MM1/Media/ME1"
PHONE = Identifier("phone", "+5511990000001")
BSUID = Identifier("bsuid", "BR.9900000000000012")
MARINA = Person((PHONE,), "Marina Prado")
LANE = "twilio:+5511990000001"


def load(name: str) -> Form:
    """The fields of a fixture: a JSON object of them, or a form's raw body."""
    path = FIXTURES / name
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else dict(parse_qsl(text, keep_blank_values=True))


def says(text: str, *, person: Person = MARINA, to: str = "whatsapp:+5511990000001", **more: Any) -> InboundMessage:
    address = {"to": to, "from": "whatsapp:+551130000000"}
    return InboundMessage("twilio", person, "", text, address, **more)


def rates(signal: Any, raw: str, *, quoted: bool = True, answer: str | None = None) -> InboundSignal:
    target = OURS if quoted else None
    return InboundSignal("twilio", MARINA, signal, "replace", raw, answer_id=answer, target=target)


def sends(kind: str, content_type: str, text: str = "") -> InboundMessage:
    return says(text, kind=kind, attachments=({"url": MEDIA, "type": content_type},))


# fixture: (what a person would see, kind in the ledger, lane, what the bot reads)
CASES: dict[str, tuple[str, ItemKind, str, Inbound | None]] = {
    "text.json": ("She asks; she is answered.", "message", LANE, says("Vocês entregam colchão em Niterói?")),
    "text__emoji_in_a_sentence.json": (
        "A sentence with an emoji is a sentence, no rating.",
        "message", LANE, says("Adorei o travesseiro 😍 mas ele veio sem a fronha"),
    ),
    "text__nul.json": ("NUL bytes are gone.", "message", LANE, says("Oi, o frete é grátis?")),
    "text__padded.json": ("Space around is gone.", "message", LANE, says("bom dia")),
    "text__new_parameters.json": ("Unknown parameters do no harm.", "message", LANE, says("Aceita Pix?")),
    "text__forwarded.json": ("A forwarded text is a text.", "message", LANE, says("Promoção de travesseiros!")),
    "text__from_an_ad.json": ("The ad's picture is not hers.", "message", LANE, says("Quero saber deste colchão")),
    "text__repeated_fields.txt": (
        "A raw form with repeated and blank fields.",
        "message", LANE, says("Entrega em Santo André?", person=Person((PHONE,))),
    ),
    "text__sender_without_prefix.json": (
        "A sender without `whatsapp:` is the same person.", "message", LANE, says("Qual o prazo?", to="+5511990000001"),
    ),
    "text__older_number_without_ninth_digit.json": (
        "The old form of her number is the same person; the answer goes where Twilio said.",
        "message", LANE, says("Qual o prazo?", to="whatsapp:+551190000001"),
    ),
    "text__username_without_number.json": (
        "She hides her number: her user id is who she is, and where the answer goes.",
        "message", "twilio:BR.9900000000000012",
        says("Tem loja em Santos?", person=Person((BSUID,), "Marina Prado"), to="whatsapp:BR.9900000000000012"),
    ),
    "text__username_with_digits_like_a_phone.json": (
        "A user id with eleven digits is no phone number.",
        "message", "twilio:US.13105550001",
        says(
            "Tem loja em Santos?",
            person=Person(
                (Identifier("bsuid", "US.13105550001"), Identifier("parent_bsuid", "US.ENT.77000000000001")),
                "Marina Prado",
            ),
            to="whatsapp:US.13105550001",
        ),
    ),
    "text__number_and_user_id.json": (
        "Number and user id are one person, known by both from now on.",
        "message", LANE, says("Tem loja em Santos?", person=Person((PHONE, BSUID), "Marina Prado")),
    ),
    "text__only_a_user_id.json": (
        "Without From the user id is answered.",
        "message", "twilio:BR.9900000000000012",
        says("Tem loja em Santos?", person=Person((BSUID,), "Marina Prado"), to="whatsapp:BR.9900000000000012"),
    ),
    "text__number_in_wa_id_alone.json": (
        "Without From the number is answered, as it is dialled.",
        "message", LANE, says("Vocês entregam colchão em Niterói?"),
    ),
    "text__nobody.json": ("From nobody: kept, not answered.", "ignored", "twilio:unknown", None),
    "blank__maybe_a_reaction.json": ("Perhaps a reaction: kept, never answered.", "ignored", LANE, None),
    "blank__no_body_field.json": ("No Body at all: kept, never answered.", "ignored", LANE, None),
    "blank__spaces.json": ("Only spaces: never answered.", "ignored", LANE, None),
    "blank__nul_only.json": ("Only NUL: never answered.", "ignored", LANE, None),
    "blank__invisible_characters.json": ("WhatsApp's invisible text: never answered.", "ignored", LANE, None),
    "blank__unknown_type.json": ("A type we do not know, without text: never answered.", "ignored", LANE, None),
    "blank__media_count_is_no_number.json": ("A NumMedia that only looks like a digit.", "ignored", LANE, None),
    "image__with_caption.json": (
        "The caption is her question.", "message", LANE, sends("image", "image/jpeg", "Chegou rasgado, e agora?"),
    ),
    "image__without_caption.json": ("She is asked to write.", "message", LANE, sends("image", "image/jpeg")),
    "image__captioned_with_a_thumb.json": (
        "A thumb under a picture is a caption, no rating.", "message", LANE, sends("image", "image/jpeg", "👍"),
    ),
    "images__two.json": (
        "Both pictures are kept.",
        "message", LANE,
        says(
            "", kind="image",
            attachments=({"url": MEDIA, "type": "image/jpeg"}, {"url": MEDIA + "b", "type": "image/png"}),
        ),
    ),
    "voice.json": ("She is asked to write.", "message", LANE, sends("audio", "audio/ogg")),
    "video.json": ("She is asked to write.", "message", LANE, sends("video", "video/mp4")),
    "document.json": (
        "The file's name comes as its text.", "message", LANE, sends("document", "application/pdf", "comprovante.pdf"),
    ),
    "sticker.json": ("A sticker is a picture.", "message", LANE, sends("image", "image/webp")),
    "contact.json": ("A contact is a card.", "message", LANE, sends("contacts", "text/vcard")),
    "location.json": ("A place on the map.", "message", LANE, says("", kind="location")),
    "button__ours_up.json": ("👍 to exactly that answer.", "signal", LANE, rates("button", "👍", answer=ANSWER)),
    "button__ours_down_without_context.json": (
        "👎 to exactly that answer, because the button knows it.",
        "signal", LANE, rates("button", "👎", answer=ANSWER, quoted=False),
    ),
    "button__another.json": (
        "Somebody else's button is what it says.", "message", LANE, says("Falar com uma pessoa", quoted=OURS),
    ),
    "button__without_body.json": ("A button's text stands in.", "message", LANE, says("Ver prazos", quoted=OURS)),
    "button__payload_alone.json": (
        "What stands behind the button stands in.", "message", LANE, says("Quero o de casal", quoted=OURS),
    ),
    "list__choice.json": ("A list's line is what it says.", "message", LANE, says("Colchões de casal", quoted=OURS)),
    "list__choice_without_body.json": (
        "The line's title stands in.", "message", LANE, says("Colchões de casal", quoted=OURS),
    ),
    "quoted__question.json": (
        "A reply with a question is a question.", "message", LANE, says("E no Rio?", quoted=OURS),
    ),
    "quoted__thumb.json": ("👍 to the quoted answer.", "signal", LANE, rates("reaction", "👍")),
    "quoted__stars.json": ("Four stars to the quoted answer.", "signal", LANE, rates("stars", "⭐⭐⭐⭐")),
    "quoted__stars_in_words.json": ("The same in words.", "signal", LANE, rates("stars", "4 estrelas")),
    "quoted__stars_as_fraction.json": ("Two of five.", "signal", LANE, rates("stars", "2/5")),
    "quoted__word.json": ("It did not help.", "signal", LANE, rates("keyword", "Não ajudou")),
    "quoted__flag.json": ("She reports the quoted answer.", "signal", LANE, rates("flag", "problema!")),
    "quoted__no_is_an_answer.json": (
        "'No' to our question is an answer to it, no rating.", "message", LANE, says("Não", quoted=OURS),
    ),
    "quoted__no_problem_is_an_answer.json": (
        "Neither is 'no problem'.", "message", LANE, says("sem problema", quoted=OURS),
    ),
    "emoji__thumb_with_skin_tone.json": (
        "👎 to the last answer.", "signal", LANE, rates("reaction", "👎🏽", quoted=False),
    ),
    "emoji__heart_with_variation_selector.json": (
        "❤️ to the last answer.", "signal", LANE, rates("reaction", "❤️", quoted=False),
    ),
    "emoji__flag_says_nothing.json": (
        "An emoji that says nothing about quality: noted, never answered.",
        "signal", LANE, rates("reaction", "🇧🇷", quoted=False),
    ),
    "word__alone_is_a_message.json": ("'Wrong' about what? Asked, not counted.", "message", LANE, says("errado")),
    "opt_out__custom_keyword.json": ("Whatever the keyword, she wants no more.", "message", LANE, says("STOP")),
    "opt_in.json": ("She is back.", "message", LANE, says("START", kind="opt_in")),
    "opt_help_answered_by_twilio.json": ("Twilio answered it.", "ignored", LANE, None),
    "status__delivered.json": (
        "It reached her phone.", "status", f"twilio:{OURS}", InboundStatus("twilio", OURS, "delivered", "row-1"),
    ),
    "status__read.json": ("She read it.", "status", f"twilio:{OURS}", InboundStatus("twilio", OURS, "read", "row-1")),
    "status__failed_outside_the_window.json": (
        "Too late to write freely.",
        "status", f"twilio:{OURS}", InboundStatus("twilio", OURS, "failed", "row-1", "63016", "template"),
    ),
    "status__undelivered.json": (
        "It never reached her.",
        "status", f"twilio:{OURS}", InboundStatus("twilio", OURS, "undelivered", "row-1", "63024", "permanent"),
    ),
}  # fmt: skip


def test_every_fixture_has_a_case() -> None:
    assert {path.name for path in FIXTURES.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of(name: str) -> None:
    seen, kind, lane, expected = CASES[name]
    form = load(name)
    is_status = name.startswith("status__")
    (item,) = split_status(form, "row-1") if is_status else split(form)
    key = f"{OURS}:status:{form['MessageStatus']}:{form.get('ErrorCode', '')}" if is_status else form["MessageSid"]
    assert (item.kind, item.lane, item.external_id) == (kind, lane, key), seen
    if isinstance(expected, InboundMessage):
        sid = form["MessageSid"]
        address = {**expected.address, "reply_to": sid}
        expected = replace(expected, provider_message_id=sid, address=address)
    assert read(item.kind, item.payload) == expected, seen


def test_a_status_at_the_messages_door_is_a_status() -> None:
    (item,) = split(load("status__delivered.json"))
    assert item.kind == "status"
    assert read("status", item.payload) == InboundStatus("twilio", OURS, "delivered")


def test_a_message_at_the_statuses_door_is_a_message() -> None:
    form = load("text.json")
    assert split_status(form, None) == split(form)


@pytest.mark.parametrize("split_at", [split, lambda form: split_status(form, None)])
@pytest.mark.parametrize("status", ["received", "receiving"])
def test_a_message_that_also_says_its_status_is_a_message(split_at: Any, status: str) -> None:
    (item,) = split_at({**load("text.json"), "MessageStatus": status})
    assert (item.kind, item.external_id) == ("message", load("text.json")["MessageSid"])


def test_the_same_status_with_another_error_is_another_item() -> None:
    form = load("status__undelivered.json")
    first, second = (split_status({**form, "ErrorCode": code}, None)[0].external_id for code in ("63024", "63032"))
    assert first != second


@pytest.mark.parametrize("form", [{}, {"From": "whatsapp:+5511990000001", "Body": "oi"}, {"MessageSid": ""}])
def test_without_a_sid_it_is_no_message(form: Form) -> None:
    with pytest.raises(BadInput, match="MessageSid"):
        split(form)
    with pytest.raises(BadInput, match="MessageSid"):
        split_status(form, None)


class TestSignature:
    """https://www.twilio.com/docs/usage/webhooks/webhooks-security"""

    url = "https://bot.example/hooks/twilio"
    form = "application/x-www-form-urlencoded"

    def sign(self, url: str, fields: dict[str, str]) -> str:
        return RequestValidator("token").compute_signature(url, fields)

    def test_blank_fields_are_signed_and_kept(self) -> None:
        fields = load("image__without_caption.json")
        body = urlencode(fields).encode()
        assert verify("token", self.url, body, self.form, self.sign(self.url, fields), "") == fields

    def test_repeated_values_are_signed_once_and_sorted(self) -> None:
        body = (FIXTURES / "text__repeated_fields.txt").read_bytes()
        text = self.url + "BlankBlank2BodyEntrega em Santo André?ExtraaExtrabFromwhatsapp:+5511990000001"
        text += "MessageSidSM000000000000000000000000000000f0NumMedia0Towhatsapp:+551130000000WaId5511990000001"
        assert verify("token", self.url, body, self.form, self.sign(text, {}), "")["Blank2"] == ""

    def test_the_query_is_part_of_the_signed_address(self) -> None:
        url, body = f"{self.url}/status?id=row%2D1&x=", b"MessageSid=SM1&MessageStatus=sent"
        signature = self.sign(url, {"MessageSid": "SM1", "MessageStatus": "sent"})
        assert verify("token", url, body, self.form, signature, "id=row%2D1&x=")["MessageStatus"] == "sent"
        with pytest.raises(BadSignature):
            verify("token", f"{self.url}/status?id=row-1&x=", body, self.form, signature, "id=row-1&x=")

    def test_a_port_that_twilio_left_out_is_no_difference(self) -> None:
        signature = self.sign(self.url, {"MessageSid": "SM1"})
        assert verify("token", "https://bot.example:443/hooks/twilio", b"MessageSid=SM1", self.form, signature, "")

    @pytest.mark.parametrize("signature", [None, "", "AAAA", "é" * 28])
    def test_missing_or_wrong(self, signature: str | None) -> None:
        with pytest.raises(BadSignature, match="X-Twilio-Signature"):
            verify("token", self.url, b"MessageSid=SM1", self.form, signature, "")

    def test_another_token_is_wrong(self) -> None:
        signature = self.sign(self.url, {"MessageSid": "SM1"})
        with pytest.raises(BadSignature):
            verify("secondary", self.url, b"MessageSid=SM1", self.form, signature, "")

    @pytest.mark.parametrize("url", ["http://[bad/hooks/twilio", "http://host:99999999/hooks/twilio"])
    def test_an_address_that_is_none_is_a_wrong_signature(self, url: str) -> None:
        with pytest.raises(BadSignature):
            verify("token", url, b"MessageSid=SM1", self.form, "AAAA", "")

    def test_json_is_covered_by_its_hash(self) -> None:
        body = json.dumps({"MessageSid": "SM1", "Body": None, "NumMedia": 0}).encode()
        query = f"bodySHA256={hashlib.sha256(body).hexdigest()}"
        signature = self.sign(f"{self.url}?{query}", {})
        form = verify("token", f"{self.url}?{query}", body, "application/json; charset=utf-8", signature, query)
        assert form == {"MessageSid": "SM1", "Body": "", "NumMedia": "0"}

    @pytest.mark.parametrize(
        ("value", "said"),
        [("oi", "oi"), (5, "5"), (1.5, "1.5"), (None, ""), (True, ""), (False, ""), ({}, ""), ({"a": 1}, ""), ([], "")],
    )
    def test_what_json_can_say_and_a_form_cannot_is_blank(self, value: Any, said: str) -> None:
        body = json.dumps({"MessageSid": "SM1", "Body": value}).encode()
        query = f"bodySHA256={hashlib.sha256(body).hexdigest()}"
        signature = self.sign(f"{self.url}?{query}", {})
        form = verify("token", f"{self.url}?{query}", body, "application/json", signature, query)
        assert form["Body"] == said

    @pytest.mark.parametrize("query", ["", "bodySHA256=", "bodySHA256=" + "0" * 64])
    def test_json_without_its_hash_is_signed_by_nobody(self, query: str) -> None:
        url = f"{self.url}?{query}" if query else self.url
        with pytest.raises(BadSignature):
            verify("token", url, b'{"MessageSid": "SM1"}', "application/json", self.sign(url, {}), query)

    @pytest.mark.parametrize("body", [b"[]", b"1", b"{", b'{"a":' * 5000, b"\xff\xfe"])
    def test_signed_json_that_is_no_object(self, body: bytes) -> None:
        query = f"bodySHA256={hashlib.sha256(body).hexdigest()}"
        url = f"{self.url}?{query}"
        with pytest.raises(BadInput):
            verify("token", url, body, "application/json", self.sign(url, {}), query)


NAMES = sorted({name for path in FIXTURES.glob("*.json") for name in json.loads(path.read_text())})


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), st.text(max_size=40), max_size=12))
def test_no_form_is_too_strange_to_be_split_and_read(form: Form) -> None:
    for item in split({**form, "MessageSid": "SM1"}):
        read(item.kind, item.payload)
