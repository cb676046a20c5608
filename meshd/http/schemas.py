"""The shapes of the gateway's documents, as JSON Schema (the dialect of OpenAPI 3.1). Pure."""

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _text(about: str = "", **more: object) -> Schema:
    return {"type": "string", **({"description": about} if about else {}), **more}


def _number(about: str = "") -> Schema:
    return {"type": "number", **({"description": about} if about else {})}


def _count(about: str = "") -> Schema:
    return {"type": "integer", "minimum": 0, **({"description": about} if about else {})}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _either(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


_TRUTH: Schema = {"type": "boolean"}
_DEVICE = _object({"id": _text("26 base32 characters"), "name": _text()})
_HEADERS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_GRADES = ("excellent", "good", "fair", "poor")
_PRIORITIES = ("critical", "high", "normal", "bulk")
_BREAKER = _either("closed", "open", "half-open")

_MESSAGE_PARTS: dict[str, Schema] = {
    "payload": _text("The body, when it is text."),
    "payload_b64": _text("The body in base64, when it is not.", contentEncoding="base64"),
    "headers": _HEADERS,
    "reply_to": _or_null(_text("A service on the sender's device that an answer should go to.")),
}

SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {
                    "code": _text("Stays the same from version to version; meshctl errors lookup explains it."),
                    "message": _text("What happened, and why."),
                    "hint": _text("What to do about it."),
                }
            )
        }
    ),
    "Health": _object({"status": _either("ok")}),
    "Metrics": _text("For Prometheus."),
    "Status": _object(
        {
            "version": _text(),
            "device": _DEVICE,
            "mesh": {"anyOf": [_DEVICE, {"type": "null"}], "description": "null before init or join"},
            "removed": _TRUTH | {"description": "This device was removed from the mesh."},
            "uptime_s": _number(),
            "peers_up": _count(),
            "peers_known": _count(),
            "saving": _or_null(_text("Why this device is sparing with its battery or its connection.")),
            "spool": _object({"messages": _count(), "bytes": _count(), "quota_bytes": _count()}),
            "relays": _list(_object({"url": _text(), "state": _text()})),
            "listen": _object({"quic": _list(_text()), "websocket": _list(_text())}),
            "outages": _list(
                _object(
                    {
                        "part": _text("A part of the daemon that does not run."),
                        "code": _text(),
                        "reason": _text(),
                        "fix": _text(),
                    }
                )
            ),
        }
    ),
    "Peer": _object(
        {
            "id": _text(),
            "name": _text(),
            "state": _either("up", "suspect", "down"),
            "transport": _or_null(_text()),
            "address": _or_null(_text()),
            "rtt_ms": _or_null(_number()),
            "loss": _or_null(_number()),
            "quality": _or_null(_number()),
            "grade": {"enum": [*_GRADES, None]},
            "breaker": _BREAKER,
            "last_error": _or_null(_text()),
        }
    ),
    "Route": _object(
        {
            "destination": _text(),
            "name": _text(),
            "next_hop": _or_null(_text()),
            "next_hop_name": _or_null(_text()),
            "metric": _count(),
            "seqno": _count(),
            "feasibility_distance": _or_null(_count()),
            "state": _text(),
        }
    ),
    "Member": _object(
        {"id": _text(), "name": _text(), "role": _text(), "state": _either("active", "removed")},
    ),
    "Queue": _object(
        {
            "destination": _text(),
            "name": _text(),
            "priority": _either(*_PRIORITIES),
            "messages": _count(),
            "bytes": _count(),
            "oldest_age_s": _or_null(_number()),
            "reason": _text("no-path, awaiting-receipt, ..."),
            "own": _TRUTH,
        }
    ),
    "Graph": _object(
        {
            "nodes": _list(_object({"id": _text(), "name": _text(), "role": _text(), "state": _text()})),
            "edges": _list(
                _object(
                    {
                        "from": _text(),
                        "to": _text(),
                        "transport": _or_null(_text()),
                        "metric": _count(),
                        "kind": _either("link", "route"),
                    },
                    {"selected": _TRUTH},
                )
            ),
        }
    ),
    "Relay": _object(
        {
            "id": _text(),
            "name": _text(),
            "url": _or_null(_text()),
            "state": _either("up", "suspect", "down", "standby"),
            "in_use": _TRUTH,
        }
    ),
    "Alert": _object(
        {
            "id": _count(),
            "name": _text("peer-down, disk-low, part-down, ..."),
            "severity": _either("warning", "critical"),
            "state": _either("active", "resolved"),
            "since": _text("UTC", format="date-time"),
            "until": _or_null(_text("UTC", format="date-time")),
            "detail": _text(),
            "peer": _or_null(_text("The device that it is about; null for this one.")),
            "peer_name": _or_null(_text()),
        }
    ),
    "Verdict": _object(
        {
            "check": _text("disk, clock, port:quic, ..."),
            "verdict": _either("ok", "warn", "fail"),
            "detail": _text(),
            "fix": _text("What to do; empty when nothing is wrong."),
        }
    ),
    "Trace": _object(
        {
            "id": _text(),
            "state": _text("accepted, sent, delivered, consumed, expired, refused, ..."),
            "events": _list(
                _object(
                    {
                        "at": _text("UTC", format="date-time"),
                        "device": _text(),
                        "event": _text(),
                        "reason": _or_null(_text()),
                        "detail": _or_null(_text()),
                    }
                )
            ),
            "unasked": _list(_object({"device": _text(), "reason": _text()})),
        }
    ),
    "Why": _object(
        {
            "peer": _text(),
            "name": _text(),
            "state": _text(),
            "decision": _text("What is done about it, and for which reason."),
            "hint": _or_null(_text("What to do.")),
            "candidates": _list({"type": "object"}),
            "breaker": _BREAKER,
            "breaker_detail": _or_null({"type": "object"}),
            "link": _or_null({"type": "object"}),
            "quality": _or_null(_number()),
            "grade": {"enum": [*_GRADES, None]},
            "rtt_ms": _or_null(_number()),
            "loss": _or_null(_number()),
            "broken_last_hour": _count(),
            "route": _or_null({"type": "object"}),
            "last_error": _or_null(_text()),
            "hearsay": _or_null(
                _object({"neighbour": _text(), "hears": _or_null(_TRUTH), "detail": _text(), "ago_s": _number()})
                | {"description": "What a neighbour said of it when its last link died of silence."}
            ),
        }
    ),
    "Event": {
        **_object(
            {
                "at": _text("UTC", format="date-time"),
                "event": _text("peer-up, link-down, route-changed, ..."),
                "peer": _or_null(_text()),
                "name": _or_null(_text()),
                "detail": _text(),
            }
        ),
        "additionalProperties": True,
    },
    "Outgoing": {
        "type": "object",
        "properties": _MESSAGE_PARTS,
        "additionalProperties": False,
    },
    "Send": {
        "type": "object",
        "properties": {
            "destination": _text("A device: its name, its id, or the beginning of its id."),
            "service": _text("The app's mailbox there.", default="default"),
            **_MESSAGE_PARTS,
            "messages": _list(_ref("Outgoing")) | {"description": "Instead of one payload: up to 256, all or none."},
            "priority": _either(*_PRIORITIES) | {"default": "normal"},
            "lifetime_ms": _or_null(_count("How long it may take; the daemon's default when null.")),
            "ephemeral": _TRUTH | {"default": False, "description": "Not kept on disk: now or never."},
            "wait": _either("accepted", "sent", "delivered", "consumed") | {"default": "accepted"},
            "timeout_s": _number("How long to wait for that, 0 to 300.") | {"default": 30},
        },
        "required": ["destination"],
        "additionalProperties": False,
    },
    "Sent": _object(
        {
            "id": _text("Of the first message."),
            "ids": _list(_text()),
            "state": _text("How far it has come."),
        }
    ),
    "Message": _object(
        {
            "id": _text(),
            "source": _text("The device that sent it."),
            "source_name": _or_null(_text()),
            "service": _text(),
            "sequence": _count("Its place in the mailbox, rising within a priority."),
            "priority": _either(*_PRIORITIES),
            "age_s": _number("Since it was accepted there."),
            "headers": _HEADERS,
            "reply_to": _or_null(_text()),
            "redelivered": {**_TRUTH, "description": "It may have been handed out before."},
            "late": {**_TRUTH, "description": "It comes after ones that were sent later."},
            "missing": {
                "anyOf": [
                    _object({"bundles": _or_null(_count()), "reason": _text()}),
                    {"type": "null"},
                ],
                "description": "Mail of the same source that will not come, right before this message.",
            },
        },
        {name: _MESSAGE_PARTS[name] for name in ("payload", "payload_b64")},
    ),
    "Received": _object(
        {
            "messages": _list(_ref("Message")),
            "position": _text("Acknowledge with this all that came up to here."),
        }
    ),
    "Acknowledgement": {
        "type": "object",
        "properties": {
            "consumer": _text("Who read.", default="default"),
            "position": _text("All that came up to here is done."),
            "ids": _list(_text()) | {"description": "These messages are done."},
            "nack": _list(_text()) | {"description": "These are to come again, after a delay that grows."},
        },
        "additionalProperties": False,
    },
    "Acknowledged": _object(
        {
            "acknowledged": _count("How many are done by this, on disk."),
            "returned": _count("How many come again."),
            "unknown": _list(_text("Not read under this lease, or done before.")),
        }
    ),
}


def reference(name: str) -> Schema:
    """A reference to one of :data:`SCHEMAS`; ``Peer[]`` for a list of them."""
    return _list(_ref(name[:-2])) if name.endswith("[]") else _ref(name)
