"""The ``lab`` fixture, and what the daemons wrote when a test fails."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack

import pytest

from tests.needs import require

from .lab import Lab, missing

_LABS = pytest.StashKey[list[Lab]]()


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Callable[..., Lab]]:
    """``lab(3)``: a laboratory of three hosts, gone after the test; arguments as of Lab."""
    require(missing())
    labs = request.node.stash.setdefault(_LABS, [])
    with ExitStack() as stack:

        def make(hosts: int, two_interfaces: Iterable[int] = ()) -> Lab:
            made = stack.enter_context(Lab(hosts, two_interfaces))
            labs.append(made)
            return made

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.when == "call":
        for made in item.stash.get(_LABS, []):
            report.sections += [(f"log of {host.name}", log) for host in made.hosts if (log := host.log())]
    return report
