"""The matrix of scores as an SVG: a row a night, a column a task; the frozen base first, joint training last."""

from collections.abc import Sequence
from html import escape

from learning.bench.metrics import Matrix

_CELL, _LEFT, _TOP = 46, 150, 120


def matrix(title: str, tasks: Sequence[str], R: Matrix, b: Sequence[float], J: Sequence[float] | None) -> str:
    """Scores as fractions; each column is shaded between its own lowest and highest, so that forgetting is seen."""
    rows: list[tuple[str, Sequence[float | None]]] = [("frozen base", b)]
    rows += [(f"after {tasks[t]}", row) for t, row in enumerate(R)]
    if J:
        rows.append(("joint", J))
    width, height = _LEFT + _CELL * len(tasks) + 20, _TOP + 26 * len(rows) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        ' font-size="11"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="13" font-weight="bold">{escape(title)}</text>',
    ]
    for i, task in enumerate(tasks):
        x = _LEFT + i * _CELL + _CELL / 2
        lines.append(f'<text transform="translate({x},{_TOP - 8}) rotate(-45)">{escape(task[:16])}</text>')
    for y, (name, scores) in enumerate(rows):
        top = _TOP + 26 * y
        lines.append(f'<text x="{_LEFT - 8}" y="{top + 17}" text-anchor="end">{escape(name[:22])}</text>')
        for i, score in enumerate(scores):
            if score is None:
                continue
            column = [value for _, row in rows if (value := row[i]) is not None]
            low, high = min(column), max(column)
            shade = (score - low) / (high - low) if high > low else 0.5
            colour = f"hsl(210,60%,{95 - 50 * shade:.0f}%)"
            ink = "white" if shade > 0.7 else "black"
            x = _LEFT + i * _CELL
            frame = ' stroke="black"' if y == i + 1 else ""
            lines.append(f'<rect x="{x}" y="{top}" width="{_CELL - 2}" height="24" fill="{colour}"{frame}/>')
            lines.append(
                f'<text x="{x + _CELL / 2 - 1}" y="{top + 16}" text-anchor="middle" fill="{ink}">{score:.3f}</text>'
            )
    return "\n".join([*lines, "</svg>"]) + "\n"
