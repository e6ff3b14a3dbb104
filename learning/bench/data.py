"""Task sequences out of JSON lines; kind and tasks are read from the records' fields.

    generation       `turns` of `u` and `s`, of `role` and `text`, or of plain texts by turns; or `context` and a rated
                     `response` (kept where `reward` is 1). Every answer of the system is an example.
    classification   `text` and `intent`: the model names the intent.

A task is a value of `task`, else `domain`, else `topic`; classification without any of them: seven intents each, by
first appearance. Records of `role` base or `domain` oos are no task's. Without `split`: 80/10/10 by a hash of the
conversation.
"""

import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.errors import BadInput
from core.prompts import ChatMessage
from learning.dataset import Example
from learning.tiny.text import NAME_THE_REQUEST

Kind = Literal["generation", "classification"]
INTENTS_A_TASK = 7


@dataclass
class Task:
    """One task's examples by split.

    Attributes:
        labels: the intents it brings, by first appearance; empty for generation.
    """

    name: str
    train: list[Example] = field(default_factory=list)
    valid: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


@dataclass
class Stream:
    """Tasks in the order they are learned in."""

    name: str
    kind: Kind
    tasks: list[Task]


@dataclass(frozen=True)
class Limits:
    """Conversations (or texts) taken of a task, in file order; for classification, tests and validation per intent."""

    train: int = 60
    valid: int = 12
    test: int = 20
    per_intent: int = 10


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file.

    Raises:
        BadInput: it holds no records of a known form.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            records = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}.", "Name a .jsonl or .jsonl.gz file.") from None
    if not records or not all(isinstance(record, dict) for record in records):
        raise BadInput(f"{path} holds no records.", "One JSON object a line.")
    return records


def stream(path: Path, *, seed: int, tasks: int | None, limits: Limits | None) -> Stream:
    """The file's tasks, cut and ordered for a seed: order `seed` modulo 3 of a `sequences.json` beside it that names
    these tasks, else first appearance for seed 0 and a shuffle for others."""
    records = read(path)
    first = records[0]
    kind: Kind
    if "text" in first and "intent" in first:
        kind = "classification"
    elif "turns" in first or "response" in first:
        kind = "generation"
    else:
        raise BadInput(
            f"{path.name}: fields {', '.join(sorted(first))} are of no known form.",
            "Generation needs `turns` (or `context` and `response`), classification `text` and `intent`.",
        )
    groups = _grouped(records, kind)
    names = _ordered(list(groups), path, seed)[:tasks]
    make = _classification if kind == "classification" else _generation
    return Stream(path.name.split(".")[0], kind, [make(name, groups[name], limits) for name in names])


def _grouped(records: list[dict[str, Any]], kind: Kind) -> dict[str, list[dict[str, Any]]]:
    if any(record.get("role") == "sequence" for record in records):
        records = [record for record in records if record.get("role") == "sequence"]
    key = next((name for name in ("task", "domain", "topic") if name in records[0]), None)
    groups: dict[str, list[dict[str, Any]]] = {}
    if key is None and kind == "classification":
        seen: dict[str, int] = {}
        for record in records:
            number = seen.setdefault(record["intent"], len(seen)) // INTENTS_A_TASK
            groups.setdefault(f"intents {number + 1}", []).append(record)
        return groups
    for record in records:
        name = str(record.get(key, "all")) if key else "all"
        if name != "oos":
            groups.setdefault(name, []).append(record)
    return groups


def _ordered(names: list[str], path: Path, seed: int) -> list[str]:
    listed = path.with_name("sequences.json")
    if listed.exists():
        for orders in json.loads(listed.read_text()).values():
            order = [str(name) for name in orders[seed % len(orders)]]
            if set(order) == set(names):
                return order
    if seed:
        random.Random(seed).shuffle(names)
    return names


def split_of(record: dict[str, Any]) -> str:
    if record.get("split"):
        return str(record["split"])
    group = str(record.get("conversation") or record.get("id") or json.dumps(record, sort_keys=True))
    tenth = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % 10
    return "train" if tenth < 8 else "valid" if tenth == 8 else "test"


def _classification(name: str, records: list[dict[str, Any]], limits: Limits | None) -> Task:
    task = Task(name)
    taken: dict[tuple[str, str], int] = {}
    for record in records:
        split, label = split_of(record), str(record["intent"]).replace("_", " ")
        if label not in task.labels:
            task.labels.append(label)
        count = taken[split, label] = taken.get((split, label), 0) + 1
        if limits is not None and split != "train" and count > limits.per_intent:
            continue
        messages: tuple[ChatMessage, ...] = (
            {"role": "system", "content": NAME_THE_REQUEST},
            {"role": "user", "content": str(record["text"])},
        )
        getattr(task, split).append(Example(messages, label, group=str(record.get("id", len(taken)))))
    return task


def _generation(name: str, records: list[dict[str, Any]], limits: Limits | None) -> Task:
    task = Task(name)
    taken = {"train": 0, "valid": 0, "test": 0}
    for record in records:
        split = split_of(record)
        if limits is not None and taken[split] >= getattr(limits, split):
            continue
        examples = list(_pairs(record))
        taken[split] += bool(examples)
        getattr(task, split).extend(examples)
    return task


def _pairs(record: dict[str, Any]) -> Iterator[Example]:
    """Each answer of the system, after the exchange before it and what the user said."""
    group = str(record.get("conversation") or record.get("id"))
    if "response" in record:
        response = record["response"]
        if record.get("reward", 1) != 1 or not response.get("text"):
            return
        exchanges = list(_exchanges(record.get("context", [])))
        said = exchanges[-1][0] if exchanges and not exchanges[-1][1] else ""
        before = [pair for pair in exchanges if pair[1]]
        if said:
            yield _example(before[-1:], said, str(response["text"]), group)
        return
    before = []
    for said, replied in _exchanges(record["turns"]):
        if said and replied:
            yield _example(before[-1:], said, replied, group)
            before.append((said, replied))


def _exchanges(turns: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """(user, system) pairs; several texts of one side in a row are one."""
    said, replied = "", ""
    for number, turn in enumerate(turns):
        if isinstance(turn, dict) and "u" in turn:
            yield str(turn["u"]), str(turn.get("s", ""))
            continue
        if isinstance(turn, dict):
            text, user = str(turn.get("text", "")), turn.get("role") == "user"
        else:
            text, user = str(turn), number % 2 == 0
        if not text:
            continue
        if user:
            if replied:
                yield said, replied
                said, replied = "", ""
            said = f"{said} {text}".strip()
        else:
            replied = f"{replied} {text}".strip()
    if said or replied:
        yield said, replied


def _example(before: Sequence[tuple[str, str]], said: str, replied: str, group: str) -> Example:
    messages: list[ChatMessage] = []
    for asked, answered in before:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages.append({"role": "user", "content": said})
    return Example(tuple(messages), replied, group=group)
