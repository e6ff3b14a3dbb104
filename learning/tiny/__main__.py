"""Make the tiny base: tokenizer, model, model card.

    python -m learning.tiny --out FOLDER [--steps 1500] [--seed 0]

About twelve minutes on one core, the same bits for the same seed; the weights are stored in half precision. The
figures of the shipped one stand in its README.md.
"""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from core.prompts import ChatMessage
from learning.tiny import NAME
from learning.tiny.text import SHARES, stream
from learning.train import schedule

VOCABULARY = 2048
WIDTH, LAYERS, HEADS, INNER = 160, 4, 4, 448
CONTEXT = 512
ROW, ROWS = 256, 12  # tokens of one training row, rows of one step
RATE = 3e-3
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CARD = """# {name}

A language model of {parameters:,} parameters (Llama's architecture, {layers} layers of {width}, byte-level BPE of
{vocabulary} tokens) for tests of continual learning that finish in minutes. It knows the shape of service conversations
in English and some Portuguese; it is not meant to answer anybody.

| | |
|---|---|
| text | the project's own: {shares} (`learning/tiny/text.py`) |
| training | seed {seed}, {steps} steps of {rows} x {row} tokens ({tokens:,}), {minutes:.0f} minutes of one core |
| loss | {loss:.3f} nats per token on conversations of another seed |
| weights | half precision, {megabytes:.1f} MB |
| licence | Apache-2.0 |

Again: `python -m learning.tiny --out FOLDER --seed {seed} --steps {steps}`
"""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The model's folder; must not exist yet.")
@click.option("--steps", type=click.IntRange(1), default=1_500, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, steps: int, seed: int) -> None:
    """Make the tiny base."""
    import torch

    if out.exists():
        raise click.ClickException(f"{out} exists already. Name a new folder.")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    model = new_model(tokenizer)
    _train(model, tokenizer, seed=seed, steps=steps)
    minutes = time.process_time() / 60
    loss = _loss(model, _rows(tokenizer, stream(seed + 1_000)))
    save(model, tokenizer, out)
    size = (out / "model.safetensors").stat().st_size / 1e6
    shares = ", ".join(f"{name} {share:.0%}" for name, share in SHARES.items())
    card = _CARD.format(
        name=NAME, parameters=sum(p.numel() for p in model.parameters()), layers=LAYERS, width=WIDTH,
        vocabulary=VOCABULARY, shares=shares, seed=seed, steps=steps, rows=ROWS, row=ROW, tokens=steps * ROWS * ROW,
        minutes=minutes, loss=loss, megabytes=size,
    )  # fmt: skip
    (out / "README.md").write_text(card)
    click.echo(f"{out}: {steps} steps, loss {loss:.3f}")


def train_tokenizer(seed: int) -> Any:
    """Byte-level BPE over 6,000 conversations: any text can be written, English and Portuguese in few tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|im_end|>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    conversations = itertools.islice(stream(seed), 6_000)
    raw.train_from_iterator((message["content"] for talk in conversations for message in talk), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=special[0], pad_token=special[0], additional_special_tokens=special[1:]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def new_model(tokenizer: Any) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """As transformers reads it, weights in half precision."""
    import torch

    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").unlink(missing_ok=True)  # it belongs into the configuration, where older ones look
    config = out / "tokenizer_config.json"
    facts = json.loads(config.read_text()) | {"chat_template": CHATML}
    config.write_text(json.dumps(facts, indent=2) + "\n")


def _train(model: Any, tokenizer: Any, *, seed: int, steps: int) -> None:
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))
    rows = _rows(tokenizer, stream(seed))
    recent = 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * schedule(step, steps, warmup=0.03)
        ids = torch.tensor(list(itertools.islice(rows, ROWS)))
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        recent += loss.item()
        if (step + 1) % 25 == 0:
            click.echo(f"step {step + 1}/{steps}  loss {recent / 25:.3f}")
            recent = 0.0


def _loss(model: Any, rows: Iterator[list[int]]) -> float:
    import torch

    model.eval()
    with torch.no_grad():
        ids = torch.tensor(list(itertools.islice(rows, 64)))
        losses = [model(input_ids=part, labels=part, use_cache=False).loss.item() for part in ids.split(8)]
    return sum(losses) / len(losses)


def _rows(tokenizer: Any, conversations: Iterator[list[ChatMessage]]) -> Iterator[list[int]]:
    """Conversations one after another, cut into rows of equal length."""
    ids: list[int] = []
    for conversation in conversations:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids += tokenizer(text, add_special_tokens=False).input_ids
        while len(ids) >= ROW:
            yield ids[:ROW]
            ids = ids[ROW:]


if __name__ == "__main__":
    main()
