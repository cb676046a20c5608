"""Every command and snippet of the pages for people does what the page says."""

import re
from pathlib import Path

import pytest

from meshd.config import load_config

from .household import Household
from .page import RUNNABLE, Block, blocks

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("quickstart", "apps", "operate", "troubleshoot", "faq")
FROM_NOTHING = ("quickstart",)
"""Pages that found their mesh themselves."""


@pytest.mark.parametrize("name", PAGES)
def test_each_block_is_run_or_says_why_not(name: str) -> None:
    found = blocks(DOCS / f"{name}.md")
    assert found
    unclear = [block.code for block in found if block.language in RUNNABLE and not is_clear(block)]
    assert unclear == []
    assert {block.language for block in found} <= {*RUNNABLE, "text"}


def is_clear(block: Block) -> bool:
    """Whether something checks the block, or its comment says what else does."""
    if block.language == "toml":
        return block.order == "checked as configuration" or block.configures is not None
    return block.run is not None or re.fullmatch(r"not run: .{10,}", block.order) is not None


@pytest.mark.parametrize("name", PAGES)
def test_configurations_are_right(name: str) -> None:
    for block in blocks(DOCS / f"{name}.md"):
        if block.language == "toml":
            load_config(block.code)


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_says_to_do_works(name: str, tmp_path: Path) -> None:
    with Household(tmp_path) as household:
        if name not in FROM_NOTHING:
            household.become_a_mesh()
        for block in blocks(DOCS / f"{name}.md"):
            if block.run is not None:
                household.run(block.run)
            elif block.configures is not None:
                household.configure(block.configures, block.code)


@pytest.mark.system
def test_a_block_that_fails_fails_the_page(tmp_path: Path) -> None:
    page = tmp_path / "p.md"
    page.write_text('<!-- run on laptop: prints "never" -->\n```sh\nmeshctl status\n```\n')
    [block] = blocks(page)
    assert block.run is not None
    with Household(tmp_path) as household, pytest.raises(AssertionError, match="printed"):
        household.run(block.run)
