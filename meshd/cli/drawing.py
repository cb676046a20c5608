"""Pictures of the mesh: an ASCII tree, Graphviz's language, and SVG written by hand. Pure."""

from collections.abc import Callable, Iterable
from html import escape

import attrs


@attrs.frozen
class Node:
    """A device. ``state``: ``self``, ``up``, ``suspect``, ``routed`` (over other devices) or ``down``."""

    id: str
    name: str
    role: str
    state: str

    @property
    def notes(self) -> list[str]:
        """What is special about it."""
        role = [] if self.role == "member" else [self.role]
        return role + (["suspect"] if self.state == "suspect" else [])


@attrs.frozen(kw_only=True)
class Edge:
    """A link of this device, or a way that its routes tell of: from a next hop (``source``) to a destination.

    Args:
        is_used: whether mail goes there now.
    """

    source: str
    target: str
    is_link: bool
    metric: int
    transport: str = ""
    is_used: bool = True

    @property
    def label(self) -> str:
        """``quic 12``, or the metric alone."""
        return f"{self.transport} {self.metric}".strip()


class Graph:
    """The mesh as one device sees it, taken apart for drawing. Edges between unknown devices are dropped.

    ``links`` are its own; ``ways`` are the used routes that alone lead to a device; ``others`` are all else
    that the routes tell of, once for each two devices.
    """

    def __init__(self, nodes: tuple[Node, ...], edges: tuple[Edge, ...]) -> None:
        self.nodes = {node.id: node for node in nodes}
        known = [edge for edge in edges if edge.source in self.nodes and edge.target in self.nodes]
        self.links = [edge for edge in known if edge.is_link]
        ways = {edge.target: edge for edge in known if not edge.is_link and edge.is_used}
        self.ways = [edge for target, edge in ways.items() if self.nodes[target].state == "routed"]
        shown = {frozenset((edge.source, edge.target)) for edge in (*self.links, *self.ways)}
        others = {frozenset((edge.source, edge.target)): edge for edge in known if not edge.is_link}
        self.others = [edge for ends, edge in others.items() if ends not in shown]

    def in_state(self, *states: str) -> list[Node]:
        """The devices in one of these states, in the order given."""
        return [node for node in self.nodes.values() if node.state in states]


# --- text


def text(graph: Graph) -> list[str]:
    """A tree with this device at its root, then what does not fit into a tree."""
    rows: list[tuple[str, str]] = []
    for root in graph.in_state("self"):
        rows.append((f"{root.name} ({', '.join(['this device', *root.notes])})", ""))
        rows += _branches(graph, graph.links, "")
    width = max((len(branch) for branch, label in rows if label), default=0)
    lines = [f"{branch.ljust(width)}  {label}".rstrip() for branch, label in rows]
    if graph.others:
        lines += ["", "Between them:"]
        pairs = [(f"{graph.nodes[e.source].name} - {graph.nodes[e.target].name}", e.metric) for e in graph.others]
        width = max(len(names) for names, _ in pairs)
        lines += [f"  {names.ljust(width)}  metric {metric}" for names, metric in pairs]
    lost = [node.name for node in graph.in_state("down")]
    if lost:
        lines += ["", f"No path to: {', '.join(lost)}"]
    return lines


def _branches(graph: Graph, edges: list[Edge], indent: str) -> list[tuple[str, str]]:
    rows = []
    for edge in edges:
        is_last = edge is edges[-1]
        node = graph.nodes[edge.target]
        notes = f" ({', '.join(node.notes)})" if node.notes else ""
        label = f"{edge.transport}, metric {edge.metric}" if edge.is_link else f"by route, metric {edge.metric}"
        rows.append((f"{indent}{'`' if is_last else '+'}-- {node.name}{notes}", label))
        if edge.is_link:  # routes begin at linked devices, and one edge stands for the rest of the way
            beyond = [way for way in graph.ways if way.source == node.id]
            rows += _branches(graph, beyond, indent + ("    " if is_last else "|   "))
    return rows


# --- Graphviz


_DOT_STYLES = {
    "self": 'penwidth=3, color="#0969da"',
    "up": 'color="#1a7f37"',
    "suspect": 'color="#9a6700"',
    "routed": 'color="#8250df"',
    "down": 'color="#6e7781", fontcolor="#6e7781", style="rounded,dashed"',
}


def dot(graph: Graph) -> list[str]:
    """An undirected graph in Graphviz's language: ``meshctl graph --format dot | dot -Tpng > mesh.png``."""
    lines = ["graph mesh {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for node in graph.nodes.values():
        label = "\\n".join(_dot_escaped(part) for part in (node.name, ", ".join(node.notes)) if part)
        lines.append(f'  {_dot_id(node.id)} [label="{label}", {_DOT_STYLES.get(node.state, "")}];')
    for edges, style in ((graph.links, ""), (graph.ways, ", style=dashed"), (graph.others, _DOT_OTHER)):
        lines += [
            f'  {_dot_id(edge.source)} -- {_dot_id(edge.target)} [label="{_dot_escaped(edge.label)}"{style}];'
            for edge in edges
        ]
    return [*lines, "}"]


_DOT_OTHER = ', style=dotted, color="#6e7781", fontcolor="#6e7781", constraint=false'


def _dot_escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"')


def _dot_id(name: str) -> str:
    return f'"{_dot_escaped(name)}"'


# --- SVG: columns by distance from this device, so that nothing overlaps however long the names are

_COLUMNS = (
    ("this device", ("self",)),
    ("linked", ("up", "suspect")),
    ("over other devices", ("routed",)),
    ("no path", ("down",)),
)
_COLOURS = {"self": "#0969da", "up": "#1a7f37", "suspect": "#9a6700", "routed": "#8250df", "down": "#6e7781"}
_GREY = "#6e7781"
_MARGIN, _HEADING, _BOX, _ROW, _GAP = 24, 32, 40, 64, 150
"""Pixels: around all, for the headings, a box's height, from row to row, between columns."""

_LETTER, _NARROWEST, _BULGE = 8.4, 90.0, 100.0
"""Pixels: a letter's width, the narrowest column, the widest bend of a line within a column."""

_LABELLED_OTHERS = 8
"""More of the lesser edges get no labels: they would hide each other. Pointing at one still tells."""


@attrs.frozen
class _Box:
    """Where a device is drawn. All boxes of a column are equally wide."""

    left: float
    middle: float
    width: float

    @property
    def right(self) -> float:
        """The right side."""
        return self.left + self.width


def svg(graph: Graph) -> list[str]:
    """A picture for browsers, self-contained."""
    columns = [(title, nodes) for title, states in _COLUMNS if (nodes := _in_order(graph, states))]
    height = _MARGIN * 2 + _HEADING + _ROW * max((len(nodes) for _, nodes in columns), default=0)
    boxes: dict[str, _Box] = {}
    headings = []
    left = float(_MARGIN)
    for title, nodes in columns:
        width = max(_NARROWEST, *(_LETTER * len(node.name) + 24 for node in nodes))
        headings.append(_text(left + width / 2, _MARGIN + 8, title, _GREY, 12))
        top = _MARGIN + _HEADING + (height - 2 * _MARGIN - _HEADING - _ROW * len(nodes)) / 2
        for row, node in enumerate(nodes):
            boxes[node.id] = _Box(left, top + _ROW * (row + 0.5), width)
        left += width + _GAP
    width = max(left - _GAP, _NARROWEST) + _MARGIN + (_BULGE if len(columns) < 3 and graph.others else 0)
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="sans-serif">',
        "<title>The mesh as seen from this device</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *headings,
        *_svg_edges(graph, boxes),
        *(line for node in graph.nodes.values() if node.id in boxes for line in _svg_box(node, boxes[node.id])),
        "</svg>",
    ]


def _in_order(graph: Graph, states: Iterable[str]) -> list[Node]:
    """The devices of one column; those behind others in the order of these, so that fewer lines cross."""
    nodes = graph.in_state(*states)
    linked = [node.id for node in graph.in_state("up", "suspect")]
    place = {way.target: linked.index(way.source) for way in graph.ways if way.source in linked}
    return sorted(nodes, key=lambda node: place.get(node.id, 0))


def _svg_edges(graph: Graph, boxes: dict[str, _Box]) -> list[str]:
    with_labels = len(graph.others) <= _LABELLED_OTHERS
    styles = (
        (graph.others, f'stroke="{_GREY}" stroke-dasharray="2 4"', with_labels),
        (graph.ways, f'stroke="{_COLOURS["routed"]}" stroke-dasharray="7 4"', True),
        (graph.links, f'stroke="{_COLOURS["up"]}" stroke-width="2"', True),
    )
    lines, labels = [], []
    for edges, style, is_labelled in styles:
        for edge in edges:
            if edge.source not in boxes or edge.target not in boxes:
                continue
            path, x, y = _curve(boxes[edge.source], boxes[edge.target])
            names = f"{graph.nodes[edge.source].name} - {graph.nodes[edge.target].name}: {edge.label}"
            lines.append(f'<path d="{path}" fill="none" {style}><title>{escape(names)}</title></path>')
            if is_labelled:
                labels.append(_text(x, y + 4, edge.label, _GREY if edges is graph.others else "#24292f", 12))
    return lines + labels


def _curve(one: _Box, other: _Box) -> tuple[str, float, float]:
    """A path between two boxes, and where its label goes."""
    if one.left == other.left:  # within a column: bent around the boxes between
        bend = one.right + 2 * min(_BULGE, 24 + abs(one.middle - other.middle) / 6)
        middle = (one.middle + other.middle) / 2
        path = f"M{one.right:.1f} {one.middle:.1f} Q{bend:.1f} {middle:.1f} {other.right:.1f} {other.middle:.1f}"
        return path, (one.right + bend) / 2, middle
    near, far = sorted((one, other), key=lambda box: box.left)
    path = f"M{near.right:.1f} {near.middle:.1f} L{far.left:.1f} {far.middle:.1f}"
    share = 0.62  # nearer to the far end, where lines that begin at one box are apart
    return (
        path,
        near.right + share * (far.left - near.right),
        near.middle + share * (far.middle - near.middle),
    )


def _svg_box(node: Node, box: _Box) -> list[str]:
    colour = _COLOURS.get(node.state, _GREY)
    is_self, dashes = node.state == "self", ' stroke-dasharray="4 3"' if node.state == "down" else ""
    ink = "#ffffff" if is_self else "#24292f"
    lines = [
        f'<rect x="{box.left:.1f}" y="{box.middle - _BOX / 2:.1f}" width="{box.width:.1f}" height="{_BOX}" rx="8"'
        f' fill="{colour if is_self else "#ffffff"}" stroke="{colour}" stroke-width="2"{dashes}>'
        f"<title>{escape(node.id)}</title></rect>",
        _text(box.left + box.width / 2, box.middle + (-1 if node.notes else 5), node.name, ink, 14, halo=False),
    ]
    if node.notes:
        notes = ", ".join(node.notes)
        lines.append(_text(box.left + box.width / 2, box.middle + 14, notes, ink if is_self else _GREY, 11, halo=False))
    return lines


def _text(x: float, y: float, words: str, colour: str, size: int, *, halo: bool = True) -> str:
    """Centred text; the halo keeps lines behind it from crossing it."""
    around = ' stroke="#ffffff" stroke-width="5" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="{size}" fill="{colour}"{around}>'
        f"{escape(words)}</text>"
    )


STYLES: dict[str, Callable[[Graph], list[str]]] = {"text": text, "dot": dot, "svg": svg}
"""The formats of ``meshctl graph``."""
