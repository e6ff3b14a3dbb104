"""What people see in Slack: forms, notes, suggestions. Block Kit, in both languages."""

import json
from typing import Any

from core.prompts import Language
from integrations.slack import desk

WORDS: dict[Language, dict[str, str]] = {
    "pt": {
        "feedback": "Sobre esta resposta",
        "comment": "O que faltou ou está errado?",
        "problem": "É um problema: alguém precisa ver",
        "flag": "Sinalizar",
        "send": "Enviar",
        "cancel": "Cancelar",
        "too_late": "O formulário demorou demais para abrir. Toque de novo, por favor.",
        "not_ours": "Só dá para comentar respostas minhas.",
        "no_operator": "Você não está na lista de quem pode usar este comando (SLACK_OPERATORS).",
        "perhaps_done": "Não sei se isto foi feito: o processo parou no meio. Confira com /rollout status.",
        "suggestions": "O que você quer saber?",
    },
    "en": {
        "feedback": "About this answer",
        "comment": "What is missing or wrong?",
        "problem": "This is a problem: somebody has to look",
        "flag": "Flag",
        "send": "Send",
        "cancel": "Cancel",
        "too_late": "The form took too long to open. Tap once more, please.",
        "not_ours": "Only my own answers can be commented.",
        "no_operator": "You are not among those who may use this command (SLACK_OPERATORS).",
        "perhaps_done": "I do not know whether this was done: the process stopped. Look at /rollout status.",
        "suggestions": "What would you like to know?",
    },
}
PROMPTS: dict[Language, list[str]] = {
    "pt": ["O que você sabe fazer?", "Com quem falo no RH?", "Como peço férias?"],
    "en": ["What can you do?", "Whom do I talk to in HR?", "How do I ask for holidays?"],
}
MAX_COMMENT = 2_000


def feedback_form(language: Language, about: dict[str, str]) -> dict[str, Any]:
    """A comment, a flag, or both, on one answer."""
    words = WORDS[language]
    flag = {"text": plain(words["problem"]), "value": "problem"}
    return modal(
        words,
        desk.FEEDBACK_FORM,
        words["feedback"],
        about,
        [
            field(words["comment"], desk.COMMENT, text_input(desk.COMMENT), optional=True),
            field(words["flag"], desk.PROBLEM, choices(desk.PROBLEM, [flag]), optional=True),
        ],
    )


def suggestions(language: Language) -> list[dict[str, str]]:
    return [{"title": prompt, "message": prompt} for prompt in PROMPTS[language]]


def modal(
    words: dict[str, str], callback_id: str, title: str, about: dict[str, Any], blocks: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "type": "modal",
        "callback_id": callback_id,
        "private_metadata": json.dumps(about),
        "title": plain(title[:24]),
        "submit": plain(words["send"]),
        "close": plain(words["cancel"]),
        "blocks": blocks,
    }


def field(label: str, name: str, element: dict[str, Any], *, optional: bool = False) -> dict[str, Any]:
    return {"type": "input", "block_id": name, "label": plain(label), "element": element, "optional": optional}


def text_input(name: str, *, initial: str = "", longest: int = MAX_COMMENT) -> dict[str, Any]:
    element = {"type": "plain_text_input", "action_id": name, "multiline": True, "max_length": longest}
    return element | ({"initial_value": initial[:longest]} if initial else {})


def choices(name: str, options: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "checkboxes", "action_id": name, "options": options}


def plain(text: str) -> dict[str, Any]:
    """Text in which nothing is markup: no mention, no link, no emoji name."""
    return {"type": "plain_text", "text": text, "emoji": False}
