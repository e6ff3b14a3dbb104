"""Rows to learn and weights to compare."""

from typing import Any

import torch

from core.prompts import chat_messages
from learning.dataset import Example, Row, encode
from learning.lora import trainable


def rows(tokenizer: Any, count: int, answer: str = "Sim, {i}.") -> list[Row]:
    made = []
    for i in range(count):
        messages = chat_messages(language="pt", assistant="Lia", business="X", question=f"Tem {i}?", passages=None)
        made.append(encode(tokenizer, Example(tuple(messages), answer.format(i=i))))
    return made


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
