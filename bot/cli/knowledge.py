"""knowledge."""

import sys
from pathlib import Path

import click

from bot.cli.common import as_json_option, check_context, context_option, print_json, print_table, session, settings
from bot.recall import embed, language_of
from bot.seed import embed_knowledge
from core import knowledge as store
from core.errors import BadInput, ModelUnavailable
from core.prompts import LANGUAGES
from core.search import search as find_passages
from integrations.openai.embeddings import embeddings_of


@click.group()
def knowledge() -> None:
    """What answers may be taken from: add, list, search, remove, reembed."""


@knowledge.command()
@click.argument("source")
@context_option
@click.option("--title", default="", help="Stands before each passage when it is searched.")
@click.option("--language", type=click.Choice(LANGUAGES), default=None, help="Default: told from the text.")
@click.option("--replace", is_flag=True, help="Remove what a file of this name said before and does not say now.")
@as_json_option
def add(source: str, context: str, title: str, language: str | None, replace: bool, as_json: bool) -> None:
    """Add a text: a file's path, or - for standard input. It is cut into passages, and searchable at once.

    A Markdown file (.md) is cut under its headings, and a passage says which it stood under.
    """
    if replace and source == "-":
        raise click.UsageError("--replace goes by the file's name, and standard input has none. Name a file.")
    text = sys.stdin.read() if source == "-" else _read(Path(source))
    name, removed = "" if source == "-" else Path(source).name, 0
    with session() as db:
        ids = store.add(
            db, context=context, language=language or language_of(text, settings().language), text=text, title=title,
            source=name, markdown=Path(source).suffix in (".md", ".markdown"),
        )  # fmt: skip
        if replace:
            removed = store.remove_others(db, context, source=name, keep=ids)
    note = f" {removed} of before removed." if removed else ""
    try:
        embed_knowledge(settings())
    except ModelUnavailable as error:
        note += f" Found by their words alone until `npllm knowledge reembed`: {error.message}"
    if as_json:
        print_json({"ids": [str(i) for i in ids], "removed": removed})
    else:
        click.echo(f"{len(ids)} passages.{note}")


@knowledge.command("list")
@context_option
@click.option("--limit", type=click.IntRange(1), default=None, help="Default: all of them.")
@as_json_option
def list_(context: str, limit: int | None, as_json: bool) -> None:
    """The passages of a context, oldest first."""
    with session() as db:
        check_context(db, context)
        found = store.list_passages(db, context, limit=limit)
    if as_json:
        print_json([{"id": str(p.id), "language": p.language, "title": p.title, "text": p.text} for p in found])
    else:
        print_table(("id", "language", "title", "text"), [(p.id, p.language, p.title, p.text[:80]) for p in found])


@knowledge.command()
@click.argument("question")
@context_option
@click.option("--limit", type=click.IntRange(1, 50), default=3, show_default=True)
@as_json_option
def search(question: str, context: str, limit: int, as_json: bool) -> None:
    """What the bot would find for a question."""
    client = embeddings_of(settings())
    vector = embed(client, question)
    with session() as db:
        check_context(db, context)
        hits = find_passages(
            db, context=context, question=question, language=language_of(question, settings().language),
            query_vector=vector, model=client.name if client else None, limit=limit,
        )  # fmt: skip
    if as_json:
        print_json(
            [
                {"id": str(h.id), "score": h.score, "lexical": h.lexical, "cosine": h.cosine, "text": h.text}
                for h in hits
            ]
        )
    else:
        rows = [
            (f"{h.score:.2f}", f"{h.lexical:.2f}", "–" if h.cosine is None else f"{h.cosine:.2f}", h.text) for h in hits
        ]
        print_table(("score", "words", "meaning", "passage"), rows, empty="Nothing fits.")


@knowledge.command()
@click.argument("passage_id", type=click.UUID)
def remove(passage_id) -> None:  # type: ignore[no-untyped-def]
    """Take a passage out of every answer from now on."""
    with session() as db:
        store.remove(db, passage_id)
    click.echo("removed")


@knowledge.command()
def reembed() -> None:
    """Give every passage a vector of the current embedding model (after EMBEDDING_MODEL changed)."""
    click.echo(f"{embed_knowledge(settings())} passages embedded")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}.", "Give a UTF-8 text file, or - for input.") from None
