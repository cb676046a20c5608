"""The node's log lines: with names in place of ids, and links by the tag that both of their ends know."""

from meshd.ids import NodeId, to_text
from meshd.links.events import LinkUp
from meshd.logs import get_logger
from meshd.node.effects import Commit, Log
from meshd.node.membership import Membership
from meshd.store.ops import AddJournal

log = get_logger("meshd.node")
mail = get_logger("meshd.delivery")

_TAGS_KEPT = 1024
_NODE_ID_BYTES = 16
_REF_BYTES = (10, 20)
"""Of what names bundles; other bytes are not for the log."""


class Logbook:
    """Writes them. Tags are kept beyond the end of their links, for the lines about that."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._tags: dict[int, str] = {}

    def name_link(self, event: LinkUp) -> None:
        """A link came up: from now on it is called by its tag."""
        self._tags[event.link] = event.tag
        if len(self._tags) > _TAGS_KEPT:
            del self._tags[next(iter(self._tags))]

    def write(self, effect: Log) -> None:
        """Log a line of the node's."""
        fields = {name: self._readable(value) for name, value in effect.fields.items()}
        link = fields.get("link")
        if isinstance(link, int):
            fields["link"] = self._tags.get(link) or link
        getattr(log, effect.level)(effect.event, **fields)

    def _readable(self, value: object) -> object:
        if isinstance(value, bytes):
            if len(value) == _NODE_ID_BYTES:
                return self._membership.name_of(NodeId(value))
            return to_text(value) if len(value) in _REF_BYTES else value
        return value

    def write_lives(self, commit: Commit) -> None:
        """What happens to each message, as it goes to the journal; ``message`` is the same on every device."""
        for op in commit.ops:
            for entry in op.entries if isinstance(op, AddJournal) else ():
                mail.debug(
                    f"message {entry.event}", message=to_text(entry.ref), reason=entry.reason, detail=entry.detail
                )
