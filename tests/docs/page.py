"""A page's blocks, and what a comment before each says about running it.

<!-- run on laptop -->                          with bash, or Python; it has to end well
<!-- run on laptop: prints "accepted" -->       and its output has this in it
<!-- run on laptop, in the background -->       it is left running until the page ends
<!-- checked as configuration -->
<!-- configuration of laptop -->                and put into effect there, with the next restart
<!-- not run: why -->
"""

import re
from pathlib import Path

import attrs

_FENCE = re.compile(
    r"(?:^ *<!-- (?P<order>.*?) -->\n)?^ *```(?P<language>\w+)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_CONFIGURATION = re.compile(r"configuration of (?P<device>[a-z-]+)")
_RUN = re.compile(r'run on (?P<device>[a-z-]+)(?P<background>, in the background)?(?:: prints "(?P<prints>.+)")?')
RUNNABLE = ("sh", "python", "toml")


@attrs.frozen(kw_only=True)
class Block:
    """A block of code; ``order`` is what the comment before it says, empty without one."""

    language: str
    code: str
    order: str

    @property
    def configures(self) -> str | None:
        """The device whose configuration it is."""
        match = _CONFIGURATION.fullmatch(self.order)
        return None if match is None else match["device"]

    @property
    def run(self) -> "Run | None":
        """How to run it; None when it is not to be run."""
        match = _RUN.fullmatch(self.order)
        if match is None:
            return None
        return Run(match["device"], self.language, self.code, match["background"] is not None, match["prints"])


@attrs.frozen
class Run:
    """A block that is run on a device; ``prints`` is what its output has in it."""

    device: str
    language: str
    code: str
    background: bool
    prints: str | None


def blocks(page: Path) -> list[Block]:
    """The page's blocks of code, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(language=found["language"], code=found["code"], order=found["order"] or "")
        for found in _FENCE.finditer(text)
    ]
