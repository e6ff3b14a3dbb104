"""A Markdown document as passages that can stand alone: each says under which heading it stood.

What search finds is shown to the model without its neighbours. So "Casal: R$ 690" needs the heading that says of what,
a table's cell its row and column, and a heading alone is no passage.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from core.passages import MAX_WORDS, passages_of

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_PARSER = MarkdownIt("commonmark").enable("table")
_LEAVES = ("inline", "fence", "code_block")
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
    sections = [Section()]
    headings: list[tuple[int, str]] = []
    for node in SyntaxTreeNode(_PARSER.parse(_FRONT_MATTER.sub("", document))).children:
        if node.type == "heading":
            level, text = int(node.tag[1:]), _text(node)
            headings = [one for one in headings if one[0] < level]
            long = len(text.split()) > _LONGEST_HEADING
            above = tuple(heading for _, heading in headings)
            sections.append(Section("" if long else text, above, [text] if long else []))
            headings += [] if long else [(level, text)]
        elif block := _block(node):
            sections[-1].blocks.append(block)
    return [section for section in sections if section.blocks]


def _block(node: SyntaxTreeNode) -> str:
    """The text of an outermost block."""
    if node.type == "table":
        return _table(node)
    if node.type == "html_block":
        return _tagless(node.content)
    lines = [text for one in node.walk() if one.type in _LEAVES and (text := _text(one))]
    return "\n".join(map(_ended, lines) if node.type.endswith("_list") else lines)


def _table(node: SyntaxTreeNode) -> str:
    """Of two columns "price: single R$ 690, double R$ 990."; of more a line for each row, "single: price R$ 690, …"."""
    (first, *columns), *rows = [list(map(_text, row.children)) for row in node.walk() if row.type == "tr"]
    if rows and len(columns) == 1:
        return f"{columns[0] or first}: " + ", ".join(" ".join(filter(None, row)) for row in rows) + "."
    lines = []
    for name, *cells in rows:
        said = ", ".join(f"{column} {cell}".strip() for column, cell in zip(columns, cells, strict=False) if cell)
        lines.append(f"{name}: {said}." if name and said else f"{name or said}.")
    return "\n".join(lines)


def _ended(line: str) -> str:
    return line if line[-1] in ".:;?!…" else f"{line}."


def _text(node: SyntaxTreeNode) -> str:
    """A node's words without their marks; a link keeps where it leads."""
    return _words(node).strip()


def _words(node: SyntaxTreeNode) -> str:
    if node.type in ("softbreak", "hardbreak"):
        return "\n" if node.type == "hardbreak" else " "
    if node.type == "html_inline":
        return _tagless(node.content)
    if not node.children or node.type == "image":
        return node.content
    said = "".join(map(_words, node.children))
    target = str(node.attrs.get("href", ""))
    if target.startswith(("http", "mailto:", "tel:")) and (bare := target.split(":", 1)[1].strip("/")):
        said += f" ({target})" if bare not in said else ""
    return said


def _tagless(html: str) -> str:
    return re.sub(r"<!--.*?-->|<[^>]*>", "", html, flags=re.DOTALL).strip()
