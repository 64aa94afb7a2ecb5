"""The history checker: what clients sent, what was acknowledged, what was read, and everything that can be wrong with it.

Values are unique and carry their producer and number ("producer:number"). Each operation ends ok, failed or unknown; an unknown one may or may not
be in the log, but at most once. Sources: RELIABILITY section 2; Jepsen's Kafka and Redpanda analyses name the same anomalies.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass
class Send:
    """`offset` -1 with OK: acknowledged, but the client was not told where (librdkafka infers it from the answer to a later batch)."""

    value: bytes
    outcome: Outcome
    offset: int = -1


@dataclass
class History:
    """One partition. `polls`: what consumers were given, poll by poll, in order: [(offset, value), ...] per consumer."""

    sends: list[Send] = field(default_factory=list)  # in order of sending, per producer
    polls: dict[str, list[list[tuple[int, bytes]]]] = field(default_factory=lambda: defaultdict(list))
    high_watermarks: list[tuple[str, int]] = field(default_factory=list)  # (observer, value) in order of observation
    final: list[tuple[int, bytes]] = field(default_factory=list)  # after healing: a fresh consumer from offset 0


def check(history: History) -> list[str]:
    """All anomalies, each as one line that begins with its name; [] for a good history."""
    return [
        *_final_log(history),
        *_acknowledged(history),
        *_order(history),
        *_polls(history),
        *_high_watermarks(history),
    ]


def _final_log(history: History) -> list[str]:
    found: list[str] = []
    known = {send.value: send for send in history.sends}
    places: dict[bytes, int] = {}
    at: dict[int, bytes] = {}
    expected = 0
    for offset, value in history.final:
        if offset in at:
            found.append(f"inconsistent-offset: offset {offset} holds {at[offset]!r} and {value!r}")
        at[offset] = value
        if offset != expected:
            found.append(f"gap: offset {expected} expected, {offset} found")
        expected = offset + 1
        if value in places:
            found.append(f"duplicate: {value!r} at offsets {places[value]} and {offset}")
        places.setdefault(value, offset)
        send = known.get(value)
        if send is None:
            found.append(f"altered: {value!r} at offset {offset} was never sent")
        elif send.outcome == Outcome.FAILED:
            found.append(f"read-of-failed-write: {value!r} at offset {offset} was refused for certain")
    return found


def _acknowledged(history: History) -> list[str]:
    found: list[str] = []
    at = dict(history.final)
    values = set(at.values())
    claimed: dict[int, bytes] = {}
    for send in history.sends:
        if send.outcome != Outcome.OK:
            continue
        if send.offset < 0:
            if send.value not in values:
                found.append(f"lost-write: {send.value!r} was acknowledged and is gone")
            continue
        if send.offset in claimed and claimed[send.offset] != send.value:
            found.append(f"inconsistent-offset: {send.offset} acknowledged for {claimed[send.offset]!r} and {send.value!r}")
        claimed[send.offset] = send.value
        if send.value not in values:
            found.append(f"lost-write: {send.value!r} acknowledged at offset {send.offset} is gone")
        elif at.get(send.offset) != send.value:
            found.append(f"offset-changed: {send.value!r} acknowledged at offset {send.offset}, which holds {at.get(send.offset)!r}")
    return found


def _order(history: History) -> list[str]:
    """Within a producer: the log has its values in the order of sending, and a later acknowledged write has a higher offset."""
    found: list[str] = []
    position = {send.value: number for number, send in enumerate(history.sends)}
    last: dict[bytes, tuple[int, bytes]] = {}
    for _, value in history.final:
        producer, number = value.split(b":")[0], position.get(value, -1)
        before = last.get(producer)
        if before is not None and number < before[0]:
            found.append(f"reordered: {value!r} comes after {before[1]!r}, but was sent before it")
        last[producer] = (number, value)
    highest: dict[bytes, tuple[int, bytes]] = {}
    for send in history.sends:
        if send.outcome == Outcome.OK and send.offset >= 0:
            producer = send.value.split(b":")[0]
            if producer in highest and send.offset <= highest[producer][0]:
                before, earlier = highest[producer]
                found.append(f"offset-order: {send.value!r} got offset {send.offset}, the earlier {earlier!r} has {before}")
            highest[producer] = (send.offset, send.value)
    return found


def _polls(history: History) -> list[str]:
    found: list[str] = []
    at = dict(history.final)
    for consumer, polls in history.polls.items():
        expected = -1
        for poll in polls:
            for offset, value in poll:
                if expected >= 0 and offset != expected:
                    kind = "skipped" if offset > expected else "reordered-poll"
                    found.append(f"{kind}: {consumer} expected offset {expected}, got {offset}")
                expected = offset + 1
                if offset not in at:
                    found.append(f"unseen-suffix: {consumer} read {value!r} at offset {offset}, the final log does not have it")
                elif at[offset] != value:
                    found.append(f"inconsistent-offset: {consumer} read {value!r} at offset {offset}, the final log has {at[offset]!r}")
    return found


def _high_watermarks(history: History) -> list[str]:
    found: list[str] = []
    highest: dict[str, int] = {}
    for observer, value in history.high_watermarks:
        if value < highest.get(observer, 0):
            found.append(f"high-watermark-went-back: {observer} saw {highest[observer]}, then {value}")
        highest[observer] = max(value, highest.get(observer, 0))
    end = len(history.final)
    found += [f"high-watermark-past-end: {observer} saw {value}, the log ends at {end}" for observer, value in highest.items() if value > end]
    return found
