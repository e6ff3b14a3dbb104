"""Tiny random models of real architectures, adapters made by PEFT, and engines over them."""

import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from core.artifacts import write_manifest
from integrations.huggingface.embedded_base import BaseModel
from integrations.huggingface.engine import Engine
from integrations.huggingface.exchange import Limits, Piece, Prompt, Ticket
from integrations.huggingface.serving_model import ServingModel

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,  # wide, so that the likeliest token is clearly so
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def save_tokenizer(folder: Path) -> None:
    """One token per byte, so that every accent takes two tokens and an emoji four."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModel]:
    """Architecture → a tiny random model of it on disk."""
    made: dict[str, BaseModel] = {}

    def base(name: str) -> BaseModel:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(7)
            model: Any = AutoModelForCausalLM.from_config(CONFIGS[name])
            model.save_pretrained(folder)
            save_tokenizer(folder)
            made[name] = BaseModel(f"tiny-{name}", f"sha256:{name}", folder)
        return made[name]

    return base


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, str]]:
    """A version's folder as a night publishes it, random weights, and its hash."""
    made: dict[str, tuple[Path, str]] = {}

    def adapter(base: BaseModel, seed: int, **options: Any) -> tuple[Path, str]:
        key = repr((base.name, seed, sorted(options.items())))
        if key not in made:
            made[key] = _write_adapter(tmp_path_factory.mktemp("adapter") / f"v{seed}", base, seed, options)
        return made[key]

    return adapter


def _write_adapter(folder: Path, base: BaseModel, seed: int, options: dict[str, Any]) -> tuple[Path, str]:
    from peft import LoraConfig, get_peft_model

    everywhere = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = {"r": 4, "lora_alpha": 16, "target_modules": everywhere, "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(seed)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32), LoraConfig(**settings)
    )
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder, write_manifest(folder, {"base": {"model": base.name, "revision": base.revision}})


@pytest.fixture(scope="session")
def model(bases: Callable[[str], BaseModel]) -> ServingModel:
    """A tiny Llama in fp32. Whoever changes it takes it from `fresh_model`."""
    return ServingModel(bases("llama"), precision="fp32", device="cpu", rows=6, context=200)


@pytest.fixture
def fresh_model(bases: Callable[[str], BaseModel]) -> ServingModel:
    return ServingModel(bases("llama"), precision="fp32", device="cpu", rows=4, context=200)


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    """Makes engines, and ends them."""
    made: list[Engine] = []

    def engine(model: ServingModel, **limits: int) -> Engine:
        made.append(Engine(model, Limits(**limits)))
        return made[-1]

    yield engine
    for one in made:
        one.close()


class Reply:
    """What came of one prompt."""

    def __init__(self, engine: Engine, prompt: Prompt) -> None:
        self.pieces: queue.Queue[Piece] = queue.Queue()
        self.texts: list[str] = []
        self.ticket: Ticket = engine.submit(prompt, self.pieces.put)

    def next(self) -> Piece:
        piece = self.pieces.get(timeout=30)
        self.texts.append(piece.text)
        return piece

    def last(self) -> Piece:
        while not (piece := self.next()).last:
            pass
        return piece

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture
def ask() -> Callable[..., Reply]:
    return Reply


@pytest.fixture(scope="session")
def original() -> Callable[[BaseModel, list[int], Path | None], torch.Tensor]:
    """Logits after the last token, by transformers and PEFT themselves."""
    models: dict[tuple[Path, Path | None], Any] = {}

    def logits(base: BaseModel, tokens: list[int], adapter: Path | None = None) -> torch.Tensor:
        if (base.path, adapter) not in models:
            found: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
            if adapter is not None:
                from peft import PeftModel

                found = PeftModel.from_pretrained(found, adapter)
            models[base.path, adapter] = found.eval()
        with torch.no_grad():
            result: torch.Tensor = models[base.path, adapter](input_ids=torch.tensor([tokens])).logits[0, -1]
        return result

    return logits


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Path, dict[str, Any]], Path]:
    """A copy of an adapter with a changed configuration, sealed again: what it asks for is all that is wrong."""

    def edit(folder: Path, changes: dict[str, Any]) -> Path:
        copy = tmp_path / "edited"
        copy.mkdir()
        for path in folder.iterdir():
            if path.name != "manifest.json":
                (copy / path.name).write_bytes(path.read_bytes())
        config = copy / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        manifest = json.loads((folder / "manifest.json").read_text())
        write_manifest(copy, {"base": manifest["base"]})
        return copy

    return edit
