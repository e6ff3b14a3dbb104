"""Builders with readable defaults: adapters on disk, people, conversations, answers, votes, rollouts.

Every builder takes what a test is about and makes up the rest.
"""

import itertools
import json
import struct
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from core import artifacts, registry
from core.registry import ArtifactStore
from core.rollouts import Plan, Stage
from core.tables import (
    AdapterVersion,
    Assignment,
    Context,
    Conversation,
    Customer,
    CustomerIdentity,
    InboundEvent,
    Lane,
    Message,
    OutboxItem,
    new_id,
    now,
)

BASE = {"model": "tiny", "revision": "sha256:" + "0" * 64}
QUICK = Plan("quick", (Stage(0.5, 30, 0.0, 0.15),), epoch="stage")
LADDER = Plan("ladder", (Stage(0.25, 30, 0.0, 0.15), Stage(0.5, 30, 0.0, 0.15)), epoch="stage")
_numbers = itertools.count(1)


# Adapters on disk -------------------------------------------------------------------------------------------------


def write_safetensors(
    path: Path, tensors: dict[str, tuple[str, bytes]], *, header: dict[str, Any] | None = None
) -> None:
    """A safetensors file by hand: name -> (type, raw bytes); `header` replaces the one that fits."""
    made: dict[str, Any] = {}
    offset = 0
    for name, (dtype, data) in tensors.items():
        shape = [len(data) // {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)]
        made[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    raw = json.dumps(made if header is None else header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(data for _, data in tensors.values()))


def make_adapter(folder: Path, *, seed: int = 1, base: dict[str, Any] | None = None, **facts: Any) -> str:
    """A sealed LoRA version of two small tensors; returns its hash. Another seed, other bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pieces = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight": (
            "F32", rng.normal(0, 0.02, (4, 8)).astype("<f4").tobytes()
        )
        for side in "AB"
    }  # fmt: skip
    write_safetensors(folder / artifacts.WEIGHTS, pieces)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / artifacts.CONFIG).write_text(json.dumps(config))
    return artifacts.write_manifest(folder, {"base": base or BASE, "parent": None, "seed": seed, **facts})


def make_version(
    session: Session,
    *,
    context: str = "customers",
    state: str = "registered",
    store: ArtifactStore | None = None,
    folder: Path | None = None,
    champion: bool = False,
) -> AdapterVersion:
    """A registered version; with `store` and `folder` its files exist and can be proved."""
    sha256, location, manifest = uuid.uuid4().hex * 2, "folder:nowhere", {"base": BASE, "files": {}, "format": 1}
    if store is not None and folder is not None:
        sha256 = make_adapter(folder, seed=next(_numbers))
        location, manifest = store.put(folder, context=context, sha256=sha256), artifacts.read_manifest(folder)
    version = registry.register(
        session, context=context, source="night", location=location, sha256=sha256, manifest=manifest, state=state
    )
    if champion:
        session.get_one(Context, context).champion_id = version.id
        session.flush()
    return version


# People and what was said -----------------------------------------------------------------------------------------


def make_customer(session: Session, *, context: str = "customers", name: str | None = None, **facts: Any) -> Customer:
    """A person with a phone of their own."""
    customer = Customer(context=context, name=name, **facts)
    session.add(customer)
    session.flush()
    session.add(CustomerIdentity(customer_id=customer.id, kind="phone", value=f"+55119{next(_numbers):08d}"))
    session.flush()
    return customer


def phone_of(session: Session, customer: Customer) -> str:
    from sqlalchemy import select

    found = select(CustomerIdentity.value).where(CustomerIdentity.customer_id == customer.id)
    return str(session.scalars(found).first())


def make_conversation(
    session: Session, customer: Customer | None = None, *, channel: str = "meta", lane: str | None = None, **facts: Any
) -> Conversation:
    customer = customer or make_customer(session)
    phone = phone_of(session, customer)
    conversation = Conversation(
        context=customer.context, customer_id=customer.id, channel=channel, lane=lane or f"{channel}:{phone}",
        address=facts.pop("address", {"to": phone.lstrip("+")}), **facts,
    )  # fmt: skip
    session.add(conversation)
    session.flush()
    return conversation


def make_answer(
    session: Session,
    conversation: Conversation | None = None,
    *,
    question: str = "Quanto custa?",
    text: str = "Custa R$ 1.899,00.",
    version: str | None = "customers-v1",
    ago: timedelta = timedelta(),
    route: dict[str, Any] | None = None,
    **facts: Any,
) -> Message:
    """A question and its answer, `ago` before now; returns the answer."""
    conversation = conversation or make_conversation(session)
    at = now() - ago
    common: dict[str, Any] = {
        "conversation_id": conversation.id, "customer_id": conversation.customer_id, "context": conversation.context,
        "channel": conversation.channel, "created_at": at,
    }  # fmt: skip
    asked = Message(id=new_id(at), direction="in", role="customer", text=question, **common)
    answer = Message(
        id=new_id(at), direction="out", role="bot", text=text, version=version, in_reply_to=asked.id,
        route=route if route is not None else {"flags": [], "failures": [], "history": [], "passages": []},
        **{**common, **facts},
    )  # fmt: skip
    session.add_all([asked, answer])
    session.flush()
    return answer


def make_part(
    session: Session, answer: Message, *, part: int = 1, parts: int = 1, state: str = "pending", **facts: Any
) -> OutboxItem:
    """One part of an answer in the outbox."""
    conversation = session.get_one(Conversation, answer.conversation_id)
    payload = {"address": conversation.address, "text": facts.pop("text", answer.text)}
    row = OutboxItem(
        message_id=answer.id, conversation_id=conversation.id, in_reply_to=answer.in_reply_to, part=part, parts=parts,
        channel=conversation.channel, lane=conversation.lane, state=state,
        payload={**payload, **facts.pop("payload", {})}, **facts,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row


def make_event(
    session: Session,
    *,
    source: str = "meta",
    kind: str = "message",
    lane: str | None = None,
    payload: dict[str, Any] | None = None,
    received: timedelta = timedelta(),
    **facts: Any,
) -> InboundEvent:
    """A row of the ledger, received so long ago."""
    event = InboundEvent(
        source=source, external_id=facts.pop("external_id", uuid.uuid4().hex), kind=kind,
        lane=lane or f"{source}:{next(_numbers)}", payload=payload or {}, received_at=now() - received, **facts,
    )  # fmt: skip
    session.add(event)
    session.flush()
    return event


def make_lane(session: Session, lane: str, *, seconds: float = 30.0) -> Lane:
    """Somebody else's lease; negative seconds: one that ran out."""
    row = Lane(lane=lane, holder="somebody-else", leased_until=now() + timedelta(seconds=seconds))
    session.add(row)
    session.flush()
    return row


# Rollouts ---------------------------------------------------------------------------------------------------------


def make_unit(
    session: Session,
    rollout_id: uuid.UUID,
    arm: str,
    *,
    vote: float | None = None,
    probability: float = 0.5,
    stage: int = 0,
    served: int = 1,
    failed: int = 0,
    at: datetime | None = None,
    customer: Customer | None = None,
    epoch: str = "stage-0",
    **facts: Any,
) -> Assignment:
    """One person of a rollout, and perhaps their vote."""
    customer = customer or make_customer(session)
    unit = Assignment(
        rollout_id=rollout_id, customer_id=customer.id, epoch=epoch, arm=arm, probability=probability, stage=stage,
        served=served, failed=failed, vote=vote, voted_at=(at or now()) if vote is not None else None,
        **({"vote_arm": arm, "vote_probability": probability, "vote_stage": stage} if vote is not None else {}),
        **facts,
    )  # fmt: skip
    session.add(unit)
    return unit


def make_votes(
    session: Session, rollout_id: uuid.UUID, n: int, *, challenger: float, control: float, weight: float = 0.5,
    stage: int = 0, seed: int = 1,
) -> None:  # fmt: skip
    """`n` people who voted, drawn and satisfied as the rates say; written in bulk, order of votes as drawn."""
    rng = np.random.default_rng(seed)
    start = now() - timedelta(seconds=n)
    customers = [Customer(id=new_id(), context="customers") for _ in range(n)]
    session.add_all(customers)
    session.flush()
    session.add_all(
        Assignment(
            rollout_id=rollout_id, customer_id=customer.id, epoch=f"stage-{stage}",
            arm="challenger" if drawn else "champion", probability=weight, stage=stage, served=1, failed=0,
            vote_arm="challenger" if drawn else "champion", vote_probability=weight, vote_stage=stage,
            vote=float(rng.random() < (challenger if drawn else control)), voted_at=start + timedelta(seconds=i),
            assigned_at=start + timedelta(seconds=i),
        )
        for i, (customer, drawn) in enumerate(zip(customers, rng.random(n) < weight, strict=True))
    )  # fmt: skip
    session.flush()
