"""What versions answer, greedily, written the way they are served.

The gate and the starter's figures ask the server's own engine, in this process: what is judged is what customers would
read, in the precision they get it in. Besides, it reads a shared system message once and needs no padding: the safety
set took a third of the time that `generate` takes, and a gigabyte less (docs/log.md).
"""

import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.errors import NightError, SettingError
from core.memory import give_back
from core.prompts import ChatMessage
from integrations.huggingface.embedded_base import BaseModel
from integrations.huggingface.engine import Engine
from integrations.huggingface.exchange import Limits, Piece, Prompt
from integrations.huggingface.sampling import Sampling
from integrations.huggingface.serving_model import ServingModel
from learning import lora

log = logging.getLogger(__name__)

_ROWS = 16  # answered at a time


class Answer(NamedTuple):
    """`ended`: by itself, before the limit."""

    text: str
    ended: bool


def answers(
    base: BaseModel,
    versions: Mapping[str, Path | None],
    asked: Sequence[Sequence[ChatMessage]],
    *,
    max_tokens: int,
    threads: int = 1,
) -> dict[str, list[Answer]]:
    """Each version's answers, in the order of `asked`.

    Args:
        versions: name -> folder; None: the frozen base.

    Raises:
        NightError: the engine failed on a prompt.
        ArtifactError: a folder must not be loaded.
    """
    try:
        model = ServingModel(base, rows=_ROWS)
    except SettingError as error:  # served elsewhere then, by vLLM say
        log.info("The answers are written by transformers, one at a time: %s", error)
        return {name: _by_transformers(base, folder, asked, max_tokens=max_tokens) for name, folder in versions.items()}
    with contextlib.closing(Engine(model, Limits(queue=len(asked) * len(versions)), threads=threads)) as engine:
        waiting: dict[str, list[_Written]] = {}
        for name, folder in versions.items():
            if folder is not None:
                engine.load(name, folder)
            waiting[name] = []
            for messages in asked:
                read: list[dict[str, str]] = [{"role": m["role"], "content": m["content"]} for m in messages]
                tokens, prefix, lines = model.encode_chat(read)
                written = _Written()
                engine.submit(
                    Prompt(
                        tokens, name if folder is not None else base.name, prefix=prefix, lines=lines,
                        max_tokens=max_tokens, sampling=Sampling(temperature=0.0),
                    ),
                    written.take,
                )  # fmt: skip
                waiting[name].append(written)
        found = {name: [written.answer() for written in of_version] for name, of_version in waiting.items()}
    del model, engine
    give_back()
    return found


class _Written:
    """Gathers one answer's pieces."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._last: Piece | None = None
        self._done = threading.Event()

    def take(self, piece: Piece) -> None:
        self._text.append(piece.text)
        if piece.last:
            self._last = piece
            self._done.set()

    def answer(self) -> Answer:
        self._done.wait()
        assert self._last is not None
        if self._last.error is not None:
            raise NightError(f"An answer could not be written: {self._last.error}") from self._last.error
        return Answer("".join(self._text).strip(), self._last.finish == "stop")


@torch.no_grad()
def _by_transformers(
    base: BaseModel, folder: Path | None, asked: Sequence[Sequence[ChatMessage]], *, max_tokens: int
) -> list[Answer]:
    model, tokenizer = lora.load_base(base.path)
    if folder is not None:
        model = lora.load_adapter(model, folder)
    model.eval()
    found = []
    for messages in asked:
        text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        prompt: Any = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
        written = model.generate(
            **prompt, max_new_tokens=max_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[0, prompt.input_ids.shape[1] :].tolist()  # fmt: skip
        ended = tokenizer.eos_token_id in written
        found.append(Answer(tokenizer.decode(written, skip_special_tokens=True).strip(), ended))
    return found
