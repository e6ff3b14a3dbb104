"""Continuous batching: who shares a batch changes nobody's answer, and nobody waits for, or falls with, another."""

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import ArtifactError, BadInput, Conflict, ModelUnavailable, NotFound
from integrations.huggingface import engine as engine_module
from integrations.huggingface.attention import Feed
from integrations.huggingface.engine import Engine
from integrations.huggingface.exchange import Piece, Prompt, QueueFull
from integrations.huggingface.guesses import Guesses
from integrations.huggingface.sampling import Chooser, Sampling
from integrations.huggingface.serving_model import ServingModel

Engines = Callable[..., Engine]
Ask = Callable[[Engine, Prompt], Any]
Adapters = Callable[..., tuple[Path, str]]


def prompt(model: str, length: int = 12, seed: int = 0, **options: Any) -> Prompt:
    draw = random.Random(seed)
    tokens = [draw.randrange(256) for _ in range(length)]
    return Prompt(tokens, model, **{"max_tokens": 12, "ignore_end": True, **options})


class Gate:
    """Lets the engine's steps through one by one."""

    def __init__(self, engine: Engine) -> None:
        self._forward = engine.model.forward
        self._permits = threading.Semaphore(0)
        self.arrived: queue.Queue[list[Feed]] = queue.Queue()
        self._held: list[Feed] | None = None
        engine.model.forward = self._wait  # type: ignore[method-assign]

    def _wait(self, feeds: Sequence[Feed]) -> torch.Tensor:
        self.arrived.put(list(feeds))
        assert self._permits.acquire(timeout=10)
        return self._forward(feeds)

    def step(self, count: int = 1) -> list[Feed]:
        """Let `count` steps run; return what the last was fed."""
        for _ in range(count):
            self.settle()
            feeds, self._held = self._held, None
            self._permits.release()
        assert feeds is not None
        return feeds

    def settle(self) -> None:
        """Wait until the engine stands at the gate: what is submitted from now on is in the step after the next."""
        if self._held is None:
            self._held = self.arrived.get(timeout=10)

    def open(self) -> None:
        self._permits.release(10_000)


@pytest.fixture
def gated(fresh_model: ServingModel, engines: Engines) -> Callable[..., tuple[Engine, Gate]]:
    def make(**limits: int) -> tuple[Engine, Gate]:
        engine = engines(fresh_model, **limits)
        return engine, Gate(engine)

    return make


def script(monkeypatch: pytest.MonkeyPatch, model: ServingModel, text: str) -> None:
    """Let every row say `text` and then the end, whatever the model thinks."""
    tokens = [*model.decoder.encode(text).ids, next(iter(model.ends))]
    monkeypatch.setattr(Chooser, "choose", lambda chooser, _: tokens[min(len(chooser.said), len(tokens) - 1)])


def test_greedy_answer_is_that_of_transformers(
    model: ServingModel, engines: Engines, ask: Ask, original: Callable[..., torch.Tensor]
) -> None:
    question = prompt(model.base.name)
    reply = ask(engines(model), question)
    said: list[int] = []
    for _ in range(12):
        said.append(int(original(model.base, [*question.tokens, *said]).argmax()))
    last = reply.last()
    assert (last.finish, last.usage.completion) == ("length", 12)
    assert reply.text == model.decoder.decode(said).rstrip("\ufffd")


def test_company_changes_nobody_s_answer(model: ServingModel, engines: Engines, ask: Ask, adapters: Adapters) -> None:
    engine = engines(model, adapters=3, step_tokens=32)
    names = [model.base.name]
    for seed in (1, 2, 3):
        engine.load(f"v{seed}", *adapters(model.base, seed))
        names.append(f"v{seed}")
    questions = [prompt(names[i % 4], length=5 + 7 * i % 60, seed=i, max_tokens=6 + i) for i in range(14)]
    alone = []
    for question in questions:
        reply = ask(engine, question)
        reply.last()
        alone.append(reply.text)
    together = [ask(engine, question) for question in questions]
    for reply in together:
        reply.last()
    assert [reply.text for reply in together] == alone
    assert len(set(alone)) == len(alone)


def test_a_prompt_is_admitted_while_others_are_answered(gated: Callable[..., tuple[Engine, Gate]], ask: Ask) -> None:
    engine, gate = gated()
    name = engine.model.base.name
    first = ask(engine, prompt(name, seed=1))
    gate.step(4)
    gate.settle()
    second = ask(engine, prompt(name, seed=2, length=20))
    gate.step()
    fed = gate.step()
    assert sorted(len(feed.tokens) for feed in fed) == [1, 20]
    gate.open()
    assert first.last().finish == second.last().finish == "length"


def test_a_long_prompt_is_read_in_parts_while_others_go_on(gated: Callable[..., tuple[Engine, Gate]], ask: Ask) -> None:
    engine, gate = gated(step_tokens=16)
    name = engine.model.base.name
    first = ask(engine, prompt(name, seed=1))
    gate.step(2)
    gate.settle()
    long = ask(engine, prompt(name, seed=2, length=40, max_tokens=1))
    gate.step()
    read = [sorted(len(feed.tokens) for feed in gate.step()) for _ in range(3)]
    assert read == [[1, 16], [1, 16], [1, 8]]
    gate.open()
    assert long.last().finish == "length"
    assert first.last().finish == "length"


def test_versions_come_and_go_during_answers(
    gated: Callable[..., tuple[Engine, Gate]], ask: Ask, adapters: Adapters
) -> None:
    engine, gate = gated()
    base = engine.model.base
    gate.open()
    engine.load("old", *adapters(base, 1))
    undisturbed = ask(engine, prompt("old", seed=5))
    undisturbed.last()
    engine, gate = gated()
    engine.load("old", *adapters(base, 1))
    reply = ask(engine, prompt("old", seed=5))
    gate.step(3)
    engine.load("new", *adapters(base, 2))
    engine.unload("old")
    with pytest.raises(NotFound, match="old"):
        engine.submit(prompt("old"), lambda _: None)
    newer = ask(engine, prompt("new", seed=5))
    gate.open()
    reply.last()
    newer.last()
    assert reply.text == undisturbed.text
    assert newer.text != reply.text
    assert [adapter.name for adapter in engine.adapters()] == ["new"]


def test_a_reloaded_name_does_not_get_the_old_one_s_prefix(
    model: ServingModel, engines: Engines, ask: Ask, adapters: Adapters
) -> None:
    engine = engines(model)
    question = prompt("v", length=30, prefix=20)
    engine.load("v", *adapters(model.base, 1))
    ask(engine, question).last()
    engine.unload("v")
    engine.load("v", *adapters(model.base, 2))
    second = ask(engine, question)
    assert second.last().usage.cached == 0
    engine.load("same", *adapters(model.base, 2))
    fresh = ask(engine, prompt("same", length=30))
    fresh.last()
    assert second.text == fresh.text


def test_loading(model: ServingModel, engines: Engines, adapters: Adapters, tmp_path: Path) -> None:
    engine = engines(model, adapters=2)
    first = engine.load("v1", *adapters(model.base, 1))
    assert engine.load("v1", *adapters(model.base, 1)) is first
    with pytest.raises(Conflict, match="other files"):
        engine.load("v1", *adapters(model.base, 2))
    with pytest.raises(Conflict, match="base's name"):
        engine.load(model.base.name, *adapters(model.base, 2))
    engine.load("v2", *adapters(model.base, 2))
    with pytest.raises(Conflict, match="v1, v2"):
        engine.load("v3", *adapters(model.base, 3))
    with pytest.raises(ArtifactError):
        engine.load("v2", tmp_path / "nowhere")
    with pytest.raises(NotFound):
        engine.unload("v3")


def test_the_system_message_is_computed_once(
    model: ServingModel, engines: Engines, ask: Ask, adapters: Adapters
) -> None:
    engine = engines(model)
    engine.load("v", *adapters(model.base, 1))
    tokens = list(range(60))
    plain = [ask(engine, Prompt([*tokens, 70 + i], "v", max_tokens=8, ignore_end=True)) for i in range(3)]
    wanted = [(reply.last(), reply.text)[1] for reply in plain]
    # All at once: one reads the system message, the others wait a step for it.
    kept = [ask(engine, Prompt([*tokens, 70 + i], "v", prefix=60, max_tokens=8, ignore_end=True)) for i in range(3)]
    usages = [reply.last().usage for reply in kept]
    assert [reply.text for reply in kept] == wanted
    assert sorted(usage.cached for usage in usages) == [0, 60, 60]
    assert ask(engine, Prompt([*tokens, 99], model.base.name, prefix=60, max_tokens=1)).last().usage.cached == 0


def test_an_idle_engine_gives_its_rows_room_back_and_goes_on_as_before(
    fresh_model: ServingModel, engines: Engines, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    engine = engines(fresh_model)
    question = Prompt(list(range(60)), fresh_model.base.name, prefix=40, max_tokens=8, ignore_end=True)
    first = ask(engine, question)
    assert first.last().usage.cached == 0
    deadline = time.monotonic() + 20
    while fresh_model.slots.layers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not fresh_model.slots.layers
    again = ask(engine, question)
    assert again.last().usage.cached == 40  # the system message's states are not the rows', and stay
    assert again.text == first.text


def test_only_so_many_system_messages_are_kept(model: ServingModel, engines: Engines, ask: Ask) -> None:
    engine = engines(model, prefixes=2)

    def cached(first: int) -> int:
        question = Prompt([first, 1, 2, 3], model.base.name, prefix=3, max_tokens=1)
        found: int = ask(engine, question).last().usage.cached
        return found

    assert [cached(first) for first in (10, 11, 10, 12, 10, 11)] == [0, 0, 3, 0, 3, 0]


def test_guesses_change_no_word_and_save_steps(
    model: ServingModel, engines: Engines, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that holds the answer: what a copying model's looks like."""
    engine = engines(model)
    name = model.base.name

    def asked() -> tuple[list[str], int]:
        before = engine.counters.steps
        found = []
        for seed, sampling in enumerate([Sampling(), Sampling(), Sampling(temperature=1, seed=3)]):
            plain = prompt(name, seed=seed, length=30)
            reply = ask(engine, replace(plain, max_tokens=40, sampling=sampling, ignore_end=True))
            reply.last()
            tokens = model.decoder.encode(reply.text, add_special_tokens=False).ids
            again = replace(plain, tokens=[*tokens, *plain.tokens], max_tokens=40, sampling=sampling, ignore_end=True)
            found.append(ask(engine, again))
        for reply in found:
            assert reply.last().usage.completion == 40
        return [reply.text for reply in found], engine.counters.steps - before

    guessed, steps = asked()
    monkeypatch.setattr(Guesses, "next", lambda self, said, most: ())
    plain, slowly = asked()
    assert guessed == plain
    assert steps < slowly


class TestLines:
    """Two passages of 20 tokens after a system message of 20, then a question of somebody's own."""

    def ask(
        self, engine: Engine, ask: Ask, own: int, *, passages: int = 40, name: str | None = None
    ) -> tuple[int, str]:
        tokens = [*range(20), *range(passages, passages + 40), own, own + 1]
        reply = ask(
            engine,
            Prompt(
                tokens, name or engine.model.base.name, prefix=20, lines=[40, 60], max_tokens=8, ignore_end=True
            ),
        )  # fmt: skip
        cached: int = reply.last().usage.cached
        return cached, reply.text

    def test_are_kept_at_the_second_sight_and_change_no_word(
        self, model: ServingModel, engines: Engines, ask: Ask
    ) -> None:
        plain = engines(model, line_tokens=0)
        wanted = [self.ask(plain, ask, own) for own in (100, 110, 120)]
        plain.close()  # two engines must not use one model's slots at the same time
        engine = engines(model)
        found = [self.ask(engine, ask, own) for own in (100, 110, 120)]
        assert [cached for cached, _ in wanted] == [0, 20, 20]
        assert [cached for cached, _ in found] == [0, 20, 60]
        assert [text for _, text in found] == [text for _, text in wanted]

    def test_another_second_passage_takes_up_the_first(self, model: ServingModel, engines: Engines, ask: Ask) -> None:
        tokens = [*range(20), *range(40, 60), *range(90, 110), 120]
        question = Prompt(tokens, model.base.name, prefix=20, lines=[40, 60], max_tokens=8, ignore_end=True)
        plain = engines(model, line_tokens=0)
        wanted = ask(plain, question)
        wanted.last()
        plain.close()
        engine = engines(model)
        for own in (100, 110):
            self.ask(engine, ask, own)
        found = ask(engine, question)
        assert found.last().usage.cached == 40
        assert found.text == wanted.text

    def test_of_another_version_are_not_taken(
        self, model: ServingModel, engines: Engines, ask: Ask, adapters: Adapters
    ) -> None:
        engine = engines(model)
        engine.load("v", *adapters(model.base, 1))
        for own in (100, 110, 120):
            self.ask(engine, ask, own)
        assert [self.ask(engine, ask, own, name="v")[0] for own in (100, 110, 120)] == [0, 20, 60]

    def test_only_so_many_are_kept_and_the_longest_unused_goes(
        self, model: ServingModel, engines: Engines, ask: Ask
    ) -> None:
        engine = engines(model, line_tokens=90)
        cached = [self.ask(engine, ask, 200 + i, passages=at)[0] for i, at in enumerate([40, 40, 40, 90, 90, 90])]
        assert cached == [0, 20, 60, 20, 20, 60]
        assert self.ask(engine, ask, 230, passages=90)[0] == 60
        assert self.ask(engine, ask, 231)[0] == 60
        self.ask(engine, ask, 232, passages=140)
        self.ask(engine, ask, 233, passages=140)
        assert [self.ask(engine, ask, 240 + i, passages=at)[0] for i, at in enumerate([140, 40, 90])] == [60, 60, 20]

    def test_go_when_the_engine_is_idle(
        self, fresh_model: ServingModel, engines: Engines, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
        engine = engines(fresh_model)
        found = [self.ask(engine, ask, own) for own in (100, 110, 120)]
        assert found[2][0] == 60
        deadline = time.monotonic() + 20
        while fresh_model.slots.layers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.ask(engine, ask, 120) == (20, found[2][1])


def test_a_cancelled_reply_frees_its_row_and_disturbs_nobody(
    gated: Callable[..., tuple[Engine, Gate]], ask: Ask
) -> None:
    engine, gate = gated()
    name = engine.model.base.name
    gone = ask(engine, prompt(name, seed=1, max_tokens=150))
    stays = ask(engine, prompt(name, seed=2))
    gate.step(3)
    gate.settle()
    gone.ticket.cancel()
    gate.step()
    assert len(gate.step()) == 1
    gate.open()
    assert stays.last().finish == "length"
    again = ask(engine, prompt(name, seed=2))
    again.last()
    assert stays.text == again.text
    assert engine.counters.cancelled == 1


def test_a_cancelled_reader_does_not_hold_up_who_waits_for_its_system_message(
    gated: Callable[..., tuple[Engine, Gate]], ask: Ask
) -> None:
    engine, gate = gated(step_tokens=8)
    question = prompt(engine.model.base.name, length=40, prefix=30, max_tokens=1)
    reader, waiter = ask(engine, question), ask(engine, question)
    gate.step(2)
    reader.ticket.cancel()
    gate.open()
    assert waiter.last().finish == "length"


def test_limits(fresh_model: ServingModel, engines: Engines, ask: Ask) -> None:
    engine = engines(fresh_model, queue=2, new_tokens=5)
    name = fresh_model.base.name
    with pytest.raises(BadInput, match="maximum prompt length is 199 tokens, and the messages take 200"):
        engine.submit(prompt(name, length=200), lambda _: None)
    with pytest.raises(BadInput, match="empty"):
        engine.submit(Prompt([], name), lambda _: None)
    with pytest.raises(NotFound, match="does not exist"):
        engine.submit(prompt("unknown"), lambda _: None)
    assert ask(engine, prompt(name, length=10, max_tokens=99)).last().usage.completion == 5
    assert ask(engine, prompt(name, length=198, max_tokens=99)).last().usage.completion == 2
    gate = Gate(engine)
    replies = [ask(engine, prompt(name, seed=0))]
    gate.settle()
    replies += [ask(engine, prompt(name, seed=i)) for i in range(2)]
    with pytest.raises(QueueFull) as refused:
        engine.submit(prompt(name), lambda _: None)
    assert refused.value.retry_after > 0
    gate.open()
    assert [reply.last().finish for reply in replies] == ["length"] * 3


def test_more_prompts_than_rows_are_answered_in_order(fresh_model: ServingModel, engines: Engines, ask: Ask) -> None:
    engine = engines(fresh_model)
    replies = [ask(engine, prompt(fresh_model.base.name, seed=i, max_tokens=3 + i % 4)) for i in range(11)]
    assert [reply.last().usage.completion for reply in replies] == [3 + i % 4 for i in range(11)]


def test_stop_strings_and_the_model_s_own_end(
    model: ServingModel, engines: Engines, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(model)
    name = model.base.name
    script(monkeypatch, model, "Custa R$ 1.199.\nPergunta: e o prazo?")
    reply = ask(engine, prompt(name, max_tokens=99, stops=["\nPergunta:"], ignore_end=False))
    assert reply.last().finish == "stop"
    assert reply.text == "Custa R$ 1.199."
    reply = ask(engine, prompt(name, max_tokens=99, ignore_end=False))
    last = reply.last()
    assert last.finish == "stop"
    assert last.usage.completion == len(reply.text.encode()) + 1
    assert reply.text == "Custa R$ 1.199.\nPergunta: e o prazo?"


def test_no_piece_breaks_a_character(
    model: ServingModel, engines: Engines, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Não, só amanhã às 8h 😀👍🏽 é você?"
    script(monkeypatch, model, text)
    engine = engines(model)
    reply = ask(engine, prompt(model.base.name, max_tokens=99, ignore_end=False))
    reply.last()
    assert reply.text == text
    assert all("\ufffd" not in piece for piece in reply.texts)
    assert len([piece for piece in reply.texts if piece]) > 20
    cut = ask(engine, prompt(model.base.name, max_tokens=2))  # "N" and half of "ã"
    assert cut.last().finish == "length"
    assert cut.text == "N"


def test_a_seed_repeats_itself_in_any_company(model: ServingModel, engines: Engines, ask: Ask) -> None:
    engine = engines(model)

    def drawn(seed: int) -> Prompt:
        return prompt(model.base.name, seed=1, sampling=Sampling(temperature=1.5, seed=seed))

    alone = ask(engine, drawn(7))
    alone.last()
    others = [ask(engine, drawn(seed)) for seed in (1, 2, 3, 7)]
    for reply in others:
        reply.last()
    assert others[3].text == alone.text
    assert len({reply.text for reply in others}) == 4


def test_a_failed_step_fails_its_rows_and_the_engine_goes_on(
    fresh_model: ServingModel, engines: Engines, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(fresh_model)
    forward = fresh_model.forward

    def broken(feeds: Sequence[Feed]) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(fresh_model, "forward", broken)
    assert isinstance(ask(engine, prompt(fresh_model.base.name)).last().error, ModelUnavailable)
    monkeypatch.setattr(fresh_model, "forward", forward)
    assert ask(engine, prompt(fresh_model.base.name)).last().finish == "length"
    assert engine.counters.failed == 1
    assert engine.alive


def test_a_prompt_that_cannot_be_admitted_fails_alone(
    fresh_model: ServingModel, engines: Engines, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(fresh_model)
    question = prompt(fresh_model.base.name, length=20, prefix=10)
    ask(engine, question).last()

    def broken(slot: int, start: int, states: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(fresh_model.slots, "copy_in", broken)
    assert isinstance(ask(engine, question).last().error, ModelUnavailable)
    assert ask(engine, prompt(fresh_model.base.name)).last().finish == "length"


def test_a_client_that_cannot_take_its_piece_loses_only_its_own(
    model: ServingModel, engines: Engines, ask: Ask
) -> None:
    engine = engines(model)

    def broken(piece: Piece) -> None:
        raise RuntimeError("the event loop is closed")

    engine.submit(prompt(model.base.name, seed=1), broken)
    assert ask(engine, prompt(model.base.name, seed=2)).last().finish == "length"


def test_closing_tells_everyone(gated: Callable[..., tuple[Engine, Gate]], ask: Ask) -> None:
    engine, gate = gated()
    name = engine.model.base.name
    replies = [ask(engine, prompt(name, seed=i, max_tokens=100)) for i in range(6)]  # four rows, two wait
    gate.step(2)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine.alive:
        time.sleep(0.01)
    gate.open()
    closing.join()
    assert all(isinstance(reply.last().error, ModelUnavailable) for reply in replies)
    with pytest.raises(ModelUnavailable):
        engine.submit(prompt(name), lambda _: None)
