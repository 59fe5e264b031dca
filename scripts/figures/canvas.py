"""An SVG on a light card of its own, so that it can be read on any page, light or dark."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

WIDTH, MARGIN = 960, 28
INK, SOFT, LINE, CARD = "#1f2733", "#56616f", "#8a95a3", "#fafbfc"
FROZEN, TRAINED, PLAIN, AUDIO = "#dde7f3", "#fde3c3", "#eef0f3", "#f2a65a"
SANS = (
    "'Segoe UI', Helvetica, Arial, 'Apple SD Gothic Neo', 'Malgun Gothic', 'Noto Sans KR', "
    "'Noto Sans CJK KR', 'DejaVu Sans', sans-serif"
)
MONO = "Consolas, Menlo, 'DejaVu Sans Mono', monospace"


class Canvas:
    """SVG elements in the order they were drawn; coordinates from the top left."""

    def __init__(self, height: int) -> None:
        self.height = height
        self.elements: list[str] = []

    def line(self, x: float, top: float, bottom: float) -> None:
        """A dashed vertical line."""
        self.elements.append(
            f'<path d="M{x:g} {top:g} V{bottom:g}" stroke="{LINE}" stroke-dasharray="4 4"/>'
        )

    def rect(self, x: float, y: float, w: float, h: float, fill: str, radius: float = 8) -> None:
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius:g}" '
            f'fill="{fill}" stroke="{LINE}"/>'
        )

    def text(
        self, x: float, y: float, text: str, size: float = 13, *, color: str = INK,
        anchor: str = "middle", font: str = SANS, is_bold: bool = False, has_halo: bool = False,
    ) -> None:  # fmt: skip
        """A line of text; with a halo it can be read over other lines."""
        weight = ' font-weight="600"' if is_bold else ""
        if has_halo:
            weight += f' paint-order="stroke" stroke="{CARD}" stroke-width="5"'
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" '
            f'text-anchor="{anchor}" font-family="{font}"{weight}>{escape(text)}</text>'
        )

    def box(
        self, x: float, y: float, w: float, h: float, fill: str, title: str, note: str, shape: str
    ) -> None:
        """A rounded box with a bold title, a note and a shape, each on its line when given."""
        self.rect(x, y, w, h, fill)
        lines = (
            (title, {"size": 15, "is_bold": True}),
            (note, {"size": 12.5, "color": SOFT}),
            (shape, {"size": 12.5, "font": MONO}),
        )
        shown = [(line, style) for line, style in lines if line]
        base = y + h / 2 - 9.5 * (len(shown) - 1) + 5
        for position, (line, style) in enumerate(shown):
            self.text(x + w / 2, base + 19 * position, line, **style)

    def path(
        self, points: Sequence[tuple[float, float]], *, has_head: bool = True,
        color: str = SOFT, width: float = 1.5,
    ) -> None:  # fmt: skip
        """A line through the points, with an arrow head at its end."""
        steps = " L".join(f"{x:g} {y:g}" for x, y in points)
        head = ' marker-end="url(#head)"' if has_head else ""
        self.elements.append(
            f'<path d="M{steps}" fill="none" stroke="{color}" stroke-width="{width:g}"{head}/>'
        )

    def dot(self, x: float, y: float, radius: float, fill: str) -> None:
        self.elements.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{SOFT}"/>'
        )

    def bracket(self, left: float, right: float, y: float) -> None:
        """A bracket below everything from left to right."""
        left, right = left + 2, right - 2
        self.path([(left, y), (left, y + 5), (right, y + 5), (right, y)], has_head=False)

    def render(self, title: str) -> str:
        body = "\n".join(self.elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
            f'width="{WIDTH}" height="{self.height}" role="img">\n<title>{escape(title)}</title>\n'
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            f'markerHeight="8" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{SOFT}"/></marker>'
            f'</defs>\n<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.height - 1}" '
            f'rx="14" fill="{CARD}" stroke="#cfd5dc"/>\n{body}\n</svg>\n'
        )


def shade(is_frozen: bool) -> str:
    """The colour of a part of the model."""
    return FROZEN if is_frozen else TRAINED
