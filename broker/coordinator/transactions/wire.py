"""What coordinators and partition leaders say to each other: msgpack arrays, sent over the nodes' own links. Callback style: no asyncio here.

`txn.markers`: a coordinator asks the leaders of partitions to write markers. `txn.verify`: a partition's leader asks a coordinator whether the
partition belongs to a transaction. Both are answered element for element.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from broker.partition.verification import TransactionQuestion

METHOD_MARKERS = "txn.markers"
METHOD_VERIFY = "txn.verify"

Reply = Callable[["bytes | None"], None]
Send = Callable[[int, str, bytes, Reply], None]
"""(broker id, method, payload, reply): `reply` is called exactly once, with None when there was no answer. The own broker id is served here."""


class MarkerItem(msgspec.Struct, frozen=True, array_like=True):
    """`leader_epoch`: the term in which the receiver is asked; in any other one the request is late and is refused."""

    group: bytes
    leader_epoch: int
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    commit: bool


class MarkerRequest(msgspec.Struct, frozen=True, array_like=True):
    """(incarnation, sequence) ascends with each request of a node to another, one at a time: one that was overtaken by its repetition is refused, so
    that a marker of a transaction that is over can never end the next one of its producer."""

    incarnation: int
    sequence: int
    markers: list[MarkerItem]


_encode = msgspec.msgpack.encode
_marker_decoder = msgspec.msgpack.Decoder(MarkerRequest)
_question_decoder = msgspec.msgpack.Decoder(list[TransactionQuestion])
_errors_decoder = msgspec.msgpack.Decoder(list[int])


def encode_markers(request: MarkerRequest) -> bytes:
    return _encode(request)


def decode_markers(payload: bytes) -> MarkerRequest:
    """Raises msgspec.MsgspecError."""
    return _marker_decoder.decode(payload)


def encode_questions(questions: list[TransactionQuestion]) -> bytes:
    return _encode(questions)


def decode_questions(payload: bytes) -> list[TransactionQuestion]:
    """Raises msgspec.MsgspecError."""
    return _question_decoder.decode(payload)


def encode_errors(errors: list[int]) -> bytes:
    return _encode(errors)


def decode_errors(payload: bytes | None, count: int) -> list[int] | None:
    """The error codes of an answer to `count` elements; None when there is no answer that can be used."""
    if payload is None:
        return None
    try:
        errors = _errors_decoder.decode(payload)
    except msgspec.MsgspecError:
        return None
    return errors if len(errors) == count else None
