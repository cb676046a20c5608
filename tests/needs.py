"""What a machine must be able to do for a test."""

import os

import pytest


def require(lacking: str | None) -> None:
    """Skip when something is lacking, and say what; a CI machine must lack nothing, and fails."""
    if lacking is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"a CI machine must be able to run this: {lacking}")
    pytest.skip(lacking)
