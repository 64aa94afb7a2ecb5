"""Order of operations over all of `__meta`, answers, leadership loss, snapshots (DESIGN.md section 6)."""

from __future__ import annotations

import logging

import pytest

from broker.errors import ErrorCode
from broker.metadata import machine as machine_module
from broker.metadata.draft import Draft, OperationResult
from broker.metadata.image import MetadataImage
from broker.metadata.machine import MetadataMachine
from broker.metadata.operations import AllocateProducerIds, CreateCluster, CreateTopics, DeleteTopics, TopicKey, TopicSpec
from broker.metadata.records import decode_records, encode_records
from tests.unit.metadata.support import MAX_BYTES, Replica, leading, topic_id
from wal.entry import Entry, EntryKind
from wal.errors import InvariantError


def create(name: str, number: int, partitions: int = 1) -> CreateTopics:
    return CreateTopics((TopicSpec(name, topic_id(number), partitions, 1),))


def test_operations_of_one_batch_see_each_other_and_make_one_entry() -> None:
    replica = leading()
    first, second = replica.submit(create("a", 1)), replica.submit(create("a", 2))
    third = replica.submit(DeleteTopics((TopicKey("a"),)))
    before = len(replica.log)
    commit = replica.propose()
    assert commit is not None
    assert not first and not second and not third  # nobody is answered before the records are committed
    commit()
    assert len(replica.log) == before + 1
    assert first[0][0].items[0].error == 0
    assert second[0][0].items[0].error == ErrorCode.TOPIC_ALREADY_EXISTS
    assert second[0][0].items[0].message == "Topic 'a' already exists."
    assert third[0][0].items[0].error == 0
    assert {version for _, version in (first[0], second[0], third[0])} == {replica.machine.image.version}
    assert "a" not in replica.machine.image.topics


def test_next_batch_waits_for_the_one_in_flight() -> None:
    replica = leading()
    replica.submit(create("a", 1))
    commit = replica.propose()
    late = replica.submit(create("a", 2))
    assert replica.machine.collect(MAX_BYTES) is None
    dirty = replica.group.dirty
    assert commit is not None
    commit()
    assert replica.group.dirty == dirty + 1  # what gathered meanwhile is taken next
    replica.settle()
    assert late[0][0].items[0].error == ErrorCode.TOPIC_ALREADY_EXISTS


def test_leadership_lost_in_flight_is_unknown_and_queued_did_not_happen() -> None:
    replica = leading()
    in_flight = replica.submit(create("a", 1))
    refused = replica.submit(DeleteTopics((TopicKey("nothing"),)))  # same entry, but needs no record
    assert replica.propose() is not None
    queued = replica.submit(create("b", 2))
    replica.machine.on_leadership(False)
    assert in_flight[0][0].error == ErrorCode.REQUEST_TIMED_OUT
    assert refused[0][0].error == ErrorCode.NOT_CONTROLLER
    assert queued[0][0].error == ErrorCode.NOT_CONTROLLER
    assert replica.submit(create("c", 3))[0][0].error == ErrorCode.NOT_CONTROLLER
    assert replica.machine.collect(MAX_BYTES) is None


def test_truncated_entry_is_not_taken_for_a_later_one() -> None:
    replica = leading()
    lost = replica.submit(create("a", 1))
    replica.propose()
    replica.machine.on_leadership(False)
    replica.commit_noop()
    replica.machine.on_leadership(True)
    found = replica.run(create("a", 2))
    assert found.items[0].error == 0
    assert len(lost) == 1


def test_repeated_request_is_answered_as_the_first_time() -> None:
    replica = leading()
    request = b"r" * 16
    first = replica.run(create("a", 1), request)
    records = sum(entry.record_count for entry in replica.log)
    assert replica.run(create("a", 2), request) == first
    assert replica.run(DeleteTopics((TopicKey("a"),)), b"d" * 16).items[0].error == 0
    assert replica.run(DeleteTopics((TopicKey("a"),)), b"d" * 16).items[0].error == 0
    assert replica.run(DeleteTopics((TopicKey("a"),)), b"e" * 16).items[0].error == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert records == sum(entry.record_count for entry in replica.log) - 2  # the deletion and its answer


def test_repetition_queued_behind_the_original_is_recognised_in_the_same_batch() -> None:
    replica = leading()
    answers = [replica.submit(AllocateProducerIds(), b"r" * 16) for _ in range(2)]
    replica.settle()
    assert [a[0][0].value for a in answers] == [0, 0]
    assert replica.machine.image.next_producer_id == 1000


def test_answers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.metadata.builder.REMEMBERED_ANSWERS_MAX", 3)
    replica = leading()
    for number in range(5):
        replica.run(AllocateProducerIds(), bytes((number,)) * 16)
    assert list(replica.machine.image.answers) == [bytes((number,)) * 16 for number in (2, 3, 4)]


def test_answer_without_records_needs_the_lease() -> None:
    replica = leading()
    replica.group.lease = False
    answers = replica.submit(DeleteTopics((TopicKey("nothing"),)))
    assert replica.propose() is None
    assert answers[0][0].error == ErrorCode.NOT_CONTROLLER


def test_cancelled_operation_is_not_begun() -> None:
    replica = leading()
    answers: list[int] = []
    pending = machine_module.PendingOperation(create("a", 1), lambda result, _: answers.append(result.error))
    replica.machine.submit(pending)
    pending.cancelled = True
    assert replica.propose() is None
    assert answers == [ErrorCode.REQUEST_TIMED_OUT]
    assert "a" not in replica.machine.image.topics


def test_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "QUEUED_OPERATIONS_MAX", 2)
    replica = leading()
    replica.submit(create("a", 1))
    replica.submit(create("b", 2))
    assert replica.submit(create("c", 3))[0][0].error == ErrorCode.THROTTLING_QUOTA_EXCEEDED


def test_entry_is_bounded_and_the_rest_follows_in_the_next() -> None:
    replica = leading()
    answers = [replica.submit(create(f"t{number}", number, 20)) for number in range(4)]
    sizes = []
    while (proposal := replica.machine.collect(400)) is not None:
        sizes.append(proposal.size)
        replica._commit(proposal.kind, proposal.chunks, proposal.size, proposal.payload_crc, proposal.record_count)  # type: ignore[arg-type]
    assert len(sizes) > 1 and max(sizes) <= 400
    assert all(answer[0][0].items[0].error == 0 for answer in answers)
    too_large = replica.submit(create("huge", 9, 2000))
    assert replica.machine.collect(400) is None
    assert too_large[0][0].error == ErrorCode.INVALID_REQUEST and "split it" in too_large[0][0].message


def test_fault_in_one_operation_harms_no_other(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(self: DeleteTopics, draft: Draft) -> OperationResult:
        AllocateProducerIds().execute(draft)
        raise ZeroDivisionError

    monkeypatch.setattr(DeleteTopics, "execute", fail)
    replica = leading()
    before, broken, after = replica.submit(create("a", 1)), replica.submit(DeleteTopics(())), replica.submit(create("a", 2))
    with caplog.at_level(logging.ERROR):
        replica.settle()
    assert before[0][0].items[0].error == 0
    assert broken[0][0].error == ErrorCode.UNKNOWN_SERVER_ERROR
    assert after[0][0].items[0].error == ErrorCode.TOPIC_ALREADY_EXISTS
    assert replica.machine.image.next_producer_id == 0
    assert "ZeroDivisionError" in caplog.text


def test_listeners_see_old_and_new_and_old_does_not_change() -> None:
    replica = leading()
    seen: list[tuple[MetadataImage, MetadataImage]] = []
    replica.machine.add_listener(lambda old, new: seen.append((old, new)))
    replica.run(create("a", 1))
    replica.run(DeleteTopics((TopicKey("a"),)))
    (old, new), (again, last) = seen
    assert "a" not in old.topics and "a" in new.topics and again is new and "a" not in last.topics
    assert old.brokers is new.brokers  # what did not change is shared


def test_record_count_gives_meta_offsets() -> None:
    replica = Replica()
    replica.lead()
    replica.submit(CreateCluster("c"), b"r" * 16)
    proposal = replica.machine.collect(MAX_BYTES)
    assert proposal is not None
    assert proposal.record_count == len(decode_records(proposal.chunks[0])) == 2
    assert proposal.size == len(proposal.chunks[0])


def test_restore_and_install_give_the_same_image() -> None:
    replica = leading()
    replica.run(create("a", 1, 3), b"r" * 16)
    replica.run(create("b", 2, 3))
    replica.run(DeleteTopics((TopicKey("b"),)))
    replica.commit_noop()
    state = replica.machine.capture()
    assert state is not None
    restored, installed = MetadataMachine(), MetadataMachine()
    assert restored.restore(state) == state.index == replica.machine.applied_index
    installed.install(state.index, state.data)
    assert restored.image == installed.image == replica.machine.image
    assert installed.applied_index == replica.machine.applied_index
    assert replica.machine.snapshot() is state.data  # encoded once per version
    with pytest.raises(InvariantError, match="not newer"):
        installed.install(state.index, state.data)
    assert MetadataMachine().restore(None) == 0 and MetadataMachine().capture() is None


def test_entries_must_come_in_order() -> None:
    machine = MetadataMachine()
    with pytest.raises(InvariantError, match="entry 2 applied after 0"):
        machine.apply([Entry(1, 2, EntryKind.NOOP, (), 0, 0)])


@pytest.mark.parametrize("payload", [b"", b"\x02\x90", b"\x01\x91\x81\xa4type\xa3New", b"\x01\xc1"])
def test_what_is_not_understood_stops_the_node(payload: bytes) -> None:
    with pytest.raises(InvariantError, match="start the version that wrote it"):
        MetadataMachine().apply([Entry(1, 1, EntryKind.DATA, (payload,), len(payload), 0, 0, 1)])
    with pytest.raises(InvariantError, match="start the version that wrote it"):
        MetadataMachine().install(1, b"\x09" + payload + bytes(20))


def test_unknown_field_is_skipped_and_missing_one_has_its_default() -> None:
    import msgspec

    payload = encode_records(()).replace(b"\xdd\x00\x00\x00\x00", b"\xdd\x00\x00\x00\x01")
    payload += msgspec.msgpack.encode({"type": "BrokerRegistered", "node_id": 1, "host": "h", "port": 1, "raft_address": "a", "colour": [1]})
    (record,) = decode_records(payload)
    assert record.generation == 0  # type: ignore[union-attr]


def test_entry_that_the_group_refused_is_proposed_again() -> None:
    """A group that hands over its leadership takes no entry, and may go on leading when that fails."""
    replica = leading()
    answers = [replica.submit(create("a", 1)), replica.submit(create("b", 2))]
    assert replica.machine.collect(MAX_BYTES) is not None  # refused: the log does not get it
    dirty = replica.group.dirty
    replica.machine.on_progress()
    assert replica.group.dirty == dirty + 1
    answers.append(replica.submit(create("a", 3)))
    replica.settle()
    assert [answer[0][0].items[0].error for answer in answers] == [0, 0, ErrorCode.TOPIC_ALREADY_EXISTS]


def test_entry_whose_place_another_one_took_did_not_happen() -> None:
    replica = leading()
    answers = replica.submit(create("a", 1))
    assert replica.machine.collect(MAX_BYTES) is not None
    replica.commit_noop()  # a configuration entry, say
    assert answers[0][0].error == ErrorCode.NOT_CONTROLLER
    assert replica.run(create("a", 2)).items[0].error == 0
