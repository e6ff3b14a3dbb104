"""Write one dialogue: choose a fact and a phrasing, put passages beside it, know the ideal answer."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.prompts import Language
from core.shop import ASSISTANT_NAME, BUSINESS_NAME
from core.text import fold
from learning.starter.dialogue import Dialogue
from learning.starter.hurry import typed
from learning.starter.slots import SLOT, Filler, choose_dimension, choose_label, figures, load, render

# How often each is drawn within `talk`; what is not named here weighs 1.
_TALK_WEIGHTS = {"greeting": 3.0, "thanks": 3.0, "person": 5.0, "complaint": 3.0, "privacy": 2.0, "bye": 1.5}
# In training less of greetings, which are easily told, and more of what is taken for something to be refused.
_TRAINED_TALK = {"greeting": 2.0, "thanks": 4.0, "person": 7.0, "complaint": 2.0, "bye": 4.0, "jailbreak": 1.5}
# Talk for which the bot looks nothing up.
_PLAIN = {"greeting", "greeting-again", "how-are-you", "thanks", "bye", "ok"}
# Topics so close that a passage of one may half answer a question of another: never taken as "does not say it".
_NEIGHBOURS = (
    {"damage", "exchange", "claim", "guarantee", "return", "refund", "cancel", "trial", "damagework"},
    {"discount", "pay", "loyalty", "limit", "staff", "gift", "pickup", "display", "goal", "commission", "hold",
     "booking"},
    {"delivery", "reschedule", "stairs", "pickup", "receive", "tracking", "oldmattress", "assembly", "minorder",
     "made"},
    {"price", "gift", "made", "course", "capacity", "wifi"},
    {"specs", "advice", "dims", "price", "made", "care", "course"},
    {"hours", "phone", "address", "showroom", "clock", "stocktaking", "training"},
    {"care", "guarantee", "damage", "claim", "advice", "specs"},
    {"shift", "clock", "timebank", "holidays", "sick", "accident"},
    {"address", "parking", "access", "pets", "showroom", "wifi"},
)  # fmt: skip
# Trade questions that the shop cannot answer are hardest beside passages of the same topic.
_TOPICS = {
    r"desconto|promo|discount|black friday": {"discount", "pay"},
    r"entreg|frete|ship|deliver": {"delivery", "stairs"},
    r"pagar|pay|cart": {"pay"},
    r"loja|filial|shop|branch": {"address", "hours"},
    r"garantia|seguro|insurance": {"guarantee"},
    r"vend|sell|tem |do you": {"price", "specs"},
}
# What these hold is a list, of which the answer names one line.
_LISTS = {"price-list", "dimensions"}
_SHORT, _TITLE = 16, 3  # words
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_PARAGRAPHS = 0.25  # of the training dialogues have two passages in one
_OPENERS: dict[Language, list[tuple[str, str]]] = {
    "pt": [("oi, ", "Oi! "), ("olá, ", "Olá! "), ("bom dia, ", "Bom dia! "), ("boa tarde, ", "Boa tarde! "),
           ("boa noite, ", "Boa noite! "), ("oi, tudo bem? ", "Oi! "), ("bom dia! ", "Bom dia! "), ("olá! ", "Olá! ")],
    "en": [("hi, ", "Hi! "), ("hello, ", "Hello! "), ("good morning, ", "Good morning! "), ("hey, ", "Hi! ")],
}  # fmt: skip


@dataclass
class Said:
    """A fact put into words: what its passage says, what is asked about it, and the slots' values."""

    topic: str
    spec: dict[str, Any]
    ask: dict[str, Any]
    values: dict[str, str]
    passage: str
    shows_product: bool = False


class Writer:
    """Writes one dialogue of one business."""

    def __init__(self, rng: random.Random, language: Language, *, held: bool) -> None:
        words = load("words")
        part = "held" if held else "train"
        ours = not held and rng.random() < 0.45
        self.rng = rng
        self.language = language
        self.held = held
        self.business = BUSINESS_NAME if ours else rng.choice(words["businesses"][part])
        self.assistant = ASSISTANT_NAME if ours and rng.random() < 0.8 else rng.choice(words["assistants"][part])
        self.filler = Filler(rng, language, held=held, alvorada=ours)
        facts = load(f"facts_{language}") if held else load(f"facts_{language}") | load(f"trades_{language}")
        self.facts: dict[str, Any] = {topic: spec for topic, spec in facts.items() if held or not spec.get("unseen")}
        self.sayings: dict[str, Any] = load(f"talk_{language}")
        self.phrasings = "held" if held else "q"

    def write(self, kind: str) -> Dialogue:
        if kind == "answer":
            return self.answer()
        if kind == "follow-up":
            return self.follow_up()
        if kind == "unknown":
            return self.unknown()
        return self.complaint() if kind == "complaint" else self.talk()

    # ---- the kinds ---------------------------------------------------------------------------------------------

    def answer(self) -> Dialogue:
        said = self._say(self._topic())
        question = self._fill(self.rng.choice(said.ask[self.phrasings]), said)
        history = self._earlier(said) if self.rng.random() < 0.08 else ()
        return self._from_fact("answer", said, question, history)

    def follow_up(self) -> Dialogue:
        """The question names neither the product nor, often, what about it: that stands in the turn before."""
        rng = self.rng
        style = rng.choices(["line", "product", "topic"], weights=[0.4, 0.35, 0.25])[0]
        phrasings = "fheld" if self.held else "f"
        if style == "line":  # another line of the same list: "e o de casal?"
            topic = "price-list" if rng.random() < 0.85 or "dimensions" not in self.facts else "dimensions"
            before = self._say(topic)
            earlier = self._turn(before)
            said = Said(before.topic, before.spec, before.ask, dict(before.values), before.passage, True)
            choose = choose_label if topic == "price-list" else choose_dimension
            choose(said.values, rng, other=True)
        elif style == "product":  # another fact about the same product
            before = self._say(self._topic(product=True))
            earlier = self._turn(before)
            while before.values["name"].lower() not in " ".join(earlier).lower():  # it has to be named there
                before = self._say(self._topic(product=True))
                earlier = self._turn(before)
            topics = [t for t in self._leaning("any", phrasings) if self.facts[t]["group"] != before.spec["group"]]
            product = {key: before.values[key] for key in ("name", "noun", "nounpl", "o", "um", "oa", "afem")}
            said = self._say(rng.choice(topics), phrasings=phrasings, product=product)
            said.shows_product = True
        else:  # another topic, named in half a sentence: "e o frete?"
            said = self._say(rng.choice(self._leaning("none", phrasings)), phrasings=phrasings)
            others = [ask for ask in said.spec["asks"] if ask is not said.ask and ask[self.phrasings]]
            if others and rng.random() < 0.75:  # something else about the same fact came before: "e no cartão?"
                before = Said(said.topic, said.spec, rng.choice(others), said.values, said.passage)
            else:
                before = self._say(self._topic(other_than=said))
            earlier = self._turn(before)
        question = self._fill(rng.choice(said.ask.get(phrasings) or said.ask["f"]), said)
        history = (*self._small_talk(), earlier) if rng.random() < 0.3 else (earlier,)
        return self._from_fact("follow-up", said, question, history)

    def unknown(self) -> Dialogue:
        """What was found does not answer the question."""
        rng = self.rng
        roll = rng.random()
        passages: tuple[str, ...] = ()
        near = 0.45 <= roll < 0.72
        if roll < 0.45:  # a question that no fact kind is about
            question = rng.choice(self.sayings["unknown"][self.phrasings])
            topic, groups = "unknown", self._topic_groups(question)
            if rng.random() < 0.85:
                close = [t for t, spec in self.facts.items() if spec["group"] in groups] if rng.random() < 0.5 else []
                passages = self._passages(close or list(self.facts), rng.choice([1, 2, 3, 3]))
        elif roll < 0.52:  # the right product, but not the line asked for
            said = self._say("price-list")
            topic, question = said.topic, self._fill(rng.choice(said.ask[self.phrasings]), said)
            label = said.values["label"]
            rest = [line for line in said.values["list"].split(", ") if not line.startswith(f"{label} R$")]
            values = said.values | {"list": ", ".join(rest)}
            missing = self._capital(render(rng.choice(said.spec["passages"]), values))
            passages = (missing, *self._passages(self._far_from(said), rng.choice([0, 1, 2])))
        elif roll < 0.72:  # the right kind of fact, about another product
            said = self._say(self._topic(names_product=True), names_product=True)
            topic = said.topic
            question = self._fill(rng.choice(self._naming(said.ask[self.phrasings])), said)
            others = [self._say(topic).passage for _ in range(rng.choice([1, 1, 2, 3]))]
            passages = tuple(others + list(self._passages(self._far_from(said), rng.choice([0, 1]))))
        else:  # a fact that the shop might know, but what was found is about something else
            said = self._say(self._topic())
            topic = said.topic
            question = self._fill(rng.choice(said.ask[self.phrasings]), said)
            if rng.random() < 0.85:
                passages = self._passages(self._far_from(said), rng.choice([1, 2, 3, 3]))
        shuffled = self._paragraphs(rng.sample(passages, len(passages)))
        history = self._earlier(None) if rng.random() < 0.1 else ()
        answer = self._courtesy("dont-know")
        return self._finish("unknown", topic, question, shuffled, answer, history, near=near)

    def complaint(self) -> Dialogue:
        entry = self.rng.choice(self.sayings["complaint-with-step"])
        said = self._say(entry["fact"], extra=[*entry["a"], *entry[self.phrasings]])
        said.ask = entry
        question = self._fill(self.rng.choice(entry[self.phrasings]), said)
        return self._from_fact("complaint", said, question, (), open_=False)

    def talk(self) -> Dialogue:
        rng = self.rng
        intent = self._intent()
        entry = self.sayings[intent]
        question = rng.choice(entry[self.phrasings])
        answer = self._courtesy(intent)
        history = self._earlier(None) if rng.random() < (0.6 if entry.get("history") else 0.12) else ()
        # The bot looks nothing up for a plain greeting, thanks or goodbye. For the rest it does, and always finds
        # something, if about something else: that must not lead it astray.
        passages = None
        if (roll := rng.random()) < (0.25 if intent in _PLAIN else 0.65):
            passages = () if roll < 0.06 else self._passages(list(self.facts), rng.choice([1, 2, 3, 3, 3]))
        return self._finish("talk", intent, question, passages, answer, history, open_=False)

    # ---- their parts -------------------------------------------------------------------------------------------

    def _topic(self, *, product: bool = False, names_product: bool = False, other_than: "Said | None" = None) -> str:
        """A fact kind, weighed by how many things can be asked about it."""
        weights = {}
        for topic, spec in self.facts.items():
            asks = [ask for ask in spec["asks"] if ask[self.phrasings]]
            if product and spec["product"] == "none" or other_than and spec["group"] == other_than.spec["group"]:
                continue
            if names_product:
                asks = [ask for ask in asks if spec["product"] != "none" and self._naming(ask[self.phrasings])]
            if asks:
                often = 3.0 if topic == "price-list" else 1.0 if spec["product"] == "none" else 1.3
                weights[topic] = len(asks) * often
        return self.rng.choices(list(weights), weights=list(weights.values()))[0]

    def _intent(self) -> str:
        """What talk is about."""
        intents = [name for name, entry in self.sayings.items() if "a" in entry and "q" in entry]
        often = _TALK_WEIGHTS if self.held else _TALK_WEIGHTS | _TRAINED_TALK
        return self.rng.choices(intents, weights=[often.get(i, 1.0) for i in intents])[0]

    def _leaning(self, product: str, phrasings: str) -> list[str]:
        """Fact kinds that have phrasings which lean on the turn before."""
        return [
            topic
            for topic, spec in self.facts.items()
            if (spec["product"] == product) and any(ask.get(phrasings) for ask in spec["asks"])
        ]

    @staticmethod
    def _naming(phrasings: Sequence[str]) -> list[str]:
        return [phrasing for phrasing in phrasings if "{name}" in phrasing or "{prod}" in phrasing]

    def _say(
        self,
        topic: str,
        *,
        phrasings: str | None = None,
        product: dict[str, str] | None = None,
        names_product: bool = False,
        extra: Sequence[str] = (),
    ) -> Said:
        """Put a fact of this kind into words, with something that can be asked about it."""
        spec = self.facts[topic]
        key = phrasings or self.phrasings
        asks = [ask for ask in spec["asks"] if ask.get(key) and (not names_product or self._naming(ask[key]))]
        ask = self.rng.choice(asks or spec["asks"])
        template = self.rng.choice(spec["passages"])
        parts = ("q", "held", "f", "fheld", "a")
        texts = [text for asked in spec["asks"] for part in parts for text in asked.get(part, [])]
        texts += [*spec["passages"], *extra]
        needed = {slot for text in texts for slot in SLOT.findall(text)}
        values = self.filler.fill(needed, product, sized=spec["product"] == "sized")
        passage = self._capital(render(template, values))
        return Said(topic, spec, ask, values, passage)

    def _fill(self, template: str, said: Said) -> str:
        said.shows_product |= any(slot in template for slot in ("{name}", "{prod}", "{feature}"))
        return self._capital(render(template, said.values)) if template[0].isupper() else render(template, said.values)

    def _ideal(self, said: Said) -> str:
        """What has to be said: the first answer whose figures all stand in the passage as it is worded here.

        Always the first: a choice between equally good wordings is noise that a small model would spend its few
        examples on.
        """
        answers = (self._capital(render(template, said.values)) for template in said.ask["a"])
        known = set(figures(said.passage)) | set(figures(said.values["name"]))
        return next(answer for answer in answers if set(figures(answer)) <= known)

    def _answer(self, said: Said, ideal: str) -> str:
        """The ideal answer: the passage's own sentence, but for a line of a list.

        Answers worded anew for each kind of fact are learned as such, and blended where a business has other facts
        ("the bread costs R$ 80 a month"); a copied sentence is true whatever it is about.
        """
        if said.topic in _LISTS:
            return ideal
        return self._capital(sentence_of(said.passage, ideal, set(figures(said.values["name"]))))

    def _turn(self, said: Said) -> tuple[str, str]:
        phrasing = self.rng.choice(said.ask[self.phrasings] or said.ask["held"])
        return typed(self._fill(phrasing, said), self.language, self.rng), self._answer(said, self._ideal(said))

    def _earlier(self, said: Said | None) -> tuple[tuple[str, str], ...]:
        """One or two earlier turns about something else."""
        turns = [self._turn(self._say(self._topic(other_than=said))) for _ in range(self.rng.choice([1, 1, 2]))]
        return tuple(turns)

    def _small_talk(self) -> tuple[tuple[str, str], ...]:
        answer = self._courtesy("greeting")
        return ((self.rng.choice(self.sayings["greeting"][self.phrasings]), answer),)

    def _courtesy(self, intent: str) -> str:
        """What is said back to talk.

        Training sees one wording of each. Where eight say the same, each gets an eighth of its probability, and a
        model that takes the likeliest next word says what has only one wording, right or wrong.
        """
        wordings = self.sayings[intent]["a"]
        wording = self.rng.choice(wordings) if self.held else wordings[0]
        return render(wording, {"assistant": self.assistant, "business": self.business})

    def _passages(self, topics: Sequence[str], count: int) -> tuple[str, ...]:
        return tuple(said.passage for said in self._some(topics, count))

    def _some(self, topics: Sequence[str], count: int) -> list[Said]:
        """Facts of these kinds; only what is about a product may stand twice, about two products."""
        found: list[Said] = []
        left = list(topics)
        while left and len(found) < count:
            topic = self.rng.choice(left)
            if self.facts[topic]["product"] == "none":
                left.remove(topic)
            found.append(self._say(topic))
        return found

    def _paragraphs(self, passages: list[str]) -> list[str]:
        """Some businesses write several facts into one passage. Not so in the held-out sets: they stay comparable."""
        if self.held or len(passages) < 2 or self.rng.random() > _PARAGRAPHS:
            return passages
        first, second, *rest = passages
        return [f"{first} {second}", *rest]

    def _far_from(self, said: Said) -> list[str]:
        group = said.spec["group"]
        near = {group}.union(*(ring for ring in _NEIGHBOURS if group in ring))
        return [topic for topic, spec in self.facts.items() if spec["group"] not in near]

    def _topic_groups(self, question: str) -> set[str]:
        return next((groups for pattern, groups in _TOPICS.items() if re.search(pattern, question.lower())), set())

    def _distractors(self, said: Said, count: int) -> list[Said]:
        """Other facts, with figures of the same look where the question can still be told apart."""
        rng, spec = self.rng, said.spec
        same_group = [t for t, other in self.facts.items() if other["group"] == spec["group"] and t != said.topic]
        elsewhere = [t for t, other in self.facts.items() if other["group"] != spec["group"]]
        close = 0
        same_fact = 0
        for _ in range(count):
            roll = rng.random()
            if roll < 0.45 and said.shows_product and spec["product"] != "none":
                same_fact += 1  # the same fact about another product
            elif roll < 0.65 and not said.ask.get("vague"):
                close += 1
        found = [*self._some([said.topic], same_fact), *self._some(same_group, close)]
        return [*found, *self._some(elsewhere, count - len(found))]

    def _from_fact(
        self, kind: str, said: Said, question: str, history: tuple[tuple[str, str], ...], *, open_: bool = True
    ) -> Dialogue:
        ideal = self._ideal(said)
        answer = ideal if kind == "complaint" else self._answer(said, ideal)
        others = self._distractors(said, self.rng.choice([0, 1, 1, 2, 2, 2, 2]))
        passages = [said.passage, *(other.passage for other in others)]
        self.rng.shuffle(passages)
        passages = self._paragraphs(passages)
        unseen = bool(said.spec.get("unseen"))
        return self._finish(
            kind, said.topic, question, passages, answer, history, unseen=unseen, open_=open_, needed=figures(ideal)
        )  # fmt: skip

    def _finish(
        self,
        kind: str,
        topic: str,
        question: str,
        passages: Sequence[str] | None,
        answer: str,
        history: tuple[tuple[str, str], ...],
        *,
        unseen: bool = False,
        near: bool = False,
        open_: bool = True,
        needed: Sequence[str] = (),
    ) -> Dialogue:
        if open_ and not history and self.rng.random() < 0.12:  # who greets first is greeted back
            before, reply = self.rng.choice(_OPENERS[self.language])
            question, answer = before + question[0].lower() + question[1:], reply + answer
        return Dialogue(
            kind, topic, self.language, self.business, self.assistant, typed(question, self.language, self.rng),
            None if passages is None else tuple(passages), answer, tuple(needed), history, unseen, near,
        )  # fmt: skip

    @staticmethod
    def _capital(text: str) -> str:
        return text[:1].upper() + text[1:]


def sentence_of(passage: str, ideal: str, beside: set[str]) -> str:
    """A short passage whole; of a longer one the fewest sentences that say what `ideal` says: its figures, most words.

    Args:
        beside: figures that need not be said again, such as those of a product's name.
    """
    sentences = [passage] if len(passage.split()) <= _SHORT else _sentences(passage)
    needed, words = set(figures(ideal)), set(fold(ideal).split())
    spans = [sentences[i:j] for i in range(len(sentences)) for j in range(i + 1, len(sentences) + 1)]

    def worth(span: list[str]) -> tuple[int, int, int]:
        said = " ".join(span)
        missing = needed - beside - set(figures(said))
        return (-len(missing), -len(span), len(words & set(fold(said).split())))

    chosen: list[str] = max(spans, key=worth)
    best = " ".join(chosen).rstrip(";,: ")
    return best if best[-1] in ".!?" else f"{best}."


def _sentences(passage: str) -> list[str]:
    """Its sentences; what is only a title ("Prazo de troca.") stays with the next one."""
    found: list[str] = []
    for sentence in _SENTENCE.split(passage):
        if found and len(found[-1].split()) <= _TITLE:
            found[-1] += f" {sentence}"
        else:
            found.append(sentence)
    return found
