"""The frozen base as it is served: loaded, checked, converted, and run a step at a time.

The model is an ordinary causal language model of transformers. What is changed are its attention function
(`attention.py`) and its linear layers (`linears.py`); the architecture's own code runs between them. `load` proves, on
this model, that the exchanged attention says what the original says, and refuses an architecture where it does not.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from core.artifacts import MANIFEST, file_sha256, verify
from core.errors import BadInput, SettingError
from core.memory import give_back
from integrations.huggingface.adapters import ServedAdapter, read_adapter
from integrations.huggingface.attention import Feed, Slots, Step, install
from integrations.huggingface.embedded_base import BaseModel
from integrations.huggingface.int8 import FloatProduct, Int8Product, Product, select_engine
from integrations.huggingface.linears import StoredEmbedding, replace_linears

log = logging.getLogger(__name__)

Precision = Literal["auto", "int8", "fp32", "bf16"]
_CHECKED_TOKENS = 24
_SHORTEST_LINE = 8
# Relative error of logits; a wrong mask or position gives several times as much.
_CHECK_TOLERANCE = {torch.float32: 0.001, torch.bfloat16: 0.03}
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}  # others keep states of another kind between tokens


class ServingModel:
    """A base model, its slots and its tokenizer. Used by one thread.

    Args:
        base: where it lies, and its name and revision.
        precision: auto = 8 bits on a CPU that can, else fp32; bf16 on a GPU.
        device: auto, cpu, cuda, ...
        rows: how many rows may be in flight.
        context: tokens a row may have, prompt and answer together.
        base.path may hold any causal LM of transformers whose attention goes through its attention interface.

    Raises:
        SettingError: the base cannot be loaded, or cannot be served by this server.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        precision: Precision = "auto",
        device: str = "auto",
        rows: int = 24,
        context: int = 1024,
    ) -> None:
        self.base = base
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.precision = _possible(precision, self.device)
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.slots = Slots(rows, context, self.device)
        with torch.no_grad():
            self.tokenizer, self._model = self._load()
            self.decoder: Tokenizer = self.tokenizer.backend_tokenizer
            self._line_ends: dict[int, bool] = {}
            self._marks = [token.content for token in self.decoder.get_added_tokens_decoder().values() if token.special]
            self.context = min(context, getattr(self._model.config, "max_position_embeddings", context))
            self._selects = "logits_to_keep" in inspect.signature(self._model.forward).parameters
            self.ends = _end_tokens(self._model, self.tokenizer)
            self._check_attention()
            self._convert()
            self.forward([Feed([1] * 8, 0, 0)])  # the first products of each shape are slow; let no customer wait
            self.forward([Feed([1], 0, 8)])

    def _load(self) -> tuple[Any, PreTrainedModel]:
        """Tokenizer and model as they lie on disk."""
        # 8-bit weights are made from what is on disk; bf16 keeps the peak low, and is what the embedded base is.
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        transformers_logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.base.path)
            if not getattr(tokenizer, "is_fast", False):
                raise ValueError("its tokenizer has no tokenizer.json")
            load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
            model, report = load(
                self.base.path,
                dtype=dtype,
                attn_implementation="sdpa",
                use_safetensors=True,
                output_loading_info=True,
            )
            if report["missing_keys"]:  # transformers would make them up
                raise ValueError(f"its weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise SettingError(
                f"{self.base.path} cannot be loaded as a causal language model: {error}.",
                "Set BASE_MODEL to a model of transformers with safetensors weights, or leave it unset.",
            ) from error
        torch.nn.Module.to(model, self.device)  # PreTrainedModel's own wrapper hides its signature
        return tokenizer, model.eval()

    def _check_attention(self) -> None:
        """Read a few tokens with the original attention, and again over slots in pieces: the logits must agree."""
        config = self._model.config.get_text_config()
        strange = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
        size, tolerance = config.vocab_size, _CHECK_TOLERANCE[self._model.dtype]
        tokens = [(7919 * i) % size for i in range(_CHECKED_TOKENS)]
        wanted = self._model(input_ids=torch.tensor([tokens], device=self.device), use_cache=False).logits[0].float()
        install(self._model, self.slots)
        cuts = (0, 12, _CHECKED_TOKENS - 1, _CHECKED_TOKENS)
        try:
            if strange:
                raise ValueError(f"it has layers of type {', '.join(sorted(strange))}")
            for start, stop in zip(cuts, cuts[1:], strict=False):
                found = self.forward([Feed(tokens[start:stop], 0, start)])[0]
                error = (found - wanted[stop - 1]).norm() / wanted[stop - 1].norm()
                if not error < tolerance:
                    raise ValueError(f"its logits differ by {float(error):.0%}")
        except (ValueError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
            raise SettingError(
                f"{self.base.name} ({type(self._model).__name__}) cannot be served here: {error}.",
                "Serve it with vLLM and set INFERENCE_URL, or choose another BASE_MODEL.",
            ) from error

    def _convert(self) -> None:
        """Exchange the linear layers; what stays (norms, rotations) is computed in the activations' precision."""
        model = self._model
        table = model.get_input_embeddings()
        self.groups = replace_linears(model, self.slots, self._product)
        if type(table) is torch.nn.Embedding:
            model.set_input_embeddings(StoredEmbedding(table.weight, self.dtype))
        if self.dtype == torch.float32:
            model.float()
        self.rest()  # the check's states, in the precision of the weights, and the freed weights

    def _product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        engine = select_engine() if self.precision == "int8" else None
        if engine is not None:
            return Int8Product(weight, bias, engine)
        return FloatProduct(weight.to(self.dtype), None if bias is None else bias.to(self.dtype))

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed]) -> torch.Tensor:
        """One step. Logits in fp32, shape (tokens, vocabulary), after the tokens that are `wanted`, feed by feed."""
        step = Step(feeds, self.device)
        self.slots.step = step
        try:
            options = {"logits_to_keep": step.last} if self._selects else {}
            logits = self._model(input_ids=step.tokens, position_ids=step.positions, use_cache=False, **options).logits[
                0
            ]
        finally:
            self.slots.step = None
        if not self._selects:
            logits = logits[step.last]
        places: dict[int, range] = {}
        start = 0
        for feed in step.asked:
            places[id(feed)] = range(start, start := start + feed.wanted)
        order = [place for feed in feeds if feed.answered for place in places[id(feed)]]
        return (logits[: len(order)] if order == list(range(len(order))) else logits[order]).float()

    def rest(self) -> None:
        """Give back what only rows in flight need; the next step takes it again, in a few milliseconds."""
        self.slots.layers.clear()
        give_back()

    def read_adapter(self, name: str, folder: Path, sha256: str | None = None) -> ServedAdapter:
        """Verify a version's folder and read it. May run in any thread, beside `forward`.

        Raises:
            ArtifactError: it must not be loaded, or does not fit this base.
        """
        verify(folder, sha256=sha256, base_revision=self.base.revision)
        found = sha256 or file_sha256(folder / MANIFEST)
        return read_adapter(name, folder, found, self.groups, self.dtype, self.device)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[list[int], int, list[int]]:
        """A conversation as the model reads it, up to where its answer begins.

        Returns:
            The tokens, how many of them the system message takes (0 where there is none), and where the lines after it
            end: what the model computes for a beginning that prompts share is worth keeping.

        Raises:
            BadInput: the model's chat template refuses this order of roles.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise BadInput(f"{self.base.name} has no chat template.", "Choose an instruction-tuned base.")
        messages = [{**message, "content": self._as_text(message["content"])} for message in messages]
        try:
            whole = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise jinja2's errors, each with its own words
            raise BadInput(f"The model's chat template refuses these messages: {error}.") from error
        tokens: list[int] = self.tokenizer(whole, add_special_tokens=False)["input_ids"]
        system = self._system(messages, tokens)
        return tokens, system, self._lines(tokens, system)

    def _system(self, messages: Sequence[dict[str, str]], tokens: list[int]) -> int:
        if messages[0]["role"] != "system":
            return 0
        try:
            start = self.tokenizer.apply_chat_template(messages[:1], tokenize=False)
        except Exception:  # a template that insists on a user's message: nothing to keep then
            return 0
        prefix: list[int] = self.tokenizer(start, add_special_tokens=False)["input_ids"]
        return len(prefix) if tokens[: len(prefix)] == prefix and len(prefix) < len(tokens) else 0

    def _lines(self, tokens: list[int], start: int) -> list[int]:
        """Ends of lines after `start`; a few tokens alone are no line, and the last token is always read."""
        ends: list[int] = []
        for place in range(start, len(tokens) - 1):
            if place + 1 - start >= _SHORTEST_LINE and self._ends_line(tokens[place]):
                ends.append(start := place + 1)
        return ends

    def _ends_line(self, token: int) -> bool:
        if token not in self._line_ends:
            self._line_ends[token] = self.decoder.decode([token], skip_special_tokens=False).endswith("\n")
        return self._line_ends[token]

    def _as_text(self, content: str) -> str:
        """A customer may write the marks that part one turn from the next; here they stay text."""
        for mark in self._marks:
            content = content.replace(mark, f"{mark[:1]} {mark[1:]}")
        return content


def _possible(precision: Precision, device: torch.device) -> Precision:
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "int8"
    if precision == "int8" and (device.type != "cpu" or select_engine() is None):
        log.warning("No 8-bit products on this machine (%s): serving in fp32, slower and larger.", device.type)
        return "fp32"
    return precision


def _end_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    found = set(ends) if isinstance(ends, (list, tuple)) else {ends}
    return frozenset(token for token in found | {tokenizer.eos_token_id} if token is not None)
