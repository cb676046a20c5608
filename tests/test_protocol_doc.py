"""docs/protocol.md is true: its bytes are those of the code, its tables are complete.

``python -m tests.test_protocol_doc`` prints every example as the page has to show it.
"""

import hashlib
import random
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from meshd.delivery.outbox import FLOOR_LABEL, decode_floor, encode_floor
from meshd.delivery.receipts import (
    FIRST_CREDIT_BYTES,
    RECEIPT_LABEL,
    EpochReceipt,
    Receipt,
    decode_receipt,
    encode_receipt,
)
from meshd.ids import BundleId, Epoch, Flow, NodeId, Number, Priority, bundle_ref, format_message_id, to_text
from meshd.routing.seqno import Announcement, Seqno, Verdict, signer, verifier
from meshd.transport.framing import FrameReader, encode_batches, encode_grant
from meshd.trust import statement
from meshd.trust.card import Card, CardAddress, open_card, sign_card
from meshd.trust.handshake import DialerHandshake, ListenerHandshake
from meshd.trust.identity import Identity, certificate_key, server_name, signed_bytes
from meshd.trust.invitations import InviteCode
from meshd.trust.joining import MAX_ANSWER_BYTES, MAX_JOIN_FRAME_BYTES, JoinHello, decode_join_frame, encode_join_frame
from meshd.trust.roster import MAX_CHAIN_BYTES, Roster, discovery_tag
from meshd.trust.seal import DestinationSession, SourceSession, open_blob, open_stale_epoch, sign_blob, sign_stale_epoch
from meshd.wire import frames, routing
from meshd.wire.bundle import (
    TAG_SIZE,
    Content,
    Head,
    Message,
    bundle_id,
    decode_head,
    decode_messages,
    encode_head,
    encode_messages,
    pack_content,
    unpack_content,
)
from meshd.wire.frames import decode_frame, encode_frame

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^    (\S.*):\n((?:    (?:[0-9a-f]{2})+\n)+)", re.MULTILINE)


class Fixed(random.Random):
    """Randomness that is one byte over and over."""

    def __init__(self, byte: int) -> None:
        super().__init__(0)
        self._byte = byte

    def randbytes(self, n: int) -> bytes:
        return bytes((self._byte,)) * n


# The two devices of the page: A founds the mesh and admits B.
A, B, RECOVERY = (Identity.from_seed(bytes((byte,)) * 32) for byte in (1, 2, 3))
GENESIS = statement.sign_genesis(A, "home", "laptop", RECOVERY.public_key)
MESH_ID = Roster.from_genesis(GENESIS).mesh_id
ADD_B = statement.sign_statement(A, MESH_ID, 1, MESH_ID, statement.Add(B.certificate, "pi", "member"))
REMOVE_B = statement.sign_statement(
    A, MESH_ID, 2, hashlib.sha256(ADD_B).digest(), statement.Remove(B.node_id, honoured=None)
)
ROSTER = Roster.from_statements(GENESIS, [ADD_B])
EPOCH_A, EPOCH_B = Epoch(7, b"\xa0" * 8), Epoch(4, b"\xb0" * 8)
CARD_B = Card(
    node=B.node_id,
    version=1,
    name="pi",
    prekeys=((b"\x0d" * 8, bytes.fromhex("09") + bytes(31)),),
    addresses=(CardAddress("quic", "192.0.2.7", 7843),),
)
CODE = InviteCode(
    b"\x05" * 16,
    bytes(MESH_ID),
    hashlib.sha256(A.certificate).digest(),
    (CardAddress("websocket", "192.0.2.1", 7843),),
)

FLOW = Flow(A.node_id, B.node_id, Priority.NORMAL)
NUMBER = Number(EPOCH_A, 2)
CONTENT = Content("default", Number(EPOCH_A, 1), Number(EPOCH_A, 1), 1, encode_messages([Message(b"hello")]))
PLAINTEXT = pack_content(CONTENT)
SESSION, ROOT_KEY = b"\x50" * 16, b"\x60" * 32
HEAD = Head(FLOW, NUMBER, SESSION, 1, 604_800_000, len(PLAINTEXT) + TAG_SIZE)
HEAD_BYTES = encode_head(HEAD)
BODY = SourceSession(A, B.public_key, SESSION, ROOT_KEY, b"", may_seal=True).seal(HEAD_BYTES, HEAD.counter, PLAINTEXT)
BUNDLE = bundle_id(HEAD_BYTES, BODY)
RECEIPT = Receipt(
    priority=Priority.NORMAL,
    order=(4, 9),
    credit_bytes=FIRST_CREDIT_BYTES,
    floor=Number(EPOCH_A, 1),
    epochs=(EpochReceipt(EPOCH_A, 2, ((4, 5),), 1, ()),),
    refused=(),
)
SEQNO = Seqno(EPOCH_B, 3)


def handshake() -> tuple[frames.Hello, frames.Challenge, frames.Proof, frames.Welcome]:
    """A dials B: what each of them sends."""
    dialer = DialerHandshake(
        A, ROSTER, B.node_id, B.certificate, frames.ALPN_LINK, EPOCH_A, Epoch(3, b"\xb0" * 8), Fixed(0x11)
    )
    listener = ListenerHandshake(B, ROSTER, frames.ALPN_LINK, EPOCH_B, {A.node_id: Epoch(6, b"\xa1" * 8)}, Fixed(0x22))
    hello = dialer.start()
    challenge = listener.receive(hello)
    assert isinstance(challenge, frames.Challenge)
    proof = dialer.receive(challenge)
    assert isinstance(proof, frames.Proof)
    welcome = listener.receive(proof)
    assert isinstance(welcome, frames.Welcome)
    assert dialer.receive(welcome) is None
    return hello, challenge, proof, welcome


HELLO, CHALLENGE, PROOF, WELCOME = handshake()

FRAMES: Mapping[str, frames.Frame] = {
    "hello": HELLO,
    "challenge": CHALLENGE,
    "welcome": WELCOME,
    "reject": frames.Reject("P_VERSION", "no version in common"),
    "ping": frames.Ping(1),
    "pong": frames.Pong(1),
    "bye": frames.Bye("closed", "stopping"),
    "roster heads": frames.RosterHeads(ROSTER.heads()),
    "bundle frame": frames.BundleFrame(15, 40, 0, HEAD_BYTES, BODY, len(BODY)),
    "part": frames.Part(b"\x00\x01\x02"),
    "ack": frames.Ack((BUNDLE,), (frames.Busy(BundleId(b"\x0e" * 20), 5000),), ()),
    "receipt, over B's own link": frames.Routed(B.node_id, A.node_id, 16, frames.Kind.RECEIPT, encode_receipt(RECEIPT)),
    "echo": frames.Echo(A.node_id, B.node_id, 16, 1, False, (A.node_id,)),
    "route update": routing.RouteUpdate((routing.RouteEntry(B.node_id, EPOCH_B, SEQNO.number, 0, signer(B)(SEQNO)),)),
    "retraction": routing.RouteUpdate(
        (routing.RouteEntry(B.node_id, EPOCH_B, SEQNO.number, routing.METRIC_INFINITY, signer(B)(SEQNO)),)
    ),
    "seqno request": routing.SeqnoRequest(B.node_id, EPOCH_B, 4, 127),
    "route request": routing.RouteRequest(None),
}

BYTES: Mapping[str, bytes] = {
    "ping on a stream": b"".join(encode_batches([encode_frame(frames.Ping(1))])),
    "grant of 4,194,304 bytes": encode_grant(4_194_304),
    'signed bytes of label "meshd/card/v1" and parts 0102, 03': signed_bytes("meshd/card/v1", b"\x01\x02", b"\x03"),
    "public key of A": A.public_key,
    "node id of A": A.node_id,
    "certificate of A": A.certificate,
    "mesh id": MESH_ID,
    "statement: A removes B": REMOVE_B,
    "card of B": sign_card(B, CARD_B),
    "TXT tag of A with salt 0303030303030303": discovery_tag(MESH_ID, b"\x03" * 8, A.node_id),
    "code id": CODE.id,
    "code key": CODE.key,
    "join hello": encode_join_frame(JoinHello(1, CODE.id, B.certificate, b"\x33" * 32)),
    "signature of A's proof": PROOF.signature,
    "bundle head": HEAD_BYTES,
    "messages": CONTENT.messages,
    "content": PLAINTEXT,
    "sealed body": BODY,
    "bundle id": BUNDLE,
    "ref": bundle_ref(FLOW, NUMBER),
    "receipt": encode_receipt(RECEIPT),
    "receipt body, through others": sign_blob(B, RECEIPT_LABEL, A.node_id + encode_receipt(RECEIPT)),
    "floor": encode_floor(Priority.NORMAL, Number(EPOCH_A, 3)),
    "stale epoch": sign_stale_epoch(B, A.node_id, Priority.NORMAL, ephemeral=False, known=Epoch(9, b"\xa9" * 8)),
}

TEXTS = {
    "node id of A": to_text(A.node_id),
    "node id of B": to_text(B.node_id),
    "name in A's certificate": server_name(A.node_id),
    "invitation code": str(CODE),
    "message id": format_message_id(bundle_ref(FLOW, NUMBER), 0),
}


def examples() -> dict[str, bytes]:
    """The byte examples of the page, by title."""
    return {title: bytes.fromhex(digits) for title, digits in EXAMPLE.findall(PAGE)}


def texts() -> dict[str, str]:
    """The text examples of the page, by title; a long one goes over several lines."""
    found = re.findall(r"^    (\S.*) =\n((?:    \S+\n)+)", PAGE, re.MULTILINE)
    return {title: "".join(value.split()) for title, value in found}


def test_every_example_is_what_the_code_makes() -> None:
    expected = {**BYTES, **{title: encode_frame(frame) for title, frame in FRAMES.items()}}
    assert {title: data.hex() for title, data in examples().items()} == {
        title: data.hex() for title, data in expected.items()
    }
    assert texts() == TEXTS


@pytest.mark.parametrize("title", list(FRAMES))
def test_frames_of_the_page_are_read_as_what_they_say(title: str) -> None:
    assert decode_frame(examples()[title]) == FRAMES[title]


def test_values_of_the_page_are_read_as_what_they_say() -> None:
    page = examples()
    assert certificate_key(page["certificate of A"]) == page["public key of A"]
    assert open_card(page["card of B"], B.public_key) == CARD_B
    assert decode_head(page["bundle head"]) == HEAD
    session = DestinationSession(SESSION, ROOT_KEY)
    assert session.open(page["bundle head"], HEAD.counter, page["sealed body"]) == page["content"]
    assert unpack_content(page["content"]) == CONTENT
    assert decode_messages(page["messages"], 1) == (Message(b"hello"),)
    assert bundle_id(page["bundle head"], page["sealed body"]) == page["bundle id"]
    assert decode_receipt(page["receipt"]) == RECEIPT
    assert open_blob(B.public_key, RECEIPT_LABEL, page["receipt body, through others"]) == A.node_id + page["receipt"]
    assert decode_floor(page["floor"]) == (Priority.NORMAL, Number(EPOCH_A, 3))
    assert open_stale_epoch(B.public_key, page["stale epoch"]).known == Epoch(9, b"\xa9" * 8)
    assert decode_join_frame(page["join hello"]) == JoinHello(1, CODE.id, B.certificate, b"\x33" * 32)
    assert InviteCode.parse(texts()["invitation code"]) == CODE


def test_the_statement_of_the_page_removes_b() -> None:
    roster, new = ROSTER.merge([examples()["statement: A removes B"]])
    assert len(new) == 1
    assert roster.members[B.node_id].removed


def test_the_route_of_the_page_is_signed_by_its_destination() -> None:
    update = decode_frame(examples()["route update"])
    assert isinstance(update, routing.RouteUpdate)
    keys = {B.node_id: B.public_key}
    for entry, verdict in (
        (update.routes[0], Verdict.GENUINE),
        (attrs.evolve(update.routes[0], seqno=4), Verdict.FORGED),
    ):
        heard = Announcement(entry.destination, Seqno(entry.epoch, entry.seqno), entry.signature)
        assert verifier(lambda node: keys.get(NodeId(node)))(heard) is verdict


def test_the_stream_of_the_page_is_read_with_its_grant() -> None:
    page = examples()
    reader = FrameReader(grants=True)
    assert reader.feed(page["grant of 4,194,304 bytes"] + page["ping on a stream"]) == [page["ping"]]
    assert reader.take_granted() == 4_194_304


def table(title: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    section = re.split(r"^#+ ", PAGE.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    assert rows, title
    return rows[2:]


def test_every_frame_stands_in_the_table_with_its_number_and_fields() -> None:
    documented = {int(row[0]): (row[1].strip("`"), re.findall(r"`([a-z_]+)`", row[2])) for row in table("Frames")}
    actual = {
        number: (kind.__name__, [field.name for field in attrs.fields(kind)]) for kind, number in frames._TYPES.items()
    }
    assert documented == actual
    assert frames._SHAPES.keys() == actual.keys()


def test_every_kind_of_routed_frame_stands_in_the_table() -> None:
    documented = {int(row[0]): row[1].strip("`") for row in table("Routed frames")}
    kinds = {value: name for name, value in vars(frames.Kind).items() if not name.startswith("_")}
    assert documented == {value: name.lower().replace("_", "-") for value, name in kinds.items()}


def test_every_label_is_documented_and_used() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "meshd").rglob("*.py"))
    used = set(re.findall(r'"(meshd/[a-z/-]+/v\d+)"', source))
    assert {row[0].strip("`") for row in table("Labels")} == used
    assert FLOOR_LABEL in used


@pytest.mark.parametrize(
    "value",
    [
        frames.MAX_FRAME_BYTES,
        frames.MAX_PART_BYTES,
        frames.MAX_BUNDLE_BYTES,
        frames.MAX_PROOF_FRAME_BYTES,
        frames.MAX_HANDSHAKE_FRAME_BYTES,
        MAX_CHAIN_BYTES,
        MAX_JOIN_FRAME_BYTES,
        MAX_ANSWER_BYTES,
        FIRST_CREDIT_BYTES,
        statement.MAX_STATEMENT_BYTES,
    ],
)
def test_limits_are_the_documented_ones(value: int) -> None:
    assert f"{value:,}" in PAGE


def show() -> None:
    """Print all examples in the page's form."""
    for title, data in (*BYTES.items(), *((title, encode_frame(frame)) for title, frame in FRAMES.items())):
        print(f"    {title}:", *(f"    {line}" for line in textwrap.wrap(data.hex(), 96)), "", sep="\n")
    for title, text in TEXTS.items():
        print(f"    {title} =", *(f"    {line}" for line in textwrap.wrap(text, 96)), "", sep="\n")


if __name__ == "__main__":
    show()
