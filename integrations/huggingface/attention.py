"""Many conversations in one forward pass, without padding: the step, the slots, and attention over them.

A *step* is one pass through the model. It feeds any number of rows, each with any number of tokens: one for a row that
is being answered, many for a prompt that is being read. All tokens lie end to end in one flat sequence, so no row
depends on how long another is, and nothing is spent on padding. Linear layers and norms treat tokens one by one and
need not know; attention alone must keep the rows apart, and does so here.

The keys and values of a row lie in its *slot* of tensors that are allocated once, where `DynamicCache` would copy all
of them at every token.

Any architecture of transformers that calls the attention interface works (Llama, Qwen, Mistral, GPT-NeoX, ...):
`install` names this module's function as its attention implementation. No mask is built by the model, since the
interface asks for none where it does not know the implementation's name.
"""

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

if TYPE_CHECKING:
    from integrations.huggingface.adapters import ServedAdapter

IMPLEMENTATION = "npllm_slots"
_REFUSED = -float("inf")


@dataclass(eq=False)
class Feed:
    """What one row feeds into a step.

    Args:
        tokens: the row's next tokens.
        past: how many tokens of the row its slot already holds.
        answered: whether the logits after the last of `tokens` are wanted.
        guessed: how many of the last tokens are a guess; the logits after each of them and after the one before are
            wanted.
    """

    tokens: Sequence[int]
    slot: int
    past: int
    adapter: "ServedAdapter | None" = None
    answered: bool = True
    guessed: int = 0

    @property
    def wanted(self) -> int:
        """How many of its last tokens' logits are wanted."""
        return self.guessed + 1 if self.answered else 0


class Step:
    """The flat layout of one forward pass, worked out once and read by every layer.

    Rows are sorted by adapter version, so that a version's product is over neighbouring tokens.

    Attributes:
        tokens, positions: shape (1, n).
        segments: (start, stop, adapter) for each version that has tokens in this step; the base's are in none.
        asked: the feeds whose logits are wanted, in the order of the rows of `Server.forward`'s result.
    """

    def __init__(self, feeds: Sequence[Feed], device: torch.device) -> None:
        ordered = sorted(feeds, key=lambda feed: feed.adapter.number if feed.adapter else 0)
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        last: list[int] = []
        self.asked: list[Feed] = []
        self.segments: list[tuple[int, int, ServedAdapter]] = []
        self.prompts: list[tuple[int, int, int, int]] = []  # start, stop, slot, past
        single: dict[int, tuple[int, int]] = {}  # slot: flat index, past
        for feed in ordered:
            start, count = len(tokens), len(feed.tokens)
            tokens.extend(feed.tokens)
            positions.extend(range(feed.past, feed.past + count))
            slots.extend([feed.slot] * count)
            if count == 1:
                single[feed.slot] = (start, feed.past)
            else:
                self.prompts.append((start, start + count, feed.slot, feed.past))
            if feed.answered:
                last.extend(range(start + count - feed.wanted, start + count))
                self.asked.append(feed)
            if feed.adapter is not None:
                if self.segments and self.segments[-1][2] is feed.adapter:
                    start = self.segments.pop()[0]
                self.segments.append((start, len(tokens), feed.adapter))
        self.count = len(tokens)
        self.tokens = torch.tensor([tokens], device=device)
        self.positions = torch.tensor([positions], device=device)
        self.slots = torch.tensor(slots, device=device)
        # Where nothing is asked, the model computes one token's logits all the same: none is no shape for it.
        self.last = torch.tensor(last or [0], device=device)
        self._places: dict[tuple[int, int], torch.Tensor] = {}
        self._masks: dict[tuple[object, ...], torch.Tensor | None] = {}
        self._lay_out_singles(single, device)

    def _lay_out_singles(self, single: dict[int, tuple[int, int]], device: torch.device) -> None:
        """Rows with one token attend together, as one batch over the slots from 0 to the highest one."""
        self.reach = max(single, default=-1) + 1
        self.longest = max((past for _, past in single.values()), default=-1) + 1
        # A slot in between without a token in this step gets a query all the same; nobody reads what comes out.
        queries = [single.get(slot, (0, 0))[0] for slot in range(self.reach)]
        self.queries = torch.tensor(queries, device=device, dtype=torch.long)
        self._lengths = [single.get(slot, (0, 0))[1] + 1 for slot in range(self.reach)]
        by_token = sorted((token, slot) for slot, (token, _) in single.items())
        self.single_tokens = torch.tensor([token for token, _ in by_token], device=device, dtype=torch.long)
        self.single_slots = torch.tensor([slot for _, slot in by_token], device=device, dtype=torch.long)
        self.in_slot_order = queries == list(range(self.count))

    def places(self, heads: int, length: int) -> torch.Tensor:
        """Where each token's state of each head goes in a layer's tensor, its first three dimensions taken as one."""
        key = (heads, length)
        found = self._places.get(key)
        if found is None:
            head = torch.arange(heads, device=self.slots.device)
            found = ((self.slots[:, None] * heads + head) * length + self.positions[0][:, None]).flatten()
            self._places[key] = found
        return found

    def singles_mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What to add to the scores of the rows with one token: shape (reach, 1, 1, longest), or None for nothing."""
        key = (window, dtype)
        if key not in self._masks:
            lengths = torch.tensor(self._lengths, device=self.tokens.device)[:, None]
            place = torch.arange(self.longest, device=self.tokens.device)
            seen = place < lengths
            if window:
                seen &= place >= lengths - window
            blocked = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, _REFUSED)
            self._masks[key] = None if bool(seen.all()) else blocked[:, None, None]
        return self._masks[key]

    def prompt_mask(self, count: int, past: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """The same for one row's `count` tokens after `past` others: shape (count, past + count)."""
        key = (count, past, window, dtype)
        mask = self._masks.get(key)
        if mask is None:
            own = torch.arange(past, past + count, device=self.tokens.device)[:, None]
            place = torch.arange(past + count, device=self.tokens.device)
            hidden = place > own
            if window:
                hidden |= place <= own - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, _REFUSED)
            self._masks[key] = mask
        return mask


@dataclass(eq=False)
class Slots:
    """Keys and values of all rows in flight: two tensors a layer, each (slots, heads, length, width).

    They are made when a layer first writes, so that no architecture's head counts need be known here. On the CPU
    memory that was never written is not resident: a long `length` costs nothing until a row grows that long.
    """

    count: int
    length: int
    device: torch.device
    step: Step | None = None
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put this step's keys and values, each (1, heads, n, width), into their slots; return the layer's tensors."""
        assert self.step is not None
        keys, values = self._of(layer, key, value)
        for room, states in ((keys, key), (values, value)):
            heads, width = room.shape[1], room.shape[3]
            places = self.step.places(heads, self.length)
            room.view(-1, width).index_copy_(0, places, states[0].transpose(0, 1).reshape(-1, width))
        return keys, values

    def _of(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's tensors, made for such states where there are none yet."""
        if layer not in self.layers:
            self.layers[layer] = (self._room_for(key), self._room_for(value))
        return self.layers[layer]

    def _room_for(self, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, width = states.shape
        shape = (self.count, heads, self.length, width)
        if self.device.type != "cpu":
            return torch.zeros(shape, dtype=states.dtype, device=self.device)
        # Pages of a mapping are given when first written, and small. torch.zeros writes all of them at once, and
        # numpy asks for huge pages, which come to the same.
        room = mmap.mmap(-1, math.prod(shape) * states.element_size())
        return torch.frombuffer(room, dtype=states.dtype).view(shape)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot into another."""
        for keys, values in self.layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    @torch.inference_mode()
    def copy_out(self, slot: int, start: int, stop: int) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """A copy of a slot's tokens from `start` to `stop`, by layer."""
        return {
            layer: (keys[slot, :, start:stop].clone(), values[slot, :, start:stop].clone())
            for layer, (keys, values) in self.layers.items()
        }

    @torch.inference_mode()
    def copy_in(self, slot: int, start: int, states: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Put such a copy into a slot, from `start` on."""
        for layer, (key, value) in states.items():
            keys, values = self._of(layer, key[None], value[None])
            keys[slot, :, start : start + key.shape[1]] = key
            values[slot, :, start : start + value.shape[1]] = value


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface, over slots.

    Args:
        module: the attention layer; `install` gave it `slots`.
        query: (1, heads, n, width), rotated; key and value: (1, key heads, n, width).

    Returns:
        (1, n, heads, width), and no attention weights.
    """
    slots = cast(Slots, module.slots)
    step = slots.step
    assert step is not None
    keys, values = slots.write(cast(int, module.layer_idx), key, value)
    rows = query[0].transpose(0, 1)
    heads, width = rows.shape[1:]
    shared = keys.shape[1]
    singles: torch.Tensor | None = None
    if step.reach:
        # The heads that share a key stand where a longer query would: the keys need not be repeated for each.
        asking = rows if step.in_slot_order else rows.index_select(0, step.queries)
        singles = functional.scaled_dot_product_attention(
            asking.reshape(step.reach, shared, heads // shared, width),
            keys[: step.reach, :, : step.longest],
            values[: step.reach, :, : step.longest],
            attn_mask=step.singles_mask(sliding_window, query.dtype),
            scale=scaling,
        ).view(step.reach, heads, -1)
        if not step.prompts:
            found = singles if step.in_slot_order else singles.index_select(0, step.single_slots)
            return found[None], None
    found = rows.new_empty((step.count, heads, values.shape[-1]))
    if singles is not None:
        found[step.single_tokens] = singles.index_select(0, step.single_slots)
    for start, stop, slot, past in step.prompts:
        length = past + stop - start
        whole = past == 0 and not (sliding_window and length > sliding_window)
        states = functional.scaled_dot_product_attention(
            query[:, :, start:stop],
            keys[slot : slot + 1, :, :length],
            values[slot : slot + 1, :, :length],
            attn_mask=None if whole else step.prompt_mask(stop - start, past, sliding_window, query.dtype),
            is_causal=whole,
            scale=scaling,
            enable_gqa=heads != shared,
        )
        found[start:stop] = states[0].transpose(0, 1)
    return found[None], None


AttentionInterface.register(IMPLEMENTATION, attend)


def install(model: PreTrainedModel, slots: Slots) -> None:
    """Let `model` attend over `slots` from now on."""
    model.config._attn_implementation = IMPLEMENTATION
    for module in model.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.slots = slots  # type: ignore[assignment]
