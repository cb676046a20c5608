"""Twenty real daemons on this machine make one mesh within the budget of links.

What they cost while idle is measured by ``make bench ARGS="--only crowd"``.
"""

import pytest

from tests.bench.crowd import DAEMONS, MAX_LINKS, crowd, degrees

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_twenty_daemons_make_one_mesh_within_the_budget() -> None:
    with crowd() as nodes:
        assert max(degrees(nodes)) <= MAX_LINKS
        for number, node in enumerate(nodes):
            to = nodes[(number + DAEMONS // 2) % DAEMONS].name
            node.ask("send", destination=to, messages=[b"hello " + to.encode()], service="bench")
        for node in nodes:
            with node.client() as client, client.subscribe("bench") as subscription:
                delivery = subscription.next(60)
                subscription.ack(delivery)
                assert delivery.payload == b"hello " + node.name.encode()
