"""Many questions about the same passages, of which only the choice of the passage tells the answers apart."""

from collections.abc import Sequence

from learning.starter.dialogue import Dialogue
from learning.starter.slots import choose_label, figures
from learning.starter.writer import Said, Writer

SHARES = {"answer": 0.61, "unknown": 0.24, "talk": 0.15}


class FamilyWriter(Writer):
    """Writes one family, for training alone."""

    def family(self) -> list[Dialogue]:
        """Five to seven questions (fewer where two are the same): what each passage answers, and what none does."""
        rng = self.rng
        first = self._say(self._topic())
        first.shows_product = True  # whoever is asked about below is named where two products could be meant
        found = [first, *self._distractors(first, rng.choice([1, 2, 2, 2]))]
        passages = self._paragraphs(rng.sample([said.passage for said in found], len(found)))
        kinds = rng.choices(list(SHARES), weights=list(SHARES.values()), k=rng.randint(5, 7))
        dialogues = [getattr(self, f"_{kind}_beside")(found, passages) for kind in kinds]
        return list(dict.fromkeys(one for one in dialogues if one is not None))

    def _answer_beside(self, found: Sequence[Said], passages: Sequence[str]) -> Dialogue | None:
        said = self.rng.choice(found)
        rivals = [other for other in found if other is not said]
        among_kin = any(other.topic == said.topic for other in rivals)
        close = any(other.spec["group"] == said.spec["group"] for other in rivals)
        values = dict(said.values)
        if said.topic == "price-list":
            choose_label(values, self.rng)
        asks = [
            (ask, phrasing)
            for ask in said.spec["asks"]
            for phrasing in (self._naming(ask[self.phrasings]) if among_kin else ask[self.phrasings])
            if not (close and ask.get("vague"))
        ]
        if not asks:
            return None
        one = self.rng.choice(said.spec["asks"])  # each thing that can be asked as often, however many its phrasings
        ask, phrasing = self.rng.choice([pair for pair in asks if pair[0] is one] or asks)
        about = Said(said.topic, said.spec, ask, values, said.passage)
        try:
            ideal = self._ideal(about)
        except StopIteration:  # the passage, as it is worded here, does not say that
            return None
        question, answer = self._fill(phrasing, about), self._answer(about, ideal)
        return self._finish("answer", said.topic, question, passages, answer, (), needed=figures(ideal))

    def _unknown_beside(self, found: Sequence[Said], passages: Sequence[str]) -> Dialogue | None:
        rng = self.rng
        roll = rng.random()
        products = [said for said in found if said.spec["product"] != "none"]
        near = [said.topic for said in products if any(self._naming(ask[self.phrasings]) for ask in said.spec["asks"])]
        is_near = bool(near) and roll < 0.4
        if is_near:  # the same fact about a product that none of them is about
            said = self._say(rng.choice(near), names_product=True)
            if said.values["name"] in {other.values["name"] for other in found}:
                return None
            topic, question = said.topic, self._fill(rng.choice(self._naming(said.ask[self.phrasings])), said)
        elif roll < 0.7:
            topic, question = "unknown", rng.choice(self.sayings["unknown"][self.phrasings])
        else:
            far = set.intersection(*(set(self._far_from(said)) for said in found))
            topics = sorted(topic for topic in far if any(ask[self.phrasings] for ask in self.facts[topic]["asks"]))
            if not topics:
                return None
            said = self._say(rng.choice(topics))
            topic, question = said.topic, self._fill(rng.choice(said.ask[self.phrasings]), said)
        answer = self._courtesy("dont-know")
        return self._finish("unknown", topic, question, passages, answer, (), near=is_near)

    def _talk_beside(self, found: Sequence[Said], passages: Sequence[str]) -> Dialogue:
        intent = self._intent()
        question = self.rng.choice(self.sayings[intent][self.phrasings])
        return self._finish("talk", intent, question, passages, self._courtesy(intent), (), open_=False)
