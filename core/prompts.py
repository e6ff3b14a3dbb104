"""From a conversation to what the model reads: the same function when answering and when training.

Two halves call `chat_messages`: `bot/chat.py` to answer, `learning/dataset.py` to train. One function
for both means that a change here cannot make the served prompt drift from the trained one.

The system message depends only on the context (who is speaking for which business), so that a server
can keep its attention keys and values between requests. What was looked up for this one question
stands in the last user message.
"""

import re
from collections.abc import Sequence
from typing import Literal, TypedDict

Language = Literal["pt", "en"]
LANGUAGES: tuple[Language, ...] = ("pt", "en")


class ChatMessage(TypedDict):
    """One message in the form OpenAI's chat API and every chat template read."""

    role: Literal["system", "user", "assistant"]
    content: str


_SYSTEM: dict[Language, str] = {
    "pt": (
        "Você é {assistant}, da equipe de atendimento de {business}. Responda em até duas frases, só com as "
        "informações dadas. Se a resposta não estiver nelas, diga que não sabe e ofereça uma pessoa da equipe."
    ),
    "en": (
        "You are {assistant}, of the customer care team of {business}. Answer in at most two sentences, only from "
        "the information given. If the answer is not in it, say that you do not know and offer a person of the team."
    ),
}
_PASSAGES: dict[Language, str] = {"pt": "Informações:", "en": "Information:"}
_NOTHING_FOUND: dict[Language, str] = {"pt": "(nada encontrado)", "en": "(nothing found)"}
_QUESTION: dict[Language, str] = {"pt": "Pergunta:", "en": "Question:"}


def system_prompt(language: Language, *, assistant: str, business: str) -> str:
    """The system message of a context: who answers, for whom, and the two rules it must keep."""
    return _SYSTEM[language].format(assistant=assistant, business=business)


def user_prompt(language: Language, question: str, passages: Sequence[str] | None) -> str:
    """One user turn.

    Args:
        passages: what was looked up for this question, best first; an empty list says that the search found
            nothing; None says that no search was made (a greeting, thanks), and the question stands alone.
    """
    if passages is None:
        return question
    found = "\n".join(f"- {passage}" for passage in passages) or _NOTHING_FOUND[language]
    return f"{_PASSAGES[language]}\n{found}\n{_QUESTION[language]} {question}"


def question_in(user_turn: str) -> str:
    """The question alone of a turn that `user_prompt` wrote."""
    marks = "|".join(map(re.escape, _QUESTION.values()))
    return re.split(rf"\n(?:{marks}) ", user_turn)[-1]


def chat_messages(
    *,
    language: Language,
    assistant: str,
    business: str,
    question: str,
    passages: Sequence[str] | None,
    history: Sequence[tuple[str, str]] = (),
) -> list[ChatMessage]:
    """The whole model input for one turn.

    Args:
        history: earlier (question, answer) pairs of this conversation, oldest first, without their passages.
    """
    messages: list[ChatMessage] = [
        {"role": "system", "content": system_prompt(language, assistant=assistant, business=business)}
    ]
    for asked, answered in history:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answered})
    messages.append({"role": "user", "content": user_prompt(language, question, passages)})
    return messages
