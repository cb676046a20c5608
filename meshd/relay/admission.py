"""Who is let in: a device whose statements prove, from the genesis on, itself and this relay. Pure."""

from collections.abc import Collection

import attrs

from meshd.errors import RemoteProtocolError
from meshd.ids import MeshId, NodeId, to_text
from meshd.trust.handshake import Applicant, TurnedAway, check_member
from meshd.trust.roster import Roster


def mesh_name(mesh_id: bytes) -> str:
    """A mesh's id as people see it."""
    return to_text(mesh_id[:16])


@attrs.frozen(kw_only=True)
class Policy:
    """What the relay's owner allows.

    Args:
        meshes: beginnings (16 bytes) of the ids of the meshes that are served; empty for any.
        max_meshes: how many are served.
    """

    meshes: Collection[bytes]
    max_meshes: int


def admit(
    relay: NodeId, applicant: Applicant, known: Roster | None, served: Collection[MeshId], policy: Policy
) -> tuple[Roster, tuple[bytes, ...]]:
    """The roster of the applicant's mesh with its chain merged, and the statements that were new.

    Args:
        known: the roster as this relay knows it; None for a mesh that it has not heard of.
        served: the meshes that have a place here already.

    Raises:
        RemoteProtocolError: ``P_NOT_MEMBER`` or ``P_REMOVED`` when the applicant or this relay is not in the mesh,
            ``P_RELAY`` when the mesh is not served here, ``P_AUTH`` or ``P_MALFORMED`` for a forged chain.
    """
    roster = Roster.from_genesis(applicant.genesis) if known is None else known
    mesh_id = roster.mesh_id
    if policy.meshes and mesh_id[:16] not in policy.meshes:
        raise RemoteProtocolError("P_RELAY", f"this relay does not serve the mesh {mesh_name(mesh_id)}")
    if mesh_id not in served and len(served) >= policy.max_meshes:
        raise RemoteProtocolError("P_RELAY", f"this relay serves {len(served)} meshes already, and no more")
    roster, chain = roster.merge(applicant.chain[1:])
    own = roster.members.get(relay)
    if own is None or own.role != "relay":
        raise RemoteProtocolError("P_NOT_MEMBER", "this relay is in the mesh as no relay")
    if own.removed:
        raise TurnedAway("P_REMOVED", "this relay was removed from the mesh", roster.removal_of(relay))
    # The handshake checks this too; here it keeps a stranger from founding anything on the relay's disk.
    check_member(roster, applicant.peer, applicant.certificate, applicant.chain)
    return roster, chain
