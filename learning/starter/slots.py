"""Fill the slots of a template with names and figures.

A fact kind (text/facts_*.yaml) is written once with slots: "{O} {name} {label} custa {price}." `Filler` draws values
for one example so that no two facts of it share a name or a figure: an answer with a figure then shows which passage
it was read from. A part of all names and figures never appears in training (`held_out`); the held-out evaluation
uses only those.
"""

import random
import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from core.prompts import Language

SLOT = re.compile(r"\{(\w+)\}")
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


@cache
def load(name: str) -> Any:
    """A YAML file of `learning/starter/text`."""
    return yaml.safe_load(files("learning.starter").joinpath("text", f"{name}.yaml").read_text(encoding="utf-8"))


def held_out(kind: str, value: int) -> bool:
    """Whether a figure of this kind is kept for the evaluation: one in five, chosen by a hash, always the same."""
    return zlib.crc32(f"{kind}:{value}".encode()) % 5 == 0


# Whole numbers by kind of slot: smallest, largest, step.
RANGES: dict[str, tuple[int, int, int]] = {
    "big": (150, 6990, 10), "small": (12, 240, 1), "days": (2, 60, 1), "hours": (6, 96, 1), "years": (2, 20, 1),
    "months": (2, 36, 1), "nights": (7, 150, 1), "pct": (4, 60, 1), "pctsmall": (1, 15, 1), "times": (2, 36, 1),
    "cm": (8, 240, 1), "cmsmall": (2, 15, 1), "kg": (70, 420, 5), "num": (11, 1990, 1), "ndays": (15, 365, 1),
    "age": (12, 25, 1), "floor": (2, 9, 1), "count": (2, 48, 1), "few": (2, 9, 1), "min": (3, 90, 1),
    "people": (12, 480, 1), "degrees": (25, 95, 1), "degsmall": (2, 9, 1), "day": (2, 30, 1), "ext": (11, 99, 1),
    "width": (60, 240, 1),
}  # fmt: skip
# Too few values to keep some of them out of training.
_ALWAYS_SHARED = {"few", "floor", "degsmall", "age", "pctsmall", "cmsmall"}
# Slots whose value is a word of the list of the same name in text/words.yaml.
_WORDS = {
    "feature", "firm", "firmadj", "material", "color", "whofor", "extra", "giftitem", "weekday", "weekday2", "wkend",
    "landmark", "part", "service", "subject", "channel",
}  # fmt: skip


def money(value: float, language: Language) -> str:
    """1290 -> "R$ 1.290" (pt) or "R$ 1,290" (en); cents only where there are some."""
    text = f"{value:,.2f}" if value != int(value) else f"{int(value):,}"
    if language == "pt":
        text = text.translate(str.maketrans(",.", ".,"))
    return f"R$ {text}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


class Filler:
    """Draws the values of one example; remembers what it used.

    Args:
        held: draw only names and figures kept for the evaluation (else only those for training).
        alvorada: use the product names of the project's own fictional shop.
    """

    def __init__(self, rng: random.Random, language: Language, *, held: bool, alvorada: bool = False) -> None:
        self.rng = rng
        self.language = language
        self.held = held
        self.alvorada = alvorada
        self.used: set[str] = set()
        words = load("words")
        part = "held" if held else "train"
        self.words = words[language]
        self.nouns = self.words["bed_nouns"] if alvorada and rng.random() < 0.8 else self.words["nouns"][part]
        self.names = words["products"]["alvorada" if alvorada else part]
        self.am_pm = language == "en" and rng.random() < 0.4  # the shop's English says 9h; other shops may say 9 am
        self.pools = {name: words[name][part] for name in ("cities", "streets", "coupons")}

    def pick(self, pool: Sequence[Any]) -> Any:
        """A value not used yet in this example (any value, if all were)."""
        fresh = [value for value in pool if str(value) not in self.used]
        value = self.rng.choice(fresh or list(pool))
        self.used.add(str(value))
        return value

    def number(self, kind: str, *, above: int | None = None, below: int | None = None) -> int:
        """A figure of a kind, different from every other one in this example."""
        low, high, step = RANGES[kind]
        values = [
            value
            for value in range(low, high + 1, step)
            if (kind in _ALWAYS_SHARED or held_out(kind, value) == self.held)
            and (above is None or value > above)
            and (below is None or value < below)
        ]
        return int(self.pick(values or [value for value in range(low, high + 1, step)]))

    def price(self, kind: str = "big") -> str:
        value: float = self.number(kind)
        if self.rng.random() < 0.12:
            value += 0.9 if self.rng.random() < 0.7 else 0.5
        return money(value, self.language)

    def hour(self, low: int, high: int, *, minutes: bool = True) -> str:
        hour = int(self.pick(range(low, high + 1)))
        half = minutes and self.rng.random() < 0.15
        if self.am_pm:
            return f"{hour % 12 or 12}{':30' if half else ''} {'am' if hour < 12 else 'pm'}"
        return f"{hour}h30" if half else f"{hour}h"

    def product(self) -> dict[str, str]:
        """Name, noun and the Portuguese word forms that agree with the noun."""
        noun, gender, plural = self.rng.choice(self.nouns)
        return {"name": self.pick(self.names), **noun_forms(noun, gender, plural)}

    def fill(self, needed: set[str], product: dict[str, str] | None = None, *, sized: bool = False) -> dict[str, str]:
        """Values for the slots in `needed`.

        Args:
            product: reuse this product (a conversation about one thing) instead of drawing a new one.
            sized: the fact lists sizes: draw a noun and labels that go together.
        """
        needed = {slot[0].lower() + slot[1:] for slot in needed}  # {Noun} is {noun} with a capital
        values = dict(product or self.product())
        labels = self._labels(values, sized and product is None)
        values["prod"] = f"{values['noun']} {values['name']}"
        if needed & {"list", "label", "qlabel", "price", "price2"}:
            self._price_list(values, labels)
        if needed & {"dimlist", "dimlabel", "dim"}:
            self._dimensions(values, labels)
        for slot in sorted(needed):
            if slot not in values:
                self._one(slot, values, needed)
        for slot in [*values]:
            values[capital(slot)] = values.get(capital(slot)) or capital(values[slot])
        return values

    def _labels(self, values: dict[str, str], sized: bool) -> list[list[str]]:
        beds = [noun for noun, _, _ in self.words["bed_nouns"]]
        if sized and self.rng.random() < 0.65 and values["noun"] not in beds:
            values.update(noun_forms(*self.rng.choice(self.words["bed_nouns"])))
        labels = self.words["bed_labels"] if values["noun"] in beds else self.rng.choice(self.words["label_sets"])
        count = len(labels) if self.rng.random() < 0.6 else max(2, len(labels) - self.rng.randint(0, 2))
        start = self.rng.randint(0, len(labels) - count)
        return list(labels[start : start + count])

    def _price_list(self, values: dict[str, str], labels: list[list[str]]) -> None:
        """Also sets one chosen line: {label}, {qlabel} (how it is asked for), {price}."""
        prices = [self.price() for _ in labels]
        values["list"] = ", ".join(f"{label[0]} {price}" for label, price in zip(labels, prices, strict=True))
        values["_labels"] = "|".join("/".join([*label, price]) for label, price in zip(labels, prices, strict=True))
        choose_label(values, self.rng)
        values["price2"] = self.price()

    def _dimensions(self, values: dict[str, str], labels: list[list[str]]) -> None:
        sizes = [f"{self.number('width')} x {self.number('width')}" for _ in labels]
        values["dimlist"] = ", ".join(f"{label[0]} {size} cm" for label, size in zip(labels, sizes, strict=True))
        values["_dims"] = "|".join(f"{label[0]}/{size}" for label, size in zip(labels, sizes, strict=True))
        choose_dimension(values, self.rng)

    def _one(self, slot: str, values: dict[str, str], needed: set[str]) -> None:
        kind = slot.rstrip("0123456789").lower()
        simple: dict[str, Callable[[], str]] = {
            "n": lambda: str(self.pick(self.names)),
            "phone": lambda: f"(00) {self.rng.randint(2000, 5999)}-{self.rng.randint(0, 9999):04d}",
            "city": lambda: str(self.pick(self.pools["cities"])),
            "street": lambda: str(self.pick(self.pools["streets"])),
            "coupon": lambda: str(self.pick(self.pools["coupons"])),
            "small": lambda: self.price("small"),
            "klabel": lambda: str(self.pick(self.words["kids"])),
            "kgask": lambda: str(int(values["kg"]) - self.rng.choice([4, 7, 12, 18])),
            "floorask": lambda: str(int(values["floor"]) + self.rng.randint(1, 4)),
        }
        if slot.endswith("ask") and (origin := slot.removesuffix("ask")) not in values:
            values[origin] = str(self.number(origin))  # what is asked about hangs on a figure of the same fact
        if kind == "h":
            self._hours(values, needed)
        elif kind == "adj":
            values["adj"], values["adj2"] = self.rng.choice(self.words["adj"])
        elif kind == "month":
            values["month"], values["month2"] = self.rng.choice(self.words["month"])
        elif kind == "biz":
            values["biz"], values["Biz"] = self.rng.choice(self.words["biz"])
        elif kind in ("noun", "nounpl", "o", "um", "oa"):  # a second noun
            other = [entry for entry in self.nouns if entry[0] != values["noun"]] or self.nouns
            values.update({f"{key}2": form for key, form in noun_forms(*self.rng.choice(other)).items()})
        elif kind in simple:
            values[slot] = simple[kind]()
        elif slot in _WORDS or kind in _WORDS:
            values[slot] = str(self.pick(self.words[slot if slot in self.words else kind]))
        else:
            values[slot] = str(self.number(kind))

    def _hours(self, values: dict[str, str], needed: set[str]) -> None:
        """Opening and closing hours in order; a single {h} is a deadline, any hour of the day."""
        if "h2" in needed:
            values["h"], values["h2"] = self.hour(6, 11), self.hour(13, 22)
            values["h3"], values["h4"] = self.hour(6, 11), self.hour(12, 20)
        else:
            values["h"] = self.hour(8, 20)


def noun_forms(noun: str, gender: str, plural: str) -> dict[str, str]:
    """A noun and what agrees with it: {o} {um} and the endings {oa} ("nov{oa}"), {afem} ("algum{afem}")."""
    masculine = gender == "m"
    return {
        "noun": noun, "nounpl": plural, "o": "o" if masculine else "a", "um": "um" if masculine else "uma",
        "oa": "o" if masculine else "a", "afem": "" if masculine else "a",
    }  # fmt: skip


def choose_label(values: dict[str, str], rng: random.Random, *, other: bool = False) -> None:
    """Point {label}, {qlabel} and {price} at one line of the price list; `other`: at another line than now."""
    lines = [line.split("/") for line in values["_labels"].split("|")]
    label, *asked, price = rng.choice([line for line in lines if not other or line[0] != values["label"]] or lines)
    values |= {"label": label, "qlabel": rng.choice(asked), "price": price}


def choose_dimension(values: dict[str, str], rng: random.Random, *, other: bool = False) -> None:
    """The same for {dimlabel} and {dim}."""
    lines = [line.split("/") for line in values["_dims"].split("|")]
    values["dimlabel"], values["dim"] = rng.choice(
        [line for line in lines if not other or line[0] != values["dimlabel"]] or lines
    )


def render(template: str, values: dict[str, str]) -> str:
    """`template` with its slots filled.

    Raises:
        KeyError: a slot has no value.
    """
    return SLOT.sub(lambda match: values[match[1]], template)


def figures(text: str) -> list[str]:
    """The numbers in a text, as written: "R$ 1.290 em 12x" -> ["1.290", "12"]."""
    return FIGURE.findall(text)
