"""Who speaks, in which conversation, and what they allowed."""

import uuid
from datetime import timedelta
from typing import cast

from sqlalchemy import ColumnElement, delete, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from core.errors import NotFound
from core.messages import InboundMessage, InboundPerson, Person
from core.plans import Audience
from core.prompts import Language
from core.tables import (
    Assignment,
    Conversation,
    Customer,
    CustomerIdentity,
    Feedback,
    Message,
    TrainingExample,
    now,
)
from core.text import canonical_phone, words

# Words that are the whole message, folded ("don't" is "don t"). Any other sentence with them is a question for the bot.
# The English ones are those that Twilio obeys by itself in SMS, but "end" and "revoke", which answer questions too.
OPT_OUT = frozenset(
    "parar|pare|sair|cancelar|cancelar inscricao|descadastrar"
    "|stop|stopall|stop all|unsubscribe|cancel|quit|optout|opt out".split("|")
)
OPT_IN = frozenset({"voltar", "start", "unstop", "iniciar"})
NO_TRAINING = frozenset({"nao treinar", "nao aprender", "do not train", "don t train", "dont train", "no training"})
YES = frozenset({"sim", "aceito", "concordo", "pode", "pode sim", "sim pode", "claro", "yes", "i agree", "agree", "ok"})
NO = frozenset({"nao", "nao aceito", "nao quero", "no", "nao obrigado", "nao obrigada"})


def identify(session: Session, person: Person, context: str) -> Customer:
    """The customer behind any of the person's identifiers; a new one where none is known yet.

    A phone without the other ids, and later the other ids with that phone, are one person: new identifiers are
    added to whoever already has one of them, and two customers who turn out to be one are joined.
    """
    keys = [(identifier.kind, identifier.scope, identifier.value) for identifier in person.identifiers]
    column = tuple_(CustomerIdentity.kind, CustomerIdentity.scope, CustomerIdentity.value)
    found = select(Customer).join(CustomerIdentity).where(column.in_(keys)).order_by(Customer.created_at)
    customers = session.scalars(found).unique().all()
    customer = customers[0] if customers else None
    for other in customers[1:]:
        if other.context == customers[0].context:
            join(session, customers[0], other)
    if customer is None:
        customer = Customer(context=context, name=person.name)
        session.add(customer)
        session.flush()
    if person.name and customer.name != person.name:
        customer.name = person.name
    rows = [
        {"id": uuid.uuid4(), "customer_id": customer.id, "kind": kind, "scope": scope, "value": value}
        for kind, scope, value in keys
    ]
    session.execute(insert(CustomerIdentity).values(rows).on_conflict_do_nothing())
    owner = session.scalar(found.limit(1))
    if owner is not None and owner.id != customer.id:
        # Another worker met this person at the same moment, on another lane: theirs stands.
        session.delete(customer)
        session.flush()
        return owner
    return customer


def known(session: Session, person: Person) -> Customer | None:
    """The customer behind any of the identifiers, if there is one."""
    keys = [(identifier.kind, identifier.scope, identifier.value) for identifier in person.identifiers]
    column = tuple_(CustomerIdentity.kind, CustomerIdentity.scope, CustomerIdentity.value)
    found = select(Customer).join(CustomerIdentity).where(column.in_(keys)).order_by(Customer.created_at)
    return session.scalars(found.limit(1)).first()


def learn(session: Session, told: InboundPerson) -> bool:
    """What a vendor told about a person; whether it is somebody we know."""
    customer = known(session, told.person)
    if customer is None:
        return False
    if told.now:
        for identifier in told.gone:
            session.execute(
                delete(CustomerIdentity).where(
                    CustomerIdentity.customer_id == customer.id, CustomerIdentity.kind == identifier.kind,
                    CustomerIdentity.value == identifier.value,
                )
            )  # fmt: skip
        owner = known(session, Person(told.now))
        if owner is not None and owner.id != customer.id:
            customer, younger = sorted((owner, customer), key=lambda one: one.created_at)
            join(session, customer, younger)
        rows = [
            {"id": uuid.uuid4(), "customer_id": customer.id, "kind": new.kind, "scope": new.scope, "value": new.value}
            for new in told.now
        ]
        session.execute(insert(CustomerIdentity).values(rows).on_conflict_do_nothing())
    if told.templates is not None:
        customer.no_templates_at = None if told.templates else now()
    return True


def join(session: Session, kept: Customer, other: Customer) -> None:
    """Two customers are one person: everything of `other` becomes `kept`'s. The stricter wish stands."""
    if other.consent == "denied" or kept.consent == "unknown":
        kept.consent, kept.consent_at = other.consent, other.consent_at
    kept.consent_asked_at = kept.consent_asked_at or other.consent_asked_at
    kept.opted_out_at = kept.opted_out_at or other.opted_out_at
    kept.no_templates_at = kept.no_templates_at or other.no_templates_at
    theirs, ours = aliased(Feedback), aliased(Assignment)
    rated = select(theirs.message_id).where(theirs.customer_id == kept.id, theirs.superseded_at.is_(None))
    session.execute(
        update(Feedback)
        .where(Feedback.customer_id == other.id, Feedback.superseded_at.is_(None), Feedback.message_id.in_(rated))
        .values(superseded_at=now())
    )
    counted = select(ours.rollout_id).where(
        ours.customer_id == kept.id, ours.rollout_id == Assignment.rollout_id, ours.epoch == Assignment.epoch
    )
    session.execute(
        update(Assignment)
        .where(Assignment.customer_id == other.id, ~counted.exists())
        .values(customer_id=kept.id)
        .execution_options(synchronize_session=False)
    )
    for table in (CustomerIdentity, Conversation, Message, Feedback, TrainingExample):
        session.execute(
            update(table)
            .where(table.customer_id == other.id)
            .values(customer_id=kept.id)
            .execution_options(synchronize_session=False)
        )
    session.flush()
    session.execute(delete(Customer).where(Customer.id == other.id).execution_options(synchronize_session=False))
    session.expire_all()


def conversation_of(
    session: Session, message: InboundMessage, customer: Customer, lane: str, *, idle_hours: float
) -> Conversation:
    """The lane's conversation, or a new one after `idle_hours` of silence."""
    latest = session.scalar(
        select(Conversation).where(Conversation.lane == lane).order_by(Conversation.last_message_at.desc()).limit(1)
    )
    if latest is not None and now() - latest.last_message_at < timedelta(hours=idle_hours):
        latest.last_message_at = now()
        latest.address = message.address
        return latest
    conversation = Conversation(
        context=message.context, customer_id=customer.id, channel=message.channel, lane=lane, address=message.address
    )
    session.add(conversation)
    session.flush()
    return conversation


def opt_words(text: str) -> str | None:
    """'out', 'in', 'no_training' for a message that is nothing but such a word; else None."""
    said = " ".join(words(text))
    if said in OPT_OUT:
        return "out"
    if said in OPT_IN:
        return "in"
    return "no_training" if said in NO_TRAINING else None


def consent_answer(customer: Customer, text: str) -> bool | None:
    """Yes or no, where the consent question was asked within a day and this message is nothing but its answer."""
    asked = customer.consent_asked_at
    if customer.consent != "unknown" or asked is None or now() - asked > timedelta(days=1):
        return None
    said = " ".join(words(text))
    return True if said in YES else False if said in NO else None


def set_consent(session: Session, customer_id: uuid.UUID, granted: bool) -> None:
    consent = "granted" if granted else "denied"
    session.execute(update(Customer).where(Customer.id == customer_id).values(consent=consent, consent_at=now()))


def may_learn_from(customer: Customer, channel: str, *, slack_learning: bool) -> bool:
    """Whether a message stored now may reach training. Slack's people are covered by the operator's setting."""
    if customer.opted_out_at is not None or customer.consent == "denied":
        return False
    return slack_learning if channel == "slack" else customer.consent == "granted"


def should_ask_consent(customer: Customer, channel: str) -> bool:
    return channel != "slack" and customer.consent == "unknown" and customer.consent_asked_at is None


def customers_of(session: Session, value: str) -> list[Customer]:
    """Everybody with this id, phone, or other identifier: for `npllm privacy`."""
    names = [value, *filter(None, [canonical_phone(value)])]
    by_identity = select(CustomerIdentity.customer_id).where(CustomerIdentity.value.in_(names))
    known: ColumnElement[bool] = Customer.id.in_(by_identity)
    try:
        known = or_(known, Customer.id == uuid.UUID(value))
    except ValueError:
        pass
    return list(session.scalars(select(Customer).where(known)))


CONSENT_QUESTION: dict[Language, str] = {
    "pt": "Posso aprender com esta conversa para atender melhor? Seus dados pessoais ficam de fora. "
    "Responda SIM ou NÃO; se mudar de ideia, escreva NÃO TREINAR.",
    "en": "May I learn from this conversation to serve better? Your personal data stays out. "
    "Answer YES or NO; if you change your mind, write DO NOT TRAIN.",
}
THANKS_FOR_CONSENT: dict[Language, str] = {
    "pt": "Obrigada! Vou aprender com esta conversa.",
    "en": "Thank you! I will learn from this conversation.",
}
NO_CONSENT: dict[Language, str] = {
    "pt": "Tudo bem, não vou aprender com esta conversa. Posso ajudar em algo?",
    "en": "All right, I will not learn from this conversation. Can I help you with something?",
}


def audience_of(customer: Customer, channel: str) -> Audience:
    """The circle a person belongs to: employees are internal, others are what `npllm rollout audience` made them."""
    return "internal" if channel == "slack" else cast(Audience, customer.audience)


def set_audience(session: Session, name: str, audience: Audience) -> None:
    """Put a person into a circle, by any of their identifiers or by our id.

    Raises:
        NotFound: nobody is known by it.
    """
    found = customers_of(session, name)
    for customer in found:
        customer.audience = audience
    if not found:
        raise NotFound("Nobody is known by that.", "Give their phone (+55…), a vendor's id of them, or their id here.")
