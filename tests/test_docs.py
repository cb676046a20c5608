"""The documentation tells the truth: error codes, commands, links and packages are those of the code.

``python -m tests.test_docs`` writes docs/errors.md anew from the catalogue.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from meshd.cli import app
from meshd.errors import CATALOGUE

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in [ROOT / "README.md", *DOCS.glob("*.md")] if path.exists())
ERRORS_PAGE = DOCS / "errors.md"
MESHCTL_PAGE = DOCS / "meshctl.md"

# --- docs/errors.md

ERRORS_HEAD = """# Error codes

Every error has a code that stays the same from version to version. `meshctl` shows it in brackets; `meshctl --json` and
the [local API](protocol-api.md) give it as `code`. `meshctl errors lookup CODE` says what is written here, without a
daemon.

This page is made from `CATALOGUE` in `meshd/errors.py`: `python -m tests.test_docs` writes it, and `tests/test_docs.py`
fails when it is out of date.
"""

ERROR_GROUPS = (
    ("E_", "Errors of a request, a message or a start", "What a person or an app asked for can't be done."),
    (
        "P_",
        "Errors of a peer",
        "Another device broke the protocol, or was turned away. That costs it its link, and nobody else anything. "
        "These codes are seen in the log, and as the last error of a device in `meshctl peers`.",
    ),
)


def errors_page() -> str:
    """docs/errors.md as it should be."""
    parts = [ERRORS_HEAD]
    for prefix, title, about in ERROR_GROUPS:
        parts.append(f"\n## {title}\n\n{about}\n\n| code | meaning | what to do |\n|---|---|---|\n")
        parts += [
            f"| `{code}` | {explanation.meaning} | {explanation.advice} |\n"
            for code, explanation in CATALOGUE.items()
            if code.startswith(prefix)
        ]
    return "".join(parts)


def test_errors_page_is_the_catalogue() -> None:
    assert ERRORS_PAGE.read_text(encoding="utf-8") == errors_page()


def test_every_code_is_of_a_documented_group() -> None:
    prefixes = tuple(prefix for prefix, _, _ in ERROR_GROUPS)
    assert [code for code in CATALOGUE if not code.startswith(prefixes)] == []


def test_codes_named_in_pages_exist() -> None:
    named = {
        (page.name, code)
        for page in PAGES
        for code in re.findall(r"\b[EP]_[A-Z][A-Z_]+\b", page.read_text(encoding="utf-8"))
    }
    assert {(page, code) for page, code in named if code not in CATALOGUE} == set()


# --- docs/meshctl.md


def walk(group: click.Group, path: str = "meshctl") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group that does something itself, under its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(walk(app.meshctl))
GLOBAL_OPTIONS = {name for parameter in app.meshctl.params for name in parameter.opts} | {"-h", "--help"}


def sections(text: str) -> dict[str, str]:
    """A page's sections by their titles."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def options_of(command: click.Command) -> set[str]:
    """The options of a command that are its own."""
    names = {name for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    return names - GLOBAL_OPTIONS


def table_options(section: str) -> set[str]:
    """The options in the first column of a section's table."""
    cells = re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"`(--?[a-z-]+)", cell)}


def command_sections() -> dict[str, tuple[str, str]]:
    """The sections about commands: their title's arguments and their text, by the command's full name."""
    found: dict[str, tuple[str, str]] = {}
    for title, text in sections(MESHCTL_PAGE.read_text(encoding="utf-8")).items():
        match = re.fullmatch(r"`(meshctl(?: [a-z-]+)+)((?: \S+)*)`", title)
        if match is not None:
            found[match[1]] = (match[2].strip(), text)
    return found


def test_every_command_is_documented_and_exists() -> None:
    assert list(command_sections()) == list(COMMANDS)


@pytest.mark.parametrize("path", list(COMMANDS))
def test_options_of_a_command_are_documented_and_exist(path: str) -> None:
    command = COMMANDS[path]
    arguments, text = command_sections().get(path, ("", ""))
    assert table_options(text) == options_of(command)
    context = click.Context(command)
    expected = [p.make_metavar(context) for p in command.params if isinstance(p, click.Argument)]
    assert arguments == " ".join(expected)
    assert re.search(rf"^    {re.escape(path)}\b", text, re.MULTILINE), "an example"


def test_global_options_are_documented() -> None:
    table = sections(MESHCTL_PAGE.read_text(encoding="utf-8"))["Global options"]
    assert table_options(table) == GLOBAL_OPTIONS


def test_exit_codes_are_the_documented_ones() -> None:
    table = sections(MESHCTL_PAGE.read_text(encoding="utf-8"))["Exit codes"]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    expected = {app.EXIT_REFUSED, app.EXIT_INTERRUPTED, app.EXIT_PIPE_CLOSED, *app.EXIT_CODES.values()}
    assert codes == {0, *expected}


# --- commands, links and packages in all pages

FENCED = re.compile(r"^ *```(?:sh|console|bash)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4,}(.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
PROMPT = re.compile(r"^(?:[a-z-]*[$#] )?(?:sudo (?:-u \w+ )?)?")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def shell_lines(page: Path) -> Iterator[str]:
    """What a page tells people to type: fenced, indented, or inline."""
    text = page.read_text(encoding="utf-8")
    for block in FENCED.findall(text):
        yield from block.splitlines()
    yield from INDENTED.findall(text)
    yield from CODE.findall(text)


def commands_in(page: Path) -> set[tuple[str, ...]]:
    """The words of each command of ours in a page, without prompt, comment and redirection."""
    found = set()
    for line in shell_lines(page):
        command = PROMPT.sub("", line.strip(), count=1)
        if not re.match(r"(?:meshctl|meshd|make) [^=]", command):
            continue
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in lexer:
            if word[0] in "|>&;(":
                break
            words.append(word)
        found.add(tuple(words))
    return found


def every_command() -> list[tuple[str, tuple[str, ...]]]:
    return [(page.name, words) for page in PAGES for words in sorted(commands_in(page))]


def fault_in(words: tuple[str, ...]) -> str | None:
    """Why these words are no command of ours; None when they are."""
    program, *arguments = words
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        unknown = [word for word in arguments if "=" not in word and word not in targets]
        return f"no target {unknown}" if unknown else None
    if program == "meshd":
        return daemon_fault(arguments)
    return meshctl_fault(arguments)


def daemon_fault(arguments: list[str]) -> str | None:
    options = set(
        re.findall(r'add_argument\("(--[a-z-]+)"', (ROOT / "meshd" / "options.py").read_text(encoding="utf-8"))
    )
    unknown = [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in options]
    return f"meshd has no {unknown}" if unknown else None


def meshctl_fault(arguments: list[str]) -> str | None:
    if arguments[:1] in (["COMMAND"], ["[--socket"]):  # the shape of all commands
        return None
    group: click.Group = app.meshctl
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option not in GLOBAL_OPTIONS:
            return f"meshctl has no {option}"
        if option in ("--socket", "--timeout"):
            rest = rest[1:]
    while rest:
        name = rest.pop(0)
        command = group.get_command(click.Context(group), name)
        if command is None:
            return f"no command {name}"
        if not isinstance(command, click.Group):
            unknown = {w for w in rest if w.startswith("--")} - options_of(command) - GLOBAL_OPTIONS
            return f"{name} has no {sorted(unknown)}" if unknown else None
        group = command
    return None


def test_commands_in_pages_exist() -> None:
    commands = every_command()
    assert len(commands) > 40, "the search for commands finds them"
    faults = {f"{page}: {' '.join(words)}": fault for page, words in commands if (fault := fault_in(words))}
    assert faults == {}


@pytest.mark.parametrize(
    "words", ["meshctl sned x", "meshctl send x --waits", "meshctl errors find", "make tset", "meshd --debug"]
)
def test_a_wrong_command_is_found(words: str) -> None:
    assert fault_in(tuple(words.split())) is not None


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []


def test_every_package_is_in_the_architecture() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "meshd").glob("*/__init__.py")}
    missing = {name for name in packages if f"`{name}/`" not in page}
    assert missing == set()


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = LINK.findall(page.read_text(encoding="utf-8"))
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in links if not re.match(r"[a-z]+:", link)]
    assert [page.name for page in PAGES if page not in seen] == []


if __name__ == "__main__":
    ERRORS_PAGE.write_text(errors_page(), encoding="utf-8")
