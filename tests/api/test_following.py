"""Following events over the local protocol: credit counts events, and the client's pace is kept."""

from typing import Any

from meshd.api import protocol
from meshd.api.connection import Connection
from meshd.errors import MeshdError
from meshd.node.requests import AddCredit, Cancel, Failure, Follow, Item, Request
from tests.api.test_handlers import PORT

EVENT = {"at": "2026-01-01T00:00:00.000Z", "event": "peer-up", "peer": "a" * 26, "name": "attic", "detail": "linked"}


def greeted() -> Connection:
    connection = Connection("uid:1")
    assert list(connection.receive(protocol.encode_hello("test"))) == []
    return connection


def ask(connection: Connection, number: int, op: str, **arguments: Any) -> list[Request]:
    return list(connection.receive(protocol.encode_request(number, op, arguments)))


def granted(requests: list[Request]) -> int:
    return sum(request.messages for request in requests if isinstance(request, AddCredit))


def test_every_event_takes_one_of_the_credit() -> None:
    connection = greeted()
    [follow] = ask(connection, 1, "events", follow=True, last=0, credit=20)
    assert isinstance(follow, Follow)
    total = follow.credit
    assert 0 < total <= 20
    connection.reply_nowait(1, Item([EVENT] * total))
    total += granted(connection.written(0))
    assert total == 20  # all of it is passed on, once it has shown that events are small
    connection.reply_nowait(1, Item([EVENT] * (20 - follow.credit)))
    assert granted(connection.written(0)) == 0
    assert granted(ask(connection, 2, "credit", subscription=1, messages=5)) == 5


def test_one_is_given_up_like_any_stream() -> None:
    connection = greeted()
    ask(connection, 1, "events", follow=True, credit=20)
    [cancel] = ask(connection, 2, "cancel", target=1)
    assert isinstance(cancel, Cancel)
    assert ask(connection, 3, "credit", subscription=1, messages=5) == []


def test_an_end_by_the_node_is_told() -> None:
    connection = greeted()
    ask(connection, 1, "events", follow=True, credit=20)
    connection.reply_nowait(1, Failure(MeshdError("E_STOPPING", "over")))
    assert ask(connection, 2, "credit", subscription=1, messages=5) == []


def test_without_follow_it_is_a_plain_question() -> None:
    connection = greeted()
    [query] = ask(connection, 1, "events", credit=20)
    assert not isinstance(query, Follow)
    assert query.port is connection is not PORT


def test_they_count_as_subscriptions() -> None:
    connection = greeted()
    for number in range(1, protocol.MAX_SUBSCRIPTIONS + 2):
        accepted = ask(connection, number, "events", follow=True)
        assert len(accepted) == (number <= protocol.MAX_SUBSCRIPTIONS)
