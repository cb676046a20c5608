"""What a call or a roster comes to, to be compared."""

from collections.abc import Callable

import pytest

from meshd.errors import MeshdError, RemoteProtocolError
from meshd.trust.roster import Roster


def code_of(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    """The code of the error that this call ends in."""
    with pytest.raises((MeshdError, RemoteProtocolError)) as caught:
        call(*args, **kwargs)
    return caught.value.code


def view(roster: Roster) -> object:
    """What two rosters that agree have in common."""
    return dict(roster.members), set(roster.heads())
