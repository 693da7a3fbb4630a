"""Bars in SVG: panels side by side, in each a group of bars per precision, ours above its peers.

A chart has a light and a dark form in one file, and a background of its own, so that it can be read
on any page. It exists in two widths, for a screen and for a telephone.
"""

from html import escape
from typing import NamedTuple

WIDE, SMALL = 2, 1  # panels in a row
PANEL = 400  # width of a panel
BAR, GAP, GROUP, HEAD = 16, 3, 22, 30  # heights: of a bar, below it, of a group's name, of a panel's
LABEL, VALUE = 108, 122  # widths of the names and of the numbers
MARGIN = 16

STYLE = """
  svg { font: 13px system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif }
  .page { fill: #ffffff } text { fill: #1f2328 } .faint { fill: #59636e }
  .title { font-size: 15px; font-weight: 600 } .head { font-weight: 600 } .ours { font-weight: 600 }
  rect.ours { fill: #0969da } rect.peer { fill: #afb8c1 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .faint { fill: #9198a1 }
    rect.ours { fill: #4493f8 } rect.peer { fill: #57606a }
  }
"""


class Bar(NamedTuple):
    """One engine: its name, its value, and what stands behind the value."""

    name: str
    value: float
    note: str
    ours: bool


class Panel(NamedTuple):
    """Groups of bars on one scale: (name, bars)."""

    title: str
    groups: list

    @property
    def height(self):
        bars = sum(len(bars) for _, bars in self.groups)
        return HEAD + GROUP * len(self.groups) + (BAR + GAP) * bars + MARGIN


def text(x, y, content, kind="", end=False):
    anchor = ' text-anchor="end"' if end else ""
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{kind}{anchor}>{escape(content)}</text>'


def drawn(panel, left, top):
    longest = max(bar.value for _, bars in panel.groups for bar in bars)
    room = PANEL - LABEL - VALUE
    yield text(left, top + 16, panel.title, "head")
    y = top + HEAD
    for name, bars in panel.groups:
        yield text(left, y + 14, name, "faint")
        y += GROUP
        for bar in bars:
            kind, width = "ours" if bar.ours else "peer", max(1, room * bar.value / longest)
            yield text(left + LABEL - 8, y + 12, bar.name, kind, end=True)
            yield f'<rect class="{kind}" x="{left + LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
            yield text(left + LABEL + width + 6, y + 12, f"{bar.value:,.0f}{bar.note}", kind)
            y += BAR + GAP


def chart(title, subtitle, panels, columns):
    """An SVG document; `subtitle` is a list of lines."""
    columns = min(columns, len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    width = columns * PANEL + (columns + 1) * MARGIN
    top = 34 + 18 * len(subtitle) + 8
    height = top + sum(max(panel.height for panel in row) for row in rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        text(MARGIN, 26, title, "title"),
        *(text(MARGIN, 46 + 18 * i, line, "faint") for i, line in enumerate(subtitle)),
    ]
    for row in rows:
        for i, panel in enumerate(row):
            out += drawn(panel, MARGIN + i * (PANEL + MARGIN), top)
        top += max(panel.height for panel in row)
    return "\n".join([*out, "</svg>", ""])
