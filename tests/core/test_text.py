"""Text folded, split and cleaned: nothing lost, nothing Postgres refuses, one person per phone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from core.messages import MAX_TEXT, InboundItem, clean, clean_payload, feedback_button, read_feedback_button
from core.text import canonical_phone, fold, length, split_text, words

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def test_accents_and_capitals_are_one_word() -> None:
    assert fold("Colchão DE Ação") == "colchao de acao"
    assert words("NÃO, obrigada! 2x R$ 1.899") == ["nao", "obrigada", "2x", "r", "1", "899"]


class TestSplit:
    def test_at_sentences(self) -> None:
        text = "Temos três modelos de casal. O Cumbuco é o mais vendido. Entregamos em dez dias."
        parts = split_text(text, 60)
        assert parts == ["Temos três modelos de casal. O Cumbuco é o mais vendido.", "Entregamos em dez dias."]

    def test_at_spaces_where_there_is_no_sentence(self) -> None:
        assert split_text("um dois três quatro", 10) == ["um dois", "três", "quatro"]

    def test_a_word_that_fits_is_not_cut(self) -> None:
        assert split_text("ab cdefghij", 10) == ["ab", "cdefghij"]

    def test_a_word_that_does_not_fit_is_cut(self) -> None:
        assert split_text("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]

    def test_short_and_empty(self) -> None:
        assert split_text("  oi  ", 10) == ["oi"]
        assert split_text("", 10) == [""]

    @given(text=st.text(alphabet=st.sampled_from("ab .\n!é😀"), max_size=200), limit=st.integers(8, 40))
    def test_nothing_is_lost_and_no_part_is_too_long(self, text: str, limit: int) -> None:
        parts = split_text(text, limit)
        assert all(len(part.encode("utf-16-le")) // 2 <= limit for part in parts)
        assert "".join("".join(parts).split()) == "".join(text.split())
        whole = {word for word in text.split() if length(word) <= limit}
        assert whole <= {word for part in parts for word in part.split()}


class TestClean:
    def test_nul_and_lone_surrogates_go(self) -> None:
        assert clean("a\x00b\ud800c") == "abc"
        assert clean("\x00\x00") == clean(None) == clean(" \n ") == ""

    def test_a_megabyte_is_bounded(self) -> None:
        assert len(clean("é" * 1_000_000)) == MAX_TEXT

    @given(st.text(alphabet=st.characters()))
    def test_any_text_can_be_stored(self, text: str) -> None:
        cleaned = clean(text)
        cleaned.encode()
        assert "\x00" not in cleaned
        assert clean(cleaned) == cleaned

    def test_a_whole_payload(self) -> None:
        dirty = {"a\x00": ["b\x00", {"c": "\udfff"}], "n": 1, "f": float("nan"), "none": None, "yes": True}
        assert clean_payload(dirty) == {"a": ["b", {"c": ""}], "n": 1, "f": None, "none": None, "yes": True}


def test_phones_of_one_person() -> None:
    """WhatsApp names older Brazilian accounts without the ninth digit that everybody dials."""
    assert canonical_phone("whatsapp:+551187654321") == canonical_phone("+55 (11) 98765-4321") == "+5511987654321"
    assert canonical_phone("+551134567890") == "+551134567890"  # a landline has none
    assert canonical_phone("5491123456789") == canonical_phone("+54 11 2345-6789") == "+541123456789"  # Argentina
    assert canonical_phone("5215512345678") == canonical_phone("+52 55 1234 5678") == "+525512345678"  # Mexico
    assert canonical_phone("BR.123abc") is None
    assert canonical_phone("") is None


def test_feedback_buttons_carry_the_answers_id() -> None:
    assert read_feedback_button(feedback_button("abc", "down")) == ("abc", "down")
    for other in ("", "fb", "fb:abc", "fb:abc:sideways", "fb:a:b:up", "buy:abc:up"):
        assert read_feedback_button(other) is None


def test_signals_have_lanes_of_their_own() -> None:
    """A thumb on an old answer does not wait for the model's next one; an edit keeps its place."""
    lanes = {kind: InboundItem("1", kind, "meta:+55", {}).work_lane for kind in ("message", "edit", "signal", "status")}
    assert lanes == {
        "message": "meta:+55",
        "edit": "meta:+55",
        "signal": "signals/meta:+55",
        "status": "signals/meta:+55",
    }
