"""Every error a person or a peer can be told, each with a stable code.

``CATALOGUE`` is the one list of codes: what each means and what to do about it.
"""

import attrs


class MeshdError(Exception):
    """Something a person asked for can't be done.

    Args:
        code: a key of :data:`CATALOGUE`.
        message: what happened and why, one sentence.
        hint: what to do about it; the catalogue's general advice when not given.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = CATALOGUE[code].advice if hint is None else hint

    def again(self) -> "MeshdError":
        """The same as an object of its own: one that is raised again and again keeps every frame it has passed."""
        return MeshdError(self.code, self.message, self.hint)


class LocalProtocolError(Exception):
    """We broke our own rules: a bug in meshd."""


class RemoteProtocolError(Exception):
    """A peer broke the protocol: its link is closed, and the event is counted under ``code``."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@attrs.frozen
class Explanation:
    """What a code means, for people."""

    meaning: str
    advice: str


CATALOGUE: dict[str, Explanation] = {
    # what a caller asked for
    "E_USAGE": Explanation("The request is malformed.", "Check the command or the request against its documentation."),
    "E_NO_DAEMON": Explanation("No meshd answers on the socket.", "Start it with: systemctl start meshd, or: meshd"),
    "E_TIMEOUT": Explanation("The answer did not come in time.", "Try again with a longer --timeout."),
    "E_PERMISSION": Explanation(
        "You may not use this daemon's socket.", "Join the daemon's group, or run as its user."
    ),
    "E_NO_MESH": Explanation(
        "This device belongs to no mesh yet.", "Found one with: meshctl init NAME, or enter one with: meshctl join CODE"
    ),
    "E_ALREADY_IN_MESH": Explanation(
        "This device already belongs to a mesh.",
        "A device is in one mesh. Start with a fresh state directory to leave.",
    ),
    "E_NOT_ADMIN": Explanation("Only an admin of the mesh can do this.", "Run the command on an admin device."),
    "E_UNKNOWN_DEVICE": Explanation("No device of the mesh has this name or id.", "List them with: meshctl members"),
    "E_AMBIGUOUS_DEVICE": Explanation("Several devices match.", "Give more characters of the id, or the full name."),
    "E_NAME_TAKEN": Explanation("Another device of the mesh has this name.", "Choose another name."),
    "E_REMOVED_DEVICE": Explanation(
        "This device was removed from the mesh.", "Coming back takes a new key: start with a fresh state directory."
    ),
    "E_TOO_LARGE": Explanation("The message body is over 1 MiB.", "Send it in pieces of at most 1 MiB."),
    "E_FULL": Explanation(
        "The spool is full, or the disk is.",
        "Make room on the disk; or wait for mail to leave (meshctl queue), or raise store.quota.",
    ),
    "E_BUSY": Explanation("The daemon has too much in hand for this request.", "Try again in a moment."),
    "E_UNREACHABLE": Explanation("There is no path to the device now.", "See: meshctl peers. Durable messages wait."),
    "E_UNKNOWN_MESSAGE": Explanation(
        "No device that could be asked has a record of it.", "Records are kept for 7 days. Is the id whole?"
    ),
    "E_LEASED": Explanation(
        "Another client is reading with this consumer name.", "Stop it, or choose another --consumer name."
    ),
    "E_NO_LEASE": Explanation(
        "Nothing is being read under this consumer name now.", "Read again: what was not acknowledged comes again."
    ),
    "E_TOKEN": Explanation(
        "Over TCP this takes a token.", "Make one with: meshctl token create NAME, or use the Unix socket."
    ),
    "E_UNKNOWN_TOKEN": Explanation("There is no token of this name.", "List them with: meshctl token list"),
    "E_ORIGIN": Explanation(
        "A web page of another site asked, or the address was not one of this device.",
        "Ask at localhost, 127.0.0.1 or [::1], and not from another site's pages.",
    ),
    "E_UNSUPPORTED": Explanation("The daemon does not know this request.", "Run meshctl and meshd of one version."),
    "E_SURPLUS": Explanation(
        "A device gave a link up: it has more than links.max_links.", "Nothing: mail goes over the others."
    ),
    "E_STOPPING": Explanation("The daemon is stopping.", "Repeat the request when it runs again."),
    "E_OUTPUT": Explanation("meshctl can't write its output.", "Make room, or write elsewhere."),
    "E_INTERNAL": Explanation("A defect in meshd.", "Please report it with the daemon's log."),
    # messages
    "E_EXPIRED": Explanation("The message's lifetime ended before it was read.", "Send again, with a longer lifetime."),
    "E_REFUSED": Explanation("The message was refused.", "See the reason given with it."),
    "E_GONE": Explanation(
        "The message was delivered, but the device has left the mesh: nothing will tell whether it was read.",
        "Whoever removed the device may know.",
    ),
    # joining
    "E_CODE_MALFORMED": Explanation("This is not an invitation code.", "Copy the whole code, as one word."),
    "E_CODE_EXPIRED": Explanation("The invitation code has expired.", "Ask for a new one: meshctl invite"),
    "E_CODE_USED": Explanation("Another device used this code.", "A code works once. Ask for a new one."),
    "E_CODE_WRONG": Explanation(
        "The inviting device does not know this code.", "Check the code, or ask for a new one."
    ),
    "E_CODE_OTHER_MESH": Explanation(
        "The device at that address is not the one that made the code.", "Make the code again on the inviting device."
    ),
    "E_JOIN_UNREACHABLE": Explanation(
        "The inviting device can't be reached.",
        "Put both on one network, and check that no firewall blocks its TCP port (7843 unless set otherwise).",
    ),
    "E_JOIN_RATE": Explanation("Too many wrong codes from this address.", "Wait a minute and try again."),
    # relays
    "E_RELAY_CERTIFICATE": Explanation(
        "The relay's certificate is not the one that was named.",
        "Print it on the relay with: meshd-relay --certificate",
    ),
    "E_RELAY_UNREACHABLE": Explanation(
        "The relay can't be reached to fetch its certificate.", "Check the URL, or give the certificate as a file."
    ),
    # starting
    "E_CONFIG": Explanation(
        "The configuration is wrong.",
        "See docs/configuration.md, and check what you changed: meshctl config check FILE",
    ),
    "E_STATE_DIR": Explanation("The state directory can't be used.", "Check its owner, mode and free space."),
    "E_RUNTIME_DIR": Explanation("There is no directory for the socket.", "Set --runtime-dir or XDG_RUNTIME_DIR."),
    "E_RUNNING": Explanation("A daemon already runs on this state directory.", "Use that one, or another --state-dir."),
    "E_PORT": Explanation(
        "The port can't be opened.",
        "Stop what holds it (sudo ss -lntup), or set listen.quic, listen.websocket or http.listen. The daemon runs "
        "without it, and tries again.",
    ),
    "E_MULTICAST": Explanation(
        "Devices can't be found by multicast on a network interface.",
        "Switch multicast on for it (ip link set NAME multicast on), or name the devices in discovery.static.",
    ),
    "E_HOOK": Explanation("The program of alerts.exec can't be run.", "Check its path and its mode, or alerts.exec."),
    "E_NETLINK": Explanation(
        "The kernel doesn't let meshd see the network interfaces.",
        "Allow it netlink sockets; under systemd: RestrictAddressFamilies= with AF_NETLINK.",
    ),
    "E_DATABASE": Explanation(
        "The store is damaged, or its disk fails.",
        "See whether the disk is well (journalctl -k). Keep the file; if it is damaged, restore a backup.",
    ),
    "E_NEWER_STATE": Explanation("The state was written by a newer meshd.", "Install that version again."),
    # what a peer did; RemoteProtocolError only
    "P_MALFORMED": Explanation("A peer sent bytes that are no frame.", "Run one version of meshd everywhere."),
    "P_OVERSIZED": Explanation("A peer sent a frame over the limit.", "Run one version of meshd everywhere."),
    "P_UNEXPECTED": Explanation("A peer sent a frame out of order.", "Run one version of meshd everywhere."),
    "P_VERSION": Explanation("No protocol version in common.", "Update the older device."),
    "P_AUTH": Explanation("A peer could not prove who it is.", "If it is yours, see meshctl members on both sides."),
    "P_NOT_MEMBER": Explanation("A device outside the mesh tried to connect.", "Invite it: meshctl invite"),
    "P_REMOVED": Explanation("A removed device tried to connect.", "Nothing: it is shut out."),
    "P_OTHER_MESH": Explanation("A device of another mesh tried to connect.", "Nothing: meshes keep apart."),
    "P_RELAY": Explanation(
        "A device of a mesh that this relay does not serve tried to connect.",
        "If it should be served, see access.meshes and access.max_meshes of the relay.",
    ),
    "P_TIMEOUT": Explanation("A peer was silent for too long.", "See: meshctl peers"),
    "P_FLOOD": Explanation("A peer sent more than its share.", "See the log for its name."),
    "P_ROUTE": Explanation("A peer passed on a route that no device can have signed.", "See the log for its name."),
    "P_BUNDLE": Explanation("A peer handed over a bundle whose id does not match.", "See the log for its name."),
}
