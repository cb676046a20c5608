"""The rules of the house that a machine can check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "meshd").rglob("*.py"))

PURE = (
    "ids.py",
    "errors.py",
    "masking.py",
    "histogram.py",
    "config.py",
    "kinds.py",
    "wire/",
    "delivery/",
    "routing/",
    "trust/",
    "links/backoff.py",
    "links/breaker.py",
    "links/budget.py",
    "links/quality.py",
    "links/liveness.py",
    "links/choice.py",
    "links/assembly.py",
    "links/events.py",
    "node/step.py",
    "node/assembly.py",
    "node/soonest.py",
    "node/turn.py",
    "node/spool.py",
    "node/custody.py",
    "node/handover.py",
    "node/outcomes.py",
    "node/accepting.py",
    "node/arriving.py",
    "node/opening.py",
    "node/releasing.py",
    "node/passing.py",
    "node/mailboxes.py",
    "node/membership.py",
    "node/admission.py",
    "node/peers.py",
    "node/probes.py",
    "node/routes.py",
    "node/exchange.py",
    "node/linking.py",
    "node/company.py",
    "node/insight/chronicle.py",
    "node/insight/alerts.py",
    "node/insight/watch.py",
    "node/tally.py",
    "node/insight/metrics.py",
    "node/insight/measures.py",
    "node/insight/reasons.py",
    "node/echo.py",
    "node/insight/inquiries.py",
    "node/insight/traces.py",
    "node/insight/verdicts.py",
    "node/followers.py",
    "node/clients.py",
    "node/effects.py",
    "node/requests.py",
    "node/tokens.py",
    "api/arguments.py",
    "api/protocol.py",
    "api/handlers.py",
    "api/pacing.py",
    "client/session.py",
    "client/delivery.py",
    "cli/units.py",
    "cli/drawing.py",
    "discovery/events.py",
    "discovery/presence.py",
    "discovery/sightings.py",
    "discovery/static.py",
    "store/ops.py",
    "store/reads.py",
    "transport/framing.py",
)
"""No Trio, sockets, clock, threads or logging in these, nor in whatever calls itself pure."""

IMPURE_MODULES = {"trio", "anyio", "asyncio", "socket", "ssl", "time", "threading", "structlog", "logging", "secrets"}
ALLOWED = {
    # The one function that reads and writes the key file.
    "trust/identity.py": {"os"},
}
LONGEST_FILE = 500


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "meshd").as_posix()


def calls_itself_pure(path: Path) -> bool:
    about = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.search(r"(^|[.:;] )Pure[.:]", about) is not None


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


HELD_PURE = [path for path in SOURCES if name_of(path).startswith(PURE) or calls_itself_pure(path)]


@pytest.mark.parametrize("path", HELD_PURE, ids=name_of)
def test_pure_modules_know_no_outside_world(path: Path) -> None:
    forbidden = IMPURE_MODULES | {"os"}
    assert imports(path) & forbidden <= ALLOWED.get(name_of(path), set())


@pytest.mark.parametrize("path", HELD_PURE, ids=name_of)
def test_pure_modules_draw_only_from_the_randomness_they_are_given(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{name_of(path)}:{node.lineno} random.{node.attr}"


def test_every_pure_module_that_is_named_exists() -> None:
    names = [name_of(path) for path in SOURCES]
    assert [pure for pure in PURE if not any(name.startswith(pure) for name in names)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_say_what_they_are_and_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert text.count("\n") <= LONGEST_FILE


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_broad_handler_only_passes(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            assert not (broad and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)), node.lineno


def test_trio_asyncio_is_never_imported() -> None:
    # Importing it breaks threaded zeroconf.
    assert [name_of(path) for path in SOURCES if "trio_asyncio" in imports(path)] == []


def test_the_architecture_names_every_package_and_every_part_of_the_node() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    packages = {path.name for path in (ROOT / "meshd").iterdir() if (path / "__init__.py").exists()}
    assert [name for name in sorted(packages) if f"{name}/" not in page] == []
    parts = {path.stem for path in (ROOT / "meshd" / "node").rglob("*.py")} - {"__init__"}
    assert [name for name in sorted(parts) if not re.search(rf"[`/]{name}\b", page)] == []
