"""Personal data out: before replay, export, logs, traces, or a reviewer's eye.

Identifiers with a check digit are found by pattern and proved by the digit (validate-docbr; the CNPJ with letters
of July 2026 included); phones by Google's metadata (phonenumbers); names by the words around them, by a list of
first names common in Brazil, and by the name the channel told us. One value gets one placeholder within one
conversation, so that "call me at [PHONE_1]" and a later "[PHONE_1] again" still mean the same.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import phonenumbers
from validate_docbr import CNPJ, CPF

from core.settings import Settings

# Texts may be hostile and long. A run that could be looked at again from each of its characters, or cut in two in many
# ways, would take its length squared: so it is taken whole (`++`), here with or without what makes it an address.
_EMAIL = re.compile(r"[\w.+-]++(?:@[\w-]++(?:\.[\w-]++)+)?")
_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I)
MAX_CARD = 19  # digits (ISO/IEC 7812)
_DIGITS = re.compile(r"(?<![\d.,])\d(?:[ .-]?\d){12,}")  # long enough for a card, maybe with more digits around it
_CNPJ = re.compile(
    r"(?<![\w.])[0-9A-Z]{2}[. ]?[0-9A-Z]{3}[. ]?[0-9A-Z]{3}[/ ]?[0-9A-Z]{4}[- ]?\d{2}(?!\w)", re.I
)  # fmt: skip
_CPF = re.compile(r"(?<![\d.])\d{3}[. -]?\d{3}[. -]?\d{3}[-. /]?\d{2}(?!\d)")
_CPF_WRITTEN = re.compile(r"\d{3}\.\d{3}\.\d{3}-\d{2}")
_CNPJ_WRITTEN = re.compile(r"[0-9A-Z]{2}\.[0-9A-Z]{3}\.[0-9A-Z]{3}/[0-9A-Z]{4}-\d{2}", re.I)
# A number without its area code: not two years, not a span of prices, and no number begins with 0 or 1.
_YEARS = r"(?!(?:19|20)\d\d-(?:19|20)\d\d(?!\d))"
_LOCAL_PHONE = re.compile(
    rf"(?<![\d.,-])(?<!R\$)(?<!R\$ ){_YEARS}(?:9[ .]?\d{{4}}|[2-9]\d{{3}})-\d{{4}}(?!\d)(?!\s*reais)", re.I
)
# A mobile with its area code. Google's matcher overlooks it where other digits stand before it.
_MOBILE = re.compile(r"(?<![\d,])(?:\+?55[ .-]?)?\(?0?[1-9][1-9]\)?[ .-]?9[ .-]?\d{4}[ .-]?\d{4}(?!\d)")
# Where a pattern has a group, the group alone is hidden: the word before it tells what it is.
_SAID_PHONE = re.compile(r"\b(?:fone|telefone|tel|celular|cel|zap|whats|whatsapp)\b\D{0,12}(\d[\d .-]{6,14}\d)", re.I)
_CEP = re.compile(r"(?<![\d.-])\d{2}\.?\d{3}-\d{3}(?!\d)")
_SAID_CEP = re.compile(r"\bcep\b\D{0,6}(\d{5}[ -]?\d{3})(?!\d)", re.I)
_RG = re.compile(r"\brg\b(?:\W*+n(?:\W*+[ºo]++)?)?\W*([\d.xX-]{7,13})", re.I)
_SECRET_LIKE = re.compile(r"\b(?:sk-|xox[abp]-|sb_secret_|EAA)[\w-]{10,}")

_WORD = r"[A-ZÁÂÃÀÉÊÍÓÔÕÚÇ][\w'’-]+"
_SURNAMES = rf"(?:\s+(?:d[aeo]s?\s+|e\s+)?{_WORD}){{0,4}}"
_PARTICLES = frozenset("da de do das dos e".split())
# After these words a name follows, capitalised or not (customers rarely capitalise).
_INTRODUCED = re.compile(
    r"(?:\b(?:meu nome (?:completo )?(?:é|e)|me chamo|chamo-me|aqui (?:é|e) (?:o|a)|quem fala (?:é|e) (?:o|a)|"
    r"nome do titular(?: é)?|em nome de|falar com (?:o|a) (?:sr\.?|sra\.?|senhor|senhora)|my name is|i am called|"
    r"this is (?:mr|ms|mrs)\.?)[:\s]+|\b(?:titular|nome|name)\s*:\s*)"
    r"((?:[^\W\d_][\w'’-]+)(?:\s+(?:d[aeo]s?\s+)?[^\W\d_][\w'’-]+){0,3})",
    re.I,
)
# After these only a capitalised one: "sou cliente", "I'm looking for a bed".
_SAID_TO_BE = re.compile(
    rf"\b(?:[Ss]ou (?:[oa] )?|I'?m |I am |(?:[Aa]tenciosamente|[Aa]tt\.?|[Aa]braços?),\s+)({_WORD}{_SURNAMES})"
)
_STOP_AFTER_NAME = frozenset(
    "e eu quero queria gostaria preciso moro meu minha tenho comprei estou sou com para pra que não nao and i my from"
    " want would need bought live do da no na o a vocês voces".split()
)
# Frequent first names in Brazil (2010 census, the public ranking), without those that are also common words.
_FIRST_NAMES = frozenset(
    """adriana adriano aline alex alexandre alice amanda ana anderson andré andrea andreia antônio antonio arthur artur
    augusto beatriz benedita benedito bernardo bianca breno bruna bruno caio camila carla carlos carolina caroline
    cauã cecília célia célio césar cesar cícero clara claudia cláudia cláudio claudio cleber cristiane cristiano
    cristina daniel daniela daniele danilo davi david débora debora denise diego diogo douglas edson eduarda eduardo
    elaine eliane elias elisa elisabete eliseu elza emanuel emerson enzo eric erick érica estela ester evandro fabiana
    fabiano fábio fabio fabrício felipe fernanda fernando flávia flávio francisca francisco gabriel gabriela
    geraldo gerson gilberto gilmar giovana giovanna giovanni gisele guilherme gustavo heitor helena hélio henrique
    hugo iago igor ines inês iolanda irene isaac isabel isabela isabella isadora israel ivan ivone jaime jair janaína
    jéssica jessica jesus joana joão joao joaquim joel jonas jonathan jorge josé jose josefa joyce juan juliana juliano
    júlia julia júlio julio karen karina kátia kelly kevin laís lara larissa laura lauro lavínia leandro leonardo
    letícia leticia lia lígia lilian lorena lorenzo lourdes luan luana lucas lúcia lucia luciana luciano luís luis luiz
    luiza luísa maicon manoel manuel manuela mara marcela marcelo márcia marcia márcio marcio marco marcos margarida
    maria mariana marina mário mario marlene marta mateus matheus maurício mauricio mauro mayara melissa michele miguel
    milena miriam mirella mônica monica murilo nádia natália natalia nathália nelson nicolas nicole noah otávio pablo
    pâmela patrícia patricia paula paulo pedro pietro priscila rafael rafaela raimunda raimundo raíssa raquel raul
    rebeca regiane regina reginaldo renan renata renato ricardo rita roberta roberto rodolfo rodrigo rogério roger
    romário ronaldo rosana rosângela roseli rubens ruth sabrina samanta samuel sandra sandro sara sarah sebastião sérgio
    sergio sílvia silvia silvio simone sofia solange sônia sonia sophia stella suelen sueli suzana taís talita tânia
    tatiana tatiane teresa teresinha thaís thais theo thiago tiago tomás valdir valentina valéria valter vanderlei
    vanessa vera vicente victor vinícius vinicius vitor viviane wagner walter wellington wesley william willian yago
    yasmin yuri""".split()
)
# Of those, the ones that are also words: names only where they are capitalised.
_ALSO_WORDS = frozenset("clara estela irene jesus lia mara margarida marina sara vera vitor".split())
# Frequent surnames: where they follow a first name they are part of it, capitalised or not.
_LAST_NAMES = frozenset(
    """albuquerque alencar almeida alves amaral andrade antunes aquino araujo azevedo barbosa barros batista bezerra
    borges braga brito cabral camargo campos cardoso carneiro carvalho castro cavalcante chaves coelho correia costa
    cruz cunha dias duarte farias fernandes ferreira figueiredo fonseca franco freitas furtado garcia gomes goncalves
    guimaraes junior leal leite lima lopes macedo machado magalhaes maia marinho marques martins medeiros melo mendes
    menezes miranda monteiro moraes morais moreira mota moura nascimento neto neves nogueira nunes oliveira pacheco
    paiva peixoto pereira pinheiro pinto pires queiroz ramos rangel reis rezende ribeiro rocha rodrigues sales sampaio
    santana santos silva silveira siqueira soares sousa souza tavares teixeira torres trindade vasconcelos vaz viana
    vieira xavier""".split()
)
_NAME_WORD = re.compile(r"(?<![\w@])[^\W\d_][\w'’-]*")


@dataclass
class Redactor:
    """Redacts the texts of one conversation; the same value gets the same placeholder in all of them.

    Args:
        names: what the channel says the person is called; hidden wherever it is written.
        keep: words that are no personal data though they look it (the assistant's name, products).
    """

    names: Iterable[str] = ()
    keep: Iterable[str] = ()
    _known: dict[tuple[str, str], str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keep = {_plain(word) for phrase in self.keep for word in phrase.split()}
        words = {_plain(word) for name in self.names for word in re.findall(r"[^\W\d_]{3,}", name)}
        self._own_words = words - self._keep

    @classmethod
    def of(cls, settings: Settings, *names: str | None) -> "Redactor":
        """Knows what a person is called, and leaves the bot's and the business's names as they are."""
        return cls(names=[name for name in names if name], keep=[settings.assistant_name, settings.business_name])

    def __call__(self, text: str) -> str:
        text = self._each(_SECRET_LIKE, "SECRET", text)
        text = self._each(_EMAIL, "EMAIL", text, lambda run: "@" in run)
        text = self._each(_UUID, "PIX", text)
        text = _DIGITS.sub(self._cards, text)
        text = self._each(_CNPJ, "CNPJ", text, _is_cnpj)
        text = self._each(_CPF, "CPF", text, _is_cpf)
        text = self._phones(text)
        for pattern in (_SAID_CEP, _CEP):
            text = self._each(pattern, "CEP", text)
        text = self._each(_RG, "RG", text)
        return self._people(text)

    def _each(self, pattern: re.Pattern[str], kind: str, text: str, proof: Callable[[str], bool] | None = None) -> str:
        def replace(match: re.Match[str]) -> str:
            value = match[match.lastindex or 0]
            if proof is not None and not proof(value):
                return match[0]
            return match[0].replace(value, self._placeholder(kind, value))

        return pattern.sub(replace, text)

    def _cards(self, match: re.Match[str]) -> str:
        """A card's number among the digits of a row: its date or its code may stand right behind it."""
        groups = re.split(r"([ .-])", match[0])  # groups of digits, and what stands between them
        pieces, start = [], 0
        while start < len(groups):
            end, after = start + 1, 0
            while end <= len(groups) and sum(map(str.isdigit, value := "".join(groups[start:end]))) <= MAX_CARD:
                after = end if _luhn(value) else after
                end += 2
            pieces.append(self._placeholder("CARD", "".join(groups[start:after])) if after else groups[start])
            start = after or start + 1
            pieces += groups[start : start + 1]
            start += 1
        return "".join(pieces)

    def _phones(self, text: str) -> str:
        pieces, end = [], 0
        for match in phonenumbers.PhoneNumberMatcher(text, "BR"):
            pieces += [text[end : match.start], self._placeholder("PHONE", match.raw_string)]
            end = match.end
        text = "".join([*pieces, text[end:]])
        for pattern in (_MOBILE, _LOCAL_PHONE, _SAID_PHONE):
            text = self._each(pattern, "PHONE", text)
        return text

    def _people(self, text: str) -> str:
        def introduced(match: re.Match[str]) -> str:
            words = match[1].split()
            name: list[str] = []
            for word in words:
                if _plain(word) in _STOP_AFTER_NAME and _plain(word) not in ("da", "do"):
                    break
                name.append(word)
            if not name or _plain(name[0]) in self._keep:
                return match[0]
            start = match.start(1) - match.start(0)
            rest = words[len(name) :]
            return match[0][:start] + " ".join([self._placeholder("NAME", " ".join(name)), *rest])

        text = _INTRODUCED.sub(introduced, text)

        def said_to_be(match: re.Match[str]) -> str:
            if _plain(match[1].split()[0]) in self._keep:
                return match[0]
            return match[0].replace(match[1], self._placeholder("NAME", match[1]))

        text = self._common_names(_SAID_TO_BE.sub(said_to_be, text))
        if self._own_words:
            own = re.compile(r"\b[^\W\d_]{3,}\b")
            text = own.sub(lambda m: self._placeholder("NAME", m[0]) if _plain(m[0]) in self._own_words else m[0], text)
        return text

    def _common_names(self, text: str) -> str:
        """First names of the list, with the names that follow them."""
        words = list(_NAME_WORD.finditer(text))
        pieces, done, i = [], 0, 0
        while i < len(words):
            after_saint = i > 0 and _plain(words[i - 1][0]) in _SAINTS  # São Paulo, Santa Maria: places
            if self._is_first_name(words[i][0]) and not after_saint:
                start, i = words[i].start(), _end_of_name(text, words, i)
                pieces += [text[done:start], self._placeholder("NAME", text[start : words[i].end()])]
                done = words[i].end()
            i += 1
        return "".join([*pieces, text[done:]])

    def _is_first_name(self, word: str) -> bool:
        plain = _plain(word)
        if plain in self._keep or plain not in _PLAIN_FIRST_NAMES:
            return False
        return word[0].isupper() or plain not in _ALSO_WORDS

    def _placeholder(self, kind: str, value: str) -> str:
        key = (kind, _plain(value) if kind == "NAME" else re.sub(r"\W", "", value).lower())
        if key not in self._known:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._known[key] = f"[{kind}_{self._counts[kind]}]"
        return self._known[key]


def redact(text: str) -> str:
    """One text on its own."""
    return Redactor()(text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()


_PLAIN_FIRST_NAMES = frozenset(_plain(name) for name in _FIRST_NAMES)
_SAINTS = frozenset(("sao", "santo", "santa"))


def _end_of_name(text: str, words: list[re.Match[str]], first: int) -> int:
    """The last word of a name that begins at word `first`: surnames, and particles between them."""
    last = i = first
    while i + 1 < len(words) and i - first < 8 and text[words[i].end() : words[i + 1].start()].isspace():
        i += 1
        plain = _plain(words[i][0])
        if plain in _PARTICLES:
            continue
        if not words[i][0][0].isupper() and plain not in _LAST_NAMES | _PLAIN_FIRST_NAMES:
            break
        last = i
    return last


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d if i % 2 == 0 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= MAX_CARD and sum(doubled) % 10 == 0 and len(set(digits)) > 1


def _is_cnpj(text: str) -> bool:
    return bool(_CNPJ_WRITTEN.fullmatch(text)) or bool(CNPJ().validate(re.sub(r"[./ -]", "", text).upper()))


def _is_cpf(text: str) -> bool:
    return bool(_CPF_WRITTEN.fullmatch(text)) or bool(CPF().validate(re.sub(r"\D", "", text)))
