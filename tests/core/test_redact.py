"""Personal data out, and nothing else: a table of cases, and thousands of generated messages."""

import random
import re
import time
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from validate_docbr import CNPJ, CPF

from core.redact import Redactor, redact

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *[(f"meu cpf é {form}", "CPF") for form in ("529.982.247-25", "52998224725", "529 982 247 25")],
        ("meu cpf é 529.982.247/25", "CPF"),
        ("CPF 111.222.333-44", "CPF"),  # written as one: hidden also with a slip in its digits
        *[(f"cnpj: {form}", "CNPJ") for form in ("11.222.333/0001-81", "11222333000181", "11 222 333 0001 81")],
        *[(f"da empresa {form}", "CNPJ") for form in ("12.ABC.345/01DE-35", "12ABC34501DE35", "12abc34501de35")],
        *[(f"me liga: {form}", "PHONE") for form in ("(11) 98765-4321", "11 98765-4321", "+55 11 98765-4321")],
        *[(f"me liga: {form}", "PHONE") for form in ("11987654321", "011 98765-4321", "+5511987654321")],
        *[(f"sem ddd {form}", "PHONE") for form in ("98765-4321", "3456-7890", "9 8765-4321", "(11)3456-7890")],
        *[(f"meu {word} 987654321", "PHONE") for word in ("celular é", "zap:", "whatsapp")],
        *[(f"escreva para {form}", "EMAIL") for form in ("maria@example.com", "M.Silva+x@ex-ample.com.br")],
        ("minha chave pix: 123e4567-e89b-12d3-a456-426614174000", "PIX"),
        *[(f"cartão {form}", "CARD") for form in ("4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111")],
        ("amex 3782 822463 10005", "CARD"),
        ("cartão 4111 1111 1111 1111 12/28 cvv 123", "CARD"),
        ("cartão 4111111111111111 123", "CARD"),
        ("pedido 12 4111 1111 1111 1111", "CARD"),
        *[(f"{form}", "CEP") for form in ("CEP 01310-100", "cep: 01310100", "CEP:01310100", "moro no 01.310-100")],
        *[(f"{form}", "CEP") for form in ("meu cep é 01310100", "cep 01310 100", "Rua Augusta, 01310-100")],
        *[
            (f"{form}", "RG")
            for form in ("rg 12.345.678-9", "RG: 12345678-X", "RG nº 12.345.678-9", "RG n.º 1.234.567-8")
        ],
        ("use a chave sk-abcdefghijklmnop1234567890", "SECRET"),
        ("token xoxb-123456789012-abcdef", "SECRET"),
    ],
)  # fmt: skip
def test_what_is_personal_goes(text: str, kind: str) -> None:
    hidden = redact(text)
    assert hidden.count(f"[{kind}_1]") == 1
    assert len(re.findall(r"\[[A-Z]+_\d+\]", hidden)) == 1
    # Four digits of it in a row would be enough to recognise it; a card's date and code are not the card.
    outside = hidden.replace("12/28", "")
    assert re.search(r"\d{4}", outside) is None


@pytest.mark.parametrize(
    "text",
    [
        "O Cumbuco king custa R$ 1.899,00 ou 10x de R$ 189,90 sem juros.",
        "R$1899 à vista, 12x 199, total de 1.234.567,89",
        "mede 138 x 188 cm, 1,38m x 1,88m, 138x188x28, D33 e D45",
        "entrega em 21/11/2026 às 10:30, ou 2026-11-22, das 8h às 18h, 09:00-18:00",
        "pedido 123456, pedido #20261121, pedido 12345678, nota 4500012345, protocolo 2026112100012",
        "garantia 2025-2026, 90 noites, 10 anos, 3500-4000 reais, entre 1000-2000 reais, R$ 2000-3000",
        "código 1234-5678, SKU CUM-1234-AB, NF 000.123.456",
        "Moro em São Paulo, perto de Santa Maria. Bom dia! Colchão Casal Queen.",
        "",
    ],
)
def test_what_is_no_personal_data_stays(text: str) -> None:
    assert redact(text) == text


class TestNames:
    @pytest.mark.parametrize(
        ("text", "hidden"),
        [
            ("meu nome é maria e quero comprar", "meu nome é [NAME_1] e quero comprar"),
            ("Me chamo João da Silva Santos, moro em Recife", "Me chamo [NAME_1], moro em Recife"),
            ("Aqui é a carla!", "Aqui é a [NAME_1]!"),
            ("Obrigada, Juliana", "Obrigada, [NAME_1]"),
            ("sou o joao", "sou o [NAME_1]"),
            ("Titular: Antônia Ferreira", "Titular: [NAME_1]"),
            ("nome: zuleide prates", "nome: [NAME_1]"),
            ("Hi, I'm Mary Johnson", "Hi, I'm [NAME_1]"),
            ("my name is john smith and i want a bed", "my name is [NAME_1] and i want a bed"),
        ],
    )
    def test_who_introduces_themselves(self, text: str, hidden: str) -> None:
        assert redact(text) == hidden

    @pytest.mark.parametrize("text", ["sou o dono da loja", "sou cliente", "i'm looking for a bed", "I am from Recife"])
    def test_who_says_what_they_are_and_not_who(self, text: str) -> None:
        assert redact(text) == text

    def test_the_name_that_the_channel_told_us(self) -> None:
        hide = Redactor(names=["Zuleide Prates"])
        assert hide("oi, aqui quem escreve: zuleide") == "oi, aqui quem escreve: [NAME_1]"
        assert "Prates" not in hide("Prates, Zuleide")

    def test_the_assistant_keeps_its_name(self) -> None:
        assert Redactor(keep=["Lia"])("Oi Lia, sou Pedro Alves") == "Oi Lia, sou [NAME_1]"


class TestPlaceholders:
    def test_one_value_one_placeholder_in_one_conversation(self) -> None:
        hide = Redactor()
        assert hide("meu cpf é 529.982.247-25") == "meu cpf é [CPF_1]"
        assert hide("cpf 52998224725, e o dela 111.444.777-35") == "cpf [CPF_1], e o dela [CPF_2]"
        assert hide("de novo 529 982 247 25") == "de novo [CPF_1]"

    def test_names_are_the_same_without_accents_and_capitals(self) -> None:
        hide = Redactor()
        assert hide("me chamo João") == "me chamo [NAME_1]"
        assert hide("aqui é o joao") == "aqui é o [NAME_1]"

    def test_two_conversations_know_nothing_of_each_other(self) -> None:
        assert Redactor()("a@example.com") == Redactor()("b@example.com") == "[EMAIL_1]"

    @given(st.text(max_size=200))
    def test_any_text_can_be_redacted_twice(self, text: str) -> None:
        once = redact(text)
        assert redact(once) == once

    @pytest.mark.parametrize("piece", ["1-", "11 ", "a", "a-", "12.ABC.", "Ana da ", "me chamo ", "(11) ", "@"])
    def test_no_text_takes_long(self, piece: str) -> None:
        """As long as a message may be, and made to confuse. A second each; the bound is for a busy machine."""
        started = time.perf_counter()
        redact(piece * (8_000 // len(piece)))
        assert time.perf_counter() - started < 15


DDDS = ("11", "21", "27", "31", "41", "48", "51", "61", "71", "81", "85", "91")
TEMPLATES = (
    "oi, {0}", "meu dado: {0}. pode anotar?", "Segue {0} para o pedido 48213", "{0}", "anota aí {0}, por favor",
    "quero o queen de R$ 2.499,00, {0}", "é {0} ou mandei errado?", "entrega dia 24/11/2026. {0}\nobrigada",
)  # fmt: skip


def _luhn_card(rng: random.Random) -> str:
    body = [int(c) for c in rng.choice(("4", "51", "55", "6062", "36"))]
    body += [rng.randrange(10) for _ in range(15 - len(body))]
    total = sum(d if i % 2 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(body))
    return "".join(map(str, [*body, -total % 10]))


def _phone(rng: random.Random) -> str:
    ddd, a, b = rng.choice(DDDS), f"9{rng.randrange(1000, 9999)}", f"{rng.randrange(10_000):04d}"
    forms = ("({0}) {1}-{2}", "{0} {1}-{2}", "+55 {0} {1}-{2}", "{0}{1}{2}", "+55{0}{1}{2}", "({0}){1}-{2}", "{1}-{2}")
    return rng.choice(forms).format(ddd, a, b)


def _cpf(rng: random.Random) -> str:
    d = CPF().generate()
    form = rng.choice(("{0}.{1}.{2}-{3}", "{0}{1}{2}{3}", "{0} {1} {2} {3}"))
    return form.format(d[:3], d[3:6], d[6:9], d[9:])


def _cnpj(rng: random.Random) -> str:
    """The form with digits and, since July 2026, the one with letters."""
    if rng.random() < 0.5:
        d = CNPJ().generate()
    else:
        body = "".join(rng.choice("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(12))
        d = body + _cnpj_check(body)
    return f"{d[:2]}.{d[2:5]}.{d[5:8]}/{d[8:12]}-{d[12:]}" if rng.random() < 0.5 else d


def _cnpj_check(body: str) -> str:
    """The two check digits of Receita Federal's IN 2.229/2024: character code minus 48, weights 2 to 9."""
    digits = ""
    for _ in range(2):
        values = [ord(c) - 48 for c in body + digits]
        total = sum(v * (2 + i % 8) for i, v in enumerate(reversed(values)))
        digits += str(0 if total % 11 < 2 else 11 - total % 11)
    return digits


KINDS: dict[str, Callable[[random.Random], str]] = {
    "cpf": _cpf,
    "cnpj": _cnpj,
    "phone": _phone,
    "email": lambda r: (
        f"{r.choice(('ana', 'j.silva', 'zé_2'))}{r.randrange(999)}@{r.choice(('ex.com', 'mail.com.br'))}"
    ),
    "pix": lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)),
    "card": lambda r: r.choice(("{0}{1}{2}{3}", "{0} {1} {2} {3}", "{0}-{1}-{2}-{3}")).format(
        *re.findall("....", _luhn_card(r))
    ),
    "cep": lambda r: r.choice(("{0}-{1}", "cep {0}{1}", "CEP: {0}-{1}")).format(
        f"{r.randrange(1000, 99999):05d}", f"{r.randrange(1000):03d}"
    ),
}


def test_two_thousand_messages_leak_no_structured_identifier() -> None:
    rng = random.Random(20261121)
    leaks = []
    for number in range(2_000):
        kind = list(KINDS)[number % len(KINDS)]
        value = KINDS[kind](rng)
        message = rng.choice(TEMPLATES).format(value)
        hidden = redact(message)
        identifier = re.sub(r"^cep:? ", "", value, flags=re.I)
        digits = re.sub(r"\D", "", identifier)
        left = re.sub(r"\D", "", re.sub(r"\[[A-Z]+_\d+\]", "|", hidden))
        if identifier in hidden or (len(digits) >= 8 and digits in left):
            leaks.append((kind, message, hidden))
        assert "48213" not in message or "48213" in hidden
        assert "2.499,00" not in message or "2.499,00" in hidden
        assert "24/11/2026" not in message or "24/11/2026" in hidden
    assert leaks == []


INTRODUCTIONS = (
    "meu nome é {0}", "oi, me chamo {0} e queria saber o preço", "Aqui é {1} {0}, tudo bem?", "sou {1} {0}",
    "Boa tarde, {0} aqui. Quanto custa?", "pode colocar em nome de {0}?", "nome: {0}", "Sou {0}, comprei ontem",
    "quem fala é {1} {0}", "Atenciosamente, {0}", "Entregar para {0}, por favor", "meu nome completo é {0}",
)  # fmt: skip
FIRST = (
    ("o", "João"), ("o", "Pedro Henrique"), ("a", "Maria"), ("a", "Ana Beatriz"), ("o", "Luís"), ("a", "Francisca"),
    ("o", "Raimundo"), ("a", "Tatiane"), ("o", "Wellington"), ("a", "Sônia"), ("o", "Thiago"), ("a", "Jéssica"),
    ("o", "Enzo"), ("a", "Zuleide"), ("o", "Ubiratan"), ("a", "Rosângela"), ("o", "Kauê"), ("a", "Mirtes"),
)  # fmt: skip
SURNAMES = ("", " Silva", " dos Santos", " de Oliveira", " Ferreira Lima", " Nogueira")


def test_names_in_introductions_are_mostly_found(record_property: Callable[[str, object], None]) -> None:
    """Names have no check digit. Three of the eighteen stand in no list, a quarter is written without capitals."""
    rng = random.Random(20261121)
    found = 0
    n = 1_000
    for _ in range(n):
        article, first = rng.choice(FIRST)
        name = first + rng.choice(SURNAMES)
        said = name.lower() if rng.random() < 0.25 else name
        hidden = redact(rng.choice(INTRODUCTIONS).format(said, article))
        words = [word for word in said.split() if word not in ("de", "dos")]
        found += not any(re.search(rf"\b{re.escape(word)}\b", hidden) for word in words)
    record_property("names_recall", found / n)
    assert found / n >= 0.90, f"recall {found / n:.3f}"


def test_surnames_alone_after_sir_and_madam() -> None:
    assert redact("quero falar com o sr. Nogueira") == "quero falar com o sr. [NAME_1]"


@pytest.mark.parametrize(("begin", "again"), [("", "a"), ("", "-"), ("", "a@"), ("a@", "a"), ("rg n", "°")])
def test_a_long_hostile_text_takes_its_length_and_not_its_square(begin: str, again: str) -> None:
    """Looked at anew from each of its characters, a million of them would take an hour."""
    text = begin + again * (1_000_000 // len(again))
    assert redact(text) == text


@pytest.mark.parametrize("around", ["{}", "<{}>", "+{}", "{}+x", "{}, {}.", "x@{}", "@{}", "{}..", "a@b {}"])
def test_an_address_is_found_whatever_stands_beside_it(around: str) -> None:
    assert "ana.b+c@d-e.com" not in redact(around.replace("{}", "ana.b+c@d-e.com.br"))


def test_one_address_right_behind_another_is_found() -> None:
    assert redact("ana@b.com+c@d.com") == "[EMAIL_1][EMAIL_2]"
