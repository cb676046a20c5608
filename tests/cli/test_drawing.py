"""Pictures of the mesh: nothing is left out, nothing overlaps, and every format is well-formed."""

import itertools
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from meshd.cli.drawing import Edge, Graph, Node, dot, svg, text

SVG = "{http://www.w3.org/2000/svg}"


def link(target: str, transport: str = "quic", metric: int = 12) -> Edge:
    return Edge(source="me", target=target, is_link=True, metric=metric, transport=transport)


def route(source: str, target: str, metric: int = 20, *, is_used: bool = True) -> Edge:
    return Edge(source=source, target=target, is_link=False, metric=metric, is_used=is_used)


def mesh() -> Graph:
    """A home: two links, one device behind, one gone; and what the routes tell besides."""
    nodes = (
        Node("me", "kitchen", "admin", "self"),
        Node("a", "attic", "member", "up"),
        Node("g", "garage", "member", "suspect"),
        Node("s", "shed", "relay", "routed"),
        Node("d", "dock", "member", "down"),
    )
    edges = (
        link("a"),
        link("g", "websocket", 40),
        route("a", "s"),
        route("g", "s", 30, is_used=False),
        route("a", "g", 14, is_used=False),
        route("g", "a", 15, is_used=False),
    )
    return Graph(nodes, edges)


def test_text_is_a_tree_and_what_does_not_fit_into_it() -> None:
    assert text(mesh()) == [
        "kitchen (this device, admin)",
        "+-- attic             quic, metric 12",
        "|   `-- shed (relay)  by route, metric 20",
        "`-- garage (suspect)  websocket, metric 40",
        "",
        "Between them:",
        "  garage - shed   metric 30",
        "  garage - attic  metric 15",
        "",
        "No path to: dock",
    ]


def test_text_is_ascii() -> None:
    assert "\n".join(text(mesh())).isascii()


def test_a_linked_device_that_is_better_reached_over_another_is_drawn_once() -> None:
    nodes = (
        Node("me", "kitchen", "admin", "self"),
        Node("a", "attic", "member", "up"),
        Node("g", "garage", "member", "up"),
    )
    graph = Graph(nodes, (link("a"), link("g", metric=900), route("a", "g")))
    assert [line.split()[1] for line in text(graph)[1:3]] == ["attic", "garage"]
    assert "  attic - garage  metric 20" in text(graph)


def test_edges_of_unknown_devices_are_dropped() -> None:
    graph = Graph((Node("me", "kitchen", "admin", "self"),), (link("gone"), route("gone", "me")))
    assert text(graph) == ["kitchen (this device, admin)"]
    ET.fromstring("\n".join(svg(graph)))


def test_an_empty_graph_is_still_a_picture() -> None:
    assert text(Graph((), ())) == []
    ET.fromstring("\n".join(svg(Graph((), ()))))


def test_dot_quotes_what_it_must() -> None:
    graph = Graph((Node("me", 'a"b\\', "admin", "self"), Node("x", "plain", "member", "up")), (link("x"),))
    lines = dot(graph)
    assert (lines[0], lines[-1]) == ("graph mesh {", "}")
    assert any('label="a\\"b\\\\\\nadmin"' in line for line in lines)
    assert '  "me" -- "x" [label="quic 12"];' in lines


def boxes(picture: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of each device's box."""
    found = []
    for rect in ET.fromstring(picture).iter(f"{SVG}rect"):
        if rect.get("rx"):
            x, y, width, height = (float(rect.get(name) or 0) for name in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def test_svg_shows_every_device_and_every_edge() -> None:
    picture = ET.fromstring("\n".join(svg(mesh())))
    words = [element.text for element in picture.iter(f"{SVG}text")]
    for name in ("kitchen", "attic", "garage", "shed", "dock", "quic 12", "websocket 40", "20", "no path", "relay"):
        assert name in words
    assert len(list(picture.iter(f"{SVG}path"))) == 5


def test_svg_escapes_names() -> None:
    graph = Graph((Node("me", "<script>&\"'", "admin", "self"),), ())
    picture = "\n".join(svg(graph))
    assert "<script>" not in picture
    assert "<script>&\"'" in [element.text for element in ET.fromstring(picture).iter(f"{SVG}text")]


STATES = st.lists(
    st.tuples(st.sampled_from(["up", "suspect", "routed", "down"]), st.text("abc-", min_size=1, max_size=63)),
    max_size=30,
)


@given(STATES, st.data())
def test_whatever_the_mesh_nothing_overlaps_or_is_lost(peers: list[tuple[str, str]], data: st.DataObject) -> None:
    nodes = [Node("me", "kitchen", "admin", "self")]
    nodes += [Node(str(number), name, "member", state) for number, (state, name) in enumerate(peers)]
    linked = [node.id for node in nodes if node.state in ("up", "suspect")]
    edges = [link(target) for target in linked]
    if linked:
        hop = st.sampled_from(linked)
        edges += [route(data.draw(hop), node.id) for node in nodes if node.state == "routed"]
        edges += [route(one, other, is_used=False) for one, other in itertools.pairwise(linked)]
    graph = Graph(tuple(nodes), tuple(edges))
    picture = "\n".join(svg(graph))
    size = re.search(r'width="(\d+)" height="(\d+)"', picture)
    assert size is not None
    drawn = boxes(picture)
    assert len(drawn) == len(nodes)
    for left, top, right, bottom in drawn:
        assert 0 <= left < right <= int(size[1])
        assert 0 <= top < bottom <= int(size[2])
    for one, other in itertools.combinations(drawn, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    if linked:
        told = "\n".join(text(graph))
        assert all(node.name in told for node in nodes)
