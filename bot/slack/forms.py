"""What people see in Slack: forms, notes, suggestions. Block Kit, in both languages."""

import json
from typing import Any

from core.prompts import Language
from core.tables import Annotation, AnnotationItem
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
        "thinking": "está pensando…",
        "suggestions": "O que você quer saber?",
        "review": "Uma resposta para revisar",
        "question": "Pergunta",
        "answer": "Resposta",
        "approve": "Aprovar",
        "correct": "Corrigir",
        "reject": "Rejeitar",
        "corrected": "O que deveria ter sido respondido",
        "note": "Comentário",
        "approved": "✅ Aprovada",
        "corrected_by": "✏️ Corrigida",
        "rejected": "🚫 Rejeitada",
        "by": "por",
        "no_reviewer": "Você não está na lista de quem revisa (SLACK_REVIEWERS).",
        "taken": "Este item já foi decidido, ou está com outra pessoa.",
        "gone": "Este item não existe mais.",
        "reply": "Responder",
        "your_reply": "Sua resposta",
        "replied": "A resposta saiu.",
        "empty": "A resposta está vazia.",
        "returned": "A conversa voltou para o bot.",
        "stopped": "Esta pessoa pediu para não receber mais mensagens (PARAR). Devolva a conversa ao bot.",
        "elsewhere": "Só no canal da equipe (SLACK_HANDOVER_CHANNEL).",
        "customer": "Cliente",
        "bot": "Bot",
        "person": "Equipe",
        "disliked": "não gostaram",
        "guarded": "barrada por uma regra",
        "sample": "amostra",
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
        "thinking": "is thinking…",
        "suggestions": "What would you like to know?",
        "review": "An answer to review",
        "question": "Question",
        "answer": "Answer",
        "approve": "Approve",
        "correct": "Correct",
        "reject": "Reject",
        "corrected": "What should have been answered",
        "note": "Comment",
        "approved": "✅ Approved",
        "corrected_by": "✏️ Corrected",
        "rejected": "🚫 Rejected",
        "by": "by",
        "no_reviewer": "You are not among those who review (SLACK_REVIEWERS).",
        "taken": "This item was decided already, or somebody else has it.",
        "gone": "This item does not exist any more.",
        "reply": "Answer",
        "your_reply": "Your answer",
        "replied": "The answer is on its way.",
        "empty": "The answer is empty.",
        "returned": "The conversation is the bot's again.",
        "stopped": "This person asked for no more messages (PARAR). Give the conversation back to the bot.",
        "elsewhere": "Only in the team's channel (SLACK_HANDOVER_CHANNEL).",
        "customer": "Customer",
        "bot": "Bot",
        "person": "Team",
        "disliked": "disliked",
        "guarded": "caught by a rule",
        "sample": "sample",
    },
}
PROMPTS: dict[Language, list[str]] = {
    "pt": ["O que você sabe fazer?", "Com quem falo no RH?", "Como peço férias?"],
    "en": ["What can you do?", "Whom do I talk to in HR?", "How do I ask for holidays?"],
}
MAX_COMMENT = 2_000
MAX_ANSWER = 2_000  # of a correction; as in the queue
MAX_SECTION = 3_000


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


def correction_form(language: Language, item: AnnotationItem, channel: str) -> dict[str, Any]:
    """What the bot should have said, beginning with what it said."""
    words = WORDS[language]
    better = text_input(desk.CORRECTED, initial=item.answer, longest=MAX_ANSWER)
    return modal(
        words,
        desk.CORRECTION_FORM,
        words["correct"],
        {"item": str(item.id), "channel": channel},
        [
            section(f"{words['question']}: {item.question}"),
            field(words["corrected"], desk.CORRECTED, better),
            field(words["note"], desk.COMMENT, text_input(desk.COMMENT), optional=True),
        ],
    )


def reply_form(language: Language, about: dict[str, str], said: list[tuple[str, str]]) -> dict[str, Any]:
    """An answer to somebody who asked for a person, below what was said last: (role, text), oldest first."""
    words = WORDS[language]
    return modal(
        words,
        desk.REPLY_FORM,
        words["reply"],
        about,
        [
            *(section(f"{words.get(role, role)}: {text}") for role, text in said if text.strip()),
            field(words["your_reply"], desk.REPLY, text_input(desk.REPLY)),
        ],
    )


def card(language: Language, item: AnnotationItem) -> list[dict[str, Any]]:
    """An item before reviewers: its redacted question and answer, and three buttons."""
    words = WORDS[language]
    about = " · ".join(filter(None, [item.context, words.get(item.reason, item.reason), item.version]))
    styles = {"approve": "primary", "reject": "danger"}
    buttons = [
        {
            "type": "button", "action_id": f"{desk.REVIEW}_{verdict}", "text": plain(words[verdict]),
            "value": f"{desk.REVIEW}:{item.id}:{verdict}",
            **({"style": styles[verdict]} if verdict in styles else {}),
        }
        for verdict in ("approve", "correct", "reject")
    ]  # fmt: skip
    return [
        {"type": "context", "elements": [plain(f"{words['review']} · {about}")]},
        section(f"{words['question']}: {item.question}"),
        section(f"{words['answer']}: {item.answer}"),
        {"type": "actions", "block_id": f"{desk.REVIEW}-{item.id}", "elements": buttons},
    ]


def decided(language: Language, item: AnnotationItem, annotation: Annotation | None) -> str:
    """What is left of a card: the verdict, whose, and about which question."""
    words = WORDS[language]
    if annotation is None:
        return words["taken"]
    verdicts = {"approve": "approved", "correct": "corrected_by", "reject": "rejected"}
    who = annotation.reviewer.removeprefix("slack:")
    return f"{words[verdicts[annotation.verdict]]} {words['by']} {who} · {words['question']}: {item.question}"


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": plain(text[:MAX_SECTION])}


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
