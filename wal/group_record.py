"""One group's part of a checkpoint. Loop thread; copies everything, because the checkpoint is encoded on another thread."""

from __future__ import annotations

from wal.checkpoint import GroupRecord, Removal, SegmentRecord
from wal.durable import trim_runs
from wal.group_log import GroupLog


def record_of(log: GroupLog, obsolete: list[Removal]) -> GroupRecord:
    """What the checkpoint says of `log`. Segments that are not needed any more go to `obsolete`."""
    durable = log.durable
    segments = durable.segments
    applied = durable.applied
    first = durable.first_index
    if durable.needs_state:
        first = min(first, (applied.index if applied is not None else 0) + 1)
    segments.drop_before(first)
    trim_runs(segments.runs, first)
    if segments.obsolete:
        obsolete.append(Removal(log.topic, log.key[0], log.partition, list(segments.obsolete), False))
    written = segments.written_index
    configurations = [found for at, found in enumerate(durable.configurations) if at == 0 or found[0] <= written]
    return GroupRecord(
        topic=log.topic,
        topic_id=log.key[0],
        partition=log.partition,
        segments=[
            SegmentRecord(s.number, s.first_index, s.first_offset, s.last_index, s.end_position, s.max_timestamp, s.pieces) for s in segments.all()
        ],
        next_number=segments.next_number,
        written_index=written,
        written_term=segments.written_term,
        written_offset=segments.written_offset,
        runs=list(segments.runs),
        last_index=durable.last_index,
        last_term=durable.last_term,
        term=durable.hard_state.term,
        vote=durable.hard_state.vote,
        configurations=configurations,
        first_index=first,
        start_offset=durable.start_offset,
        needs_state=durable.needs_state,
        quarantined=durable.quarantined,
        applied=None if applied is None else (applied.index, applied.data),
    )
