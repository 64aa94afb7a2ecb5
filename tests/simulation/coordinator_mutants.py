"""Mutants of the coordinators' rules, for `tests.simulation.mutants`: each is met by the coordinators' workload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from broker.api import AppendResult
from broker.coordinator.groups import offsets as group_offsets
from broker.coordinator.groups.machine import GroupsMachine
from broker.coordinator.groups.offsets import OffsetManager
from broker.coordinator.groups.state import GroupsState
from broker.coordinator.runtime import Applied, Outcome, Shard
from broker.coordinator.transactions import machine as transaction_rules
from broker.coordinator.transactions.machine import TransactionMachine
from broker.coordinator.transactions.markers import MarkerReceiver
from broker.coordinator.transactions.service import TransactionService
from broker.coordinator.transactions.state import DECIDED, RESTING
from broker.coordinator.transactions.wire import decode_markers, encode_markers
from broker.errors import ErrorCode, KafkaError
from broker.partition.appending import Appender
from broker.partition.partition import Partition
from broker.partition.transactions import AbortedIndex
from broker.partition.verification import TransactionGate
from wal.entry import GroupId

Patch = tuple[Any, str, Any]


def _answered_at_once(kind: type) -> list[Patch]:
    """The coordinator of `kind` answers when it has decided, not when that is committed."""
    original = Shard._run

    def run(shard: Shard, lock: Any, operation: Any) -> None:
        if not isinstance(shard.machine, kind):
            original(shard, lock, operation)
            return
        told: list[bool] = []

        def decide() -> Outcome[Any]:
            outcome: Outcome[Any] = operation.run()
            if outcome.records:
                told.append(True)
                shard._clock.call_soon(lambda: operation.done(outcome.response))
            return outcome

        def done(response: Any) -> None:
            if not told:
                operation.done(response)

        def failed(error: KafkaError) -> None:
            if not told:
                operation.failed(error)

        original(shard, lock, operation._replace(run=decide, done=done, failed=failed))

    return [(Shard, "_run", run)]


def _reply_before_the_commit() -> list[Patch]:
    return _answered_at_once(TransactionMachine)


def _group_answers_before_the_commit() -> list[Patch]:
    return _answered_at_once(GroupsMachine)


def _no_epoch_bump() -> list[Patch]:
    original = TransactionMachine._decide

    def decide(machine: TransactionMachine, known: Any, commit: bool, client_version: int, new_producer_id: int, now_ms: int) -> Any:
        return original(machine, known, commit, 0, new_producer_id, now_ms)

    return [(TransactionMachine, "_decide", decide)]


def _marker_lost_at_failover() -> list[Patch]:
    def lead(machine: TransactionMachine, term: int) -> None:
        machine.term = term
        machine._leading = True
        machine._led()
        for transaction in list(machine.transactions.values()):
            if transaction.state not in RESTING and transaction.state not in DECIDED:
                machine._changed(transaction)

    return [(TransactionMachine, "lead", lead)]


def _open_transactions_are_stable() -> list[Patch]:
    return [(Partition, "last_stable_offset", property(lambda partition: partition.high_watermark))]


def _offsets_show_before_the_commit() -> list[Patch]:
    original = GroupsState._replay_offset

    def replay(state: GroupsState, key: Any, record: Applied) -> None:
        original(state, key, record._replace(producer_id=-1))

    return [(GroupsState, "_replay_offset", replay)]


def _offsets_of_an_open_transaction_are_told() -> list[Patch]:
    original = group_offsets._told
    return [(group_offsets, "_told", lambda entry, topic, topic_id, partition, stable: original(entry, topic, topic_id, partition, False))]


def _not_verified() -> list[Patch]:
    return [(TransactionService, "_verifies", lambda service: False)]


def _verification_outlives_the_marker() -> list[Patch]:
    return [(TransactionGate, "ended", lambda gate, producer_id, epoch: None)]


def _old_generation_commits() -> list[Patch]:
    original = OffsetManager._check

    def check(manager: OffsetManager, request: Any) -> None:
        try:
            original(manager, request)
        except KafkaError as error:
            if error.code is not ErrorCode.ILLEGAL_GENERATION:
                raise

    return [(OffsetManager, "_check", check)]


def _no_fencing_by_epoch() -> list[Patch]:
    original, check = TransactionMachine.end, transaction_rules._check_producer

    def end(machine: TransactionMachine, name: str, producer: Any, *rest: Any) -> Any:
        known = machine.transactions.get(name)
        if known is not None and known.producer_id == producer[0]:
            producer = (known.producer_id, known.epoch)
        return original(machine, name, producer, *rest)

    def check_producer(known: Any, producer: Any) -> Any:
        error = check(known, producer)
        return None if error is ErrorCode.PRODUCER_FENCED else error

    return [(TransactionMachine, "end", end), (transaction_rules, "_check_producer", check_producer)]


def _aborted_transactions_are_not_named() -> list[Patch]:
    return [(AbortedIndex, "overlapping", lambda index, start, end: [])]


def _overtaken_markers_count() -> list[Patch]:
    """Neither the order of a node's requests nor the term that they were meant for is looked at."""
    original = MarkerReceiver.receive

    def receive(receiver: MarkerReceiver, sender: int, payload: bytes, reply: Callable[[bytes], None]) -> None:
        receiver._last.clear()
        request = decode_markers(payload)
        markers = []
        for item in request.markers:
            partition = receiver._find(GroupId(item.group))
            markers.append(msgspec.structs.replace(item, leader_epoch=partition.leader_epoch if partition is not None else item.leader_epoch))
        original(receiver, sender, encode_markers(msgspec.structs.replace(request, markers=markers)), reply)

    return [(MarkerReceiver, "receive", receive)]


def _marker_confirmed_before_the_commit() -> list[Patch]:
    original = Appender.append_marker

    def append(appender: Appender, marker: Any, done: Callable[[AppendResult], None]) -> None:
        told: list[bool] = []

        def once(result: AppendResult) -> None:
            if not told:
                told.append(True)
                done(result)

        original(appender, marker, once)
        once(AppendResult(ErrorCode.NONE, 0, 0))

    return [(Appender, "append_marker", append)]


COORDINATOR_MUTANTS: dict[str, Callable[[], list[Patch]]] = {
    "transactions: reply before the commit": _reply_before_the_commit,
    "transactions: no epoch bump at the end of a transaction": _no_epoch_bump,
    "transactions: marker lost at failover": _marker_lost_at_failover,
    "transactions: fencing by epoch skipped": _no_fencing_by_epoch,
    "transactions: verification skipped": _not_verified,
    "transactions: verification outlives the marker": _verification_outlives_the_marker,
    "transactions: overtaken markers count": _overtaken_markers_count,
    "transactions: marker confirmed before its commit": _marker_confirmed_before_the_commit,
    "transactions: open transactions are stable": _open_transactions_are_stable,
    "transactions: aborted ones are not named to readers": _aborted_transactions_are_not_named,
    "groups: reply before the commit": _group_answers_before_the_commit,
    "groups: commit accepted from an old generation": _old_generation_commits,
    "groups: offsets of a transaction show before its commit": _offsets_show_before_the_commit,
    "groups: require_stable ignored": _offsets_of_an_open_transaction_are_told,
}
