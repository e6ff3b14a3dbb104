"""One dialogue of the starter corpus: what the model reads, and the ideal answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.prompts import ChatMessage, Language, chat_messages

if TYPE_CHECKING:
    from learning.dataset import Example


@dataclass(frozen=True)
class Dialogue:
    """One example.

    Attributes:
        kind: one of SHARES; `topic` is the fact kind or the talk intent within it.
        needed: the figures that a right answer gives.
        passages: as in `chat_messages`; None where nothing was looked up.
        unseen: of a fact kind that training never sees.
        near: of kind `unknown`, where what was found is the same kind of fact about another product or size.
    """

    kind: str
    topic: str
    language: Language
    business: str
    assistant: str
    question: str
    passages: tuple[str, ...] | None
    answer: str
    needed: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    unseen: bool = False
    near: bool = False

    @property
    def messages(self) -> list[ChatMessage]:
        return chat_messages(
            language=self.language, assistant=self.assistant, business=self.business, question=self.question,
            passages=self.passages, history=self.history,
        )  # fmt: skip

    def example(self) -> "Example":
        from learning.dataset import Example  # torch is loaded only where tensors are made

        return Example(tuple(self.messages), self.answer)
