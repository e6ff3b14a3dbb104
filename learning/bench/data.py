"""Task sequences out of JSON lines; kind and tasks are read from the records' fields.

    generation       `turns` of `u` and `s`, of `role` and `text`, or of plain texts by turns; or `context` and a rated
                     `response` (kept where `reward` is 1). Every answer of the system is an example.
    classification   `text` and `intent`: the model names the intent.

A task is a value of `task`, else `domain`, else `topic`; classification without any of them: seven intents each, by
first appearance. Records of `role` base or `domain` oos are no task's. Without `split`: 80/10/10 by a hash of the
conversation, where a small task gives one to test with and one to validate with all the same. A task with nothing to
train on or nothing to test with is left out, and that is said.
"""

import gzip
import hashlib
import json
import random
import zlib
from collections import Counter
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
SPLITS = {"train": "train", "valid": "valid", "test": "test", "validation": "valid", "val": "valid", "dev": "valid"}


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
    """Tasks in the order they are learned in.

    Attributes:
        notes: what of the file is not in them, in sentences.
    """

    name: str
    kind: Kind
    tasks: list[Task]
    notes: list[str] = field(default_factory=list)


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
    records = []
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    records.append(_record(line, path, number))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.", "Name a whole .jsonl or .jsonl.gz file in UTF-8.") from None
    if not records:
        raise BadInput(f"{path} holds no records.", "One JSON object a line.")
    return records


def _record(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        what = f"{error.msg} at column {error.colno}"
        raise BadInput(f"{path}, line {number}: {what}.", "One JSON object a line; mend or drop that one.") from None
    if not isinstance(record, dict):
        raise BadInput(f"{path}, line {number} is no JSON object.", "One JSON object a line.")
    return record


def stream(path: Path, *, seed: int, tasks: int | None, limits: Limits | None) -> Stream:
    """The file's tasks, cut and ordered for a seed: order `seed` modulo 3 of a `sequences.json` beside it that names
    these tasks, else first appearance for seed 0 and a shuffle for others."""
    records = read(path)
    kind = _kind(records, path)
    groups = _grouped(records, kind)
    make = _classification if kind == "classification" else _generation
    made: list[Task] = []
    notes = []
    for name in _ordered(list(groups), path, seed):
        if len(made) == tasks:
            break
        task = make(name, groups[name], limits, path)
        if task.train and task.test:
            made.append(task)
        else:
            missing = "test it with" if task.train else "train on"
            notes.append(f"Task '{name}' is left out: of its {len(groups[name])} records none is there to {missing}.")
    if not made:
        raise BadInput(f"{path.name} holds no task that can be learned and tested.", " ".join(notes))
    if tasks is not None and len(made) < tasks:
        notes.append(f"{tasks} tasks were asked for, {len(made)} can be had.")
    return Stream(name_of(path), kind, made, notes)


def name_of(path: Path) -> str:
    """A file's name without what says its form."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def _kind(records: list[dict[str, Any]], path: Path) -> Kind:
    """What the records are for, all of them the same.

    Raises:
        BadInput: one is of no known form, or both kinds are there.
    """
    first: dict[Kind, int] = {}
    for number, record in enumerate(records, start=1):
        if isinstance(record.get("text"), str) and record.get("intent") is not None:
            first.setdefault("classification", number)
        elif isinstance(record.get("turns"), list) or record.get("response") is not None:
            first.setdefault("generation", number)
        else:
            raise BadInput(
                f"{path.name}, record {number}: fields {', '.join(sorted(record))} are of no known form.",
                "Generation needs `turns` (or `context` and `response`), classification `text` and `intent`.",
            )
    if len(first) > 1:
        both = " and ".join(f"{kind} (record {number})" for kind, number in first.items())
        raise BadInput(
            f"{path.name} holds records of two kinds: {both}.", "Write one kind a file, and name both files."
        )
    return next(iter(first))


def _grouped(records: list[dict[str, Any]], kind: Kind) -> dict[str, list[dict[str, Any]]]:
    if any(record.get("role") == "sequence" for record in records):
        records = [record for record in records if record.get("role") == "sequence"]
    key = next((name for name in ("task", "domain", "topic") if any(name in record for record in records)), None)
    groups: dict[str, list[dict[str, Any]]] = {}
    if key is None and kind == "classification":
        seen: dict[str, int] = {}
        for record in records:
            number = seen.setdefault(str(record["intent"]), len(seen)) // INTENTS_A_TASK
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


def _group(record: dict[str, Any]) -> str:
    """Whose conversation a record is of: records of one are never split, and the bootstrap draws them together."""
    return str(record.get("conversation") or record.get("id") or json.dumps(record, sort_keys=True))


def split_of(record: dict[str, Any], path: Path) -> str:
    """The record's split, or one drawn by a hash of its conversation.

    Raises:
        BadInput: its `split` is none.
    """
    if given := record.get("split"):
        if str(given).lower() not in SPLITS:
            raise BadInput(f"{path.name}: '{given}' is no split.", f"Choose {', '.join(SPLITS)}, or leave it away.")
        return SPLITS[str(given).lower()]
    tenth = int.from_bytes(hashlib.sha256(_group(record).encode()).digest()[:4], "big") % 10
    return "train" if tenth < 8 else "valid" if tenth == 8 else "test"


def _splits(records: Sequence[dict[str, Any]], path: Path) -> list[str]:
    """The split of each record of a task; of few conversations chance may leave a split none, then it gets one."""
    found = {_group(record): split_of(record, path) for record in records}
    free = sorted({_group(record) for record in records if not record.get("split")})
    for wanted in ("train", "test", "valid") if len(free) == len(found) else ():
        sizes = Counter(found.values())
        spare = [split for split, count in sizes.items() if count > 1 or split == "valid"]
        if wanted not in sizes and spare:
            fullest = max(spare, key=lambda split: sizes[split])
            found[next(group for group in free if found[group] == fullest)] = wanted
    return [split_of(record, path) if record.get("split") else found[_group(record)] for record in records]


def _classification(name: str, records: list[dict[str, Any]], limits: Limits | None, path: Path) -> Task:
    task = Task(name)
    taken: dict[tuple[str, str], int] = {}
    for record, split in zip(records, _splits(records, path), strict=True):
        label = str(record["intent"]).replace("_", " ")
        if label not in task.labels:
            task.labels.append(label)
        count = taken[split, label] = taken.get((split, label), 0) + 1
        if limits is not None and split != "train" and count > limits.per_intent:
            continue
        messages: tuple[ChatMessage, ...] = (
            {"role": "system", "content": NAME_THE_REQUEST},
            {"role": "user", "content": str(record["text"])},
        )
        getattr(task, split).append(Example(messages, label, group=_group(record)))
    return task


def _generation(name: str, records: list[dict[str, Any]], limits: Limits | None, path: Path) -> Task:
    task = Task(name)
    taken = {"train": 0, "valid": 0, "test": 0}
    talks = [(record, examples) for record in records if (examples := list(_pairs(record)))]
    for (_, examples), split in zip(talks, _splits([record for record, _ in talks], path), strict=True):
        if limits is None or taken[split] < getattr(limits, split):
            taken[split] += 1
            getattr(task, split).extend(examples)
    return task


def _pairs(record: dict[str, Any]) -> Iterator[Example]:
    """Each answer of the system, after the exchange before it and what the user said."""
    group = _group(record)
    if "response" in record:
        response = record["response"]
        text = response.get("text") if isinstance(response, dict) else response
        if record.get("reward", 1) != 1 or not text:
            return
        exchanges = list(_exchanges(record.get("context") or []))
        said = exchanges[-1][0] if exchanges and not exchanges[-1][1] else ""
        before = [pair for pair in exchanges if pair[1]]
        if said:
            yield _example(before[-1:], said, str(text), group)
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
            yield str(turn["u"] or ""), str(turn.get("s") or "")
            continue
        if isinstance(turn, dict):
            text, user = str(turn.get("text") or ""), turn.get("role") == "user"
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
