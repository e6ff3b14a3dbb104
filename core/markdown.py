"""A Markdown document as passages that can stand alone: each says under which heading it stood.

What search finds is shown to the model without its neighbours. So "Casal: R$ 690" needs the heading that says of what,
a table's cell its row and column, and a heading alone is no passage.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token

from core.passages import MAX_WORDS, passages_of

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_PARSER = MarkdownIt("commonmark").enable("table")
_LONGEST_HEADING = MAX_WORDS // 2  # words; more is a sentence that somebody set large


@dataclass
class Section:
    """What stands under one heading: `above` are the headings around it, outermost first; `blocks` paragraphs,
    lists and tables, a line for each item or row."""

    heading: str = ""
    above: tuple[str, ...] = ()
    blocks: list[str] = field(default_factory=list)

    def passages(self) -> Iterator[str]:
        lead = self.heading if not self.heading or self.heading[-1] in ".:?!…" else f"{self.heading}:"
        room = MAX_WORDS - len(lead.split())
        for part in passages_of("\n\n".join(self.blocks), room):
            yield f"{lead} {part}".strip()


def sections_of(document: str) -> list[Section]:
    """The sections that say something, in their order."""
    tokens = _PARSER.parse(_FRONT_MATTER.sub("", document))
    sections = [Section()]
    headings: list[tuple[int, str]] = []
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            level, text = int(token.tag[1:]), _text(tokens[place + 1])
            headings = [one for one in headings if one[0] < level]
            long = len(text.split()) > _LONGEST_HEADING
            above = tuple(heading for _, heading in headings)
            sections.append(Section("" if long else text, above, [text] if long else []))
            headings += [] if long else [(level, text)]
        elif token.level == 0 and (block := _block(tokens[place:])):
            sections[-1].blocks.append(block)
    return [section for section in sections if section.blocks]


def _block(tokens: Sequence[Token]) -> str:
    """The text of the outermost block that begins here."""
    first = tokens[0]
    if first.type in ("fence", "code_block"):
        return first.content.strip()
    if first.type == "html_block":
        return _tagless(first.content)
    if first.nesting != 1 or first.type == "heading_open":
        return ""
    close = first.type.replace("_open", "_close")
    end = next(i for i, token in enumerate(tokens) if token.type == close and token.level == 0)
    inside = tokens[1:end]
    if first.type == "table_open":
        return _table(inside)
    lines = [text for text in map(_text, inside) if text]
    return "\n".join(map(_ended, lines) if first.type.endswith("list_open") else lines)


def _table(tokens: Sequence[Token]) -> str:
    """Of two columns "price: single R$ 690, double R$ 990."; of more a line for each row, "single: price R$ 690, …"."""
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_text(token))
    (first, *columns), *rows = rows
    if rows and len(columns) == 1:
        return f"{columns[0] or first}: " + ", ".join(" ".join(filter(None, row)) for row in rows) + "."
    lines = []
    for name, *cells in rows:
        said = ", ".join(f"{column} {cell}".strip() for column, cell in zip(columns, cells, strict=False) if cell)
        lines.append(f"{name}: {said}." if name and said else f"{name or said}.")
    return "\n".join(lines)


def _ended(line: str) -> str:
    return line if line[-1] in ".:;?!…" else f"{line}."


def _text(token: Token) -> str:
    """A line's words without their marks; a link keeps where it leads."""
    if token.type in ("fence", "code_block"):
        return token.content.strip()
    if token.type != "inline":
        return ""
    found: list[str] = []
    links: list[tuple[int, str]] = []
    for child in token.children or ():
        if child.type in ("softbreak", "hardbreak"):
            found.append("\n" if child.type == "hardbreak" else " ")
        elif child.type == "link_open":
            links.append((len(found), str(child.attrGet("href") or "")))
        elif child.type == "link_close":
            start, target = links.pop()
            if target.startswith(("http", "mailto:", "tel:")) and (bare := target.split(":", 1)[1].strip("/")):
                found.append(f" ({target})" if bare not in "".join(found[start:]) else "")
        elif child.type == "html_inline":
            found.append(_tagless(child.content))
        else:
            found.append(child.content)
    return "".join(found).strip()


def _tagless(html: str) -> str:
    return re.sub(r"<!--.*?-->|<[^>]*>", "", html, flags=re.DOTALL).strip()
