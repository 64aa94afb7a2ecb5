"""`python -m tests.simulation.mutants`: break one rule at a time and see the simulator notice. A survivor: a rule that is not tested.

Each mutant replaces one small function of the real code, wherever it is imported. A run is killed by a broken invariant, by an invariant error of the
code itself, or by no progress after healing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from broker.api import AppendResult
from broker.errors import ErrorCode
from broker.partition.appending import Appender
from broker.partition.producers import ProducerTable
from broker.version import running
from raft.core import election, follower, leader, replication
from raft.core.core import RaftCore
from raft.core.message import Message, MessageType
from raft.core.progress import Progress
from raft.core.reconfiguration import on_commit
from raft.core.state import LEADER, CoreState
from raft.driver import Driver
from raft.group import RaftGroup
from tests.simulation.cluster import run_seed
from tests.simulation.coordinating import COORDINATORS
from tests.simulation.coordinator_mutants import COORDINATOR_MUTANTS
from tests.simulation.workload import REPLICATION
from wal import checkpoint, recovery
from wal.durable import DurableLog
from wal.group_log import GroupLog
from wal.jobs import CheckpointJob, FlushJob
from wal.journal import padded, unpack_block
from wal.settings import BLOCK_BYTES

PACKAGES = ("raft", "wal", "broker")
Patch = tuple[Any, str, Any]


def _vote_before_fsync() -> list[Patch]:
    original = CoreState.answer

    def answer(core: CoreState, message: Message) -> None:
        if message.type == MessageType.VOTE_RESPONSE:
            core.messages.append(message)
        else:
            original(core, message)

    return [(CoreState, "answer", answer)]


def _own_entries_before_fsync() -> list[Patch]:
    def count(core: CoreState) -> None:
        if core.own_progress is not None:
            core.own_progress.acknowledge(core.log.last_index)

    return [(leader, "count_own_flush", count)]


def _append_acknowledged_before_fsync() -> list[Patch]:
    def acknowledge(core: CoreState, to: int, index: int) -> None:
        core.messages.append(Message(MessageType.APPEND_RESPONSE, core.replica, to, core.term, index))

    return [(follower, "acknowledge", acknowledge)]


def _old_term_committed_by_counting() -> list[Patch]:
    def maybe_commit(core: CoreState) -> bool:
        if not core.commit_to(leader.quorum_index(core)):
            return False
        on_commit(core)
        return True

    return [(leader, "maybe_commit", maybe_commit)]


def _truncate_on_an_equal_entry() -> list[Patch]:
    return [(follower, "count_known", lambda core, entries: 0)]


def _no_log_check_for_votes() -> list[Patch]:
    return [(election, "is_up_to_date", lambda core, message: True)]


def _two_votes_in_a_term() -> list[Patch]:
    return [(election, "may_vote_for", lambda core, candidate: True)]


def _commit_not_bounded() -> list[Patch]:
    """Both sides bound it, and either bound alone is enough: without one of them only, nothing goes wrong."""

    def send_heartbeat(core: CoreState, progress: Progress) -> None:
        core.messages.append(Message(MessageType.HEARTBEAT, core.replica, progress.replica, core.term, commit=core.commit_index))

    def commit_proven(core: CoreState, leader_commit: int, last_proven: int) -> None:
        core.commit_to(min(leader_commit, core.log.last_index))

    return [(follower, "commit_proven", commit_proven), (replication, "send_heartbeat", send_heartbeat)]


def _no_consistency_check() -> list[Patch]:
    return [(follower, "matches_previous", lambda core, index, term: index <= core.log.last_index)]


def _hard_state_not_staged() -> list[Patch]:
    return [(GroupLog, "save_hard_state", lambda log, term, vote: setattr(log, "hard_state", type(log.hard_state)(term, vote)))]


def _answers_of_old_terms_count() -> list[Patch]:
    original = election.admit

    def admit(core: CoreState, message: Message, leader_alive: bool) -> bool:
        if message.term < core.term and message.type in (MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE):
            return True
        return original(core, message, leader_alive)

    return [(election, "admit", admit)]


def _promise_not_checked_after_fsync() -> list[Patch]:
    return [(RaftCore, "still_true", lambda core, message: True)]


def _truncated_index_counts_as_flushed() -> list[Patch]:
    original = GroupLog.truncate_suffix

    def truncate_suffix(log: GroupLog, index: int) -> None:
        flushed, flight = log.flushed_index, log.flight_index
        original(log, index)
        log.flushed_index, log.flight_index = flushed, flight

    return [(GroupLog, "truncate_suffix", truncate_suffix)]


def _match_kept_over_a_restart() -> list[Patch]:
    def keep(core: CoreState, peer: int) -> None:
        progress = core.progress.get(peer)
        if progress is not None and progress is not core.own_progress:
            progress.become_probe(core.log.last_index + 1)
            progress.match_index = core.log.last_index

    return [(replication, "reset_peer", keep)]


def _serving_before_the_no_op() -> list[Patch]:
    original = RaftGroup._settle

    def settle(group: RaftGroup) -> None:
        if group.core.role == LEADER and not group.serving:
            group.serving = True
            group.machine.on_leadership(True)
        original(group)

    return [(RaftGroup, "_settle", settle)]


def _acknowledged_when_the_leader_has_flushed() -> list[Patch]:
    original = Appender.on_flushed

    def on_flushed(appender: Appender) -> None:
        original(appender)
        appender._succeed(appender._waiting_commit.take(appender.group.log.next_offset))

    return [(Appender, "on_flushed", on_flushed)]


def _repeated_batch_answered_before_commit() -> list[Patch]:
    def answer(appender: Appender, originals: Any, acks: int, done: Any) -> AppendResult:
        return AppendResult(ErrorCode.NONE, originals[0].base_offset, 0, -1)

    return [(Appender, "_answer_repeated", answer)]


def _duplicates_are_appended() -> list[Patch]:
    original = ProducerTable.check

    def check(table: ProducerTable, *args: Any, **kwargs: Any) -> Any:
        return original(table, *args, **kwargs)[0], None

    return [(ProducerTable, "check", check)]


def _lease_not_looked_at() -> list[Patch]:
    return [(RaftGroup, "lease_valid", lambda group: group.serving)]


def _flush_without_fsync() -> list[Patch]:
    original = FlushJob.run

    def run(job: FlushJob) -> None:
        file = job._file.file
        job._file.file = _Unsynced(file)
        try:
            original(job)
        finally:
            job._file.file = file

    return [(FlushJob, "run", run), (FlushJob, "place", lambda job: None)]


class _Unsynced:
    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def pwrite_durably(self, data: Any, position: int) -> None:
        self._file.pwrite(data, position)

    def fdatasync(self) -> None:
        """Forgotten."""


def _checkpoint_before_segments_are_synced() -> list[Patch]:
    original = CheckpointJob.work

    def work(job: CheckpointJob) -> None:
        job._paths = ()
        original(job)

    return [(CheckpointJob, "work", work)]


def _frame_of_an_earlier_lap() -> list[Patch]:
    """A flush that an earlier lap left in the file is taken for a new one: generations are not compared."""

    def scan(data: memoryview, path: str, salt: int, oldest_generation: int) -> list[recovery.BlockHeaderAt]:
        found: list[recovery.BlockHeaderAt] = []
        position = 0
        while position < len(data):
            header = unpack_block(data, position, salt)
            if header is None:
                position += BLOCK_BYTES
                continue
            if found:
                header.generation = found[0].header.generation
                header.number = found[-1].header.number + 1
            found.append(recovery.BlockHeaderAt(header, position))
            position += padded(header.length)
        return found if found and found[0].header.generation >= oldest_generation else []

    original = recovery.read_block

    def read(data: memoryview, header: Any, path: str, position: int) -> recovery.Block:
        own = unpack_block(data, position, 0)
        block = original(data, own or header, path, position)
        block.header = header
        return block

    return [(recovery, "scan_file", scan), (recovery, "read_block", read)]


def _payloads_not_checked_in_recovery() -> list[Patch]:
    return [(recovery, "check_payload", lambda header, payload: None)]


def _journal_reused_before_the_checkpoint() -> list[Patch]:
    return [(checkpoint, "write_checkpoint", lambda *args, **kwargs: None)]


def _deposed_leader_serves_until_the_next_turn() -> list[Patch]:
    return [(Driver, "_stepped", lambda driver, group: driver.touch(group))]


def _copied_entries_keep_their_generation() -> list[Patch]:
    move, prune = DurableLog._move, DurableLog.prune
    moving = []

    def moved(log: DurableLog, index: int, generation: int) -> None:
        moving.append(log)
        move(log, index, generation)
        moving.pop()

    return [(DurableLog, "_move", moved), (DurableLog, "prune", lambda log: None if moving else prune(log))]


MUTANTS: dict[str, Callable[[], list[Patch]]] = {
    "vote before fsync": _vote_before_fsync,
    "leader counts itself before its fsync": _own_entries_before_fsync,
    "append acknowledged before fsync": _append_acknowledged_before_fsync,
    "old term committed by counting": _old_term_committed_by_counting,
    "truncate on an equal entry": _truncate_on_an_equal_entry,
    "no log check for votes": _no_log_check_for_votes,
    "two votes in a term": _two_votes_in_a_term,
    "commit not bounded by what is proven equal": _commit_not_bounded,
    "no consistency check of the previous entry": _no_consistency_check,
    "hard state not staged": _hard_state_not_staged,
    "answers of old terms count": _answers_of_old_terms_count,
    "promises not checked again after the fsync": _promise_not_checked_after_fsync,
    "a truncated index counts as flushed": _truncated_index_counts_as_flushed,
    "match index kept over a restart": _match_kept_over_a_restart,
    "serving before the no-op is applied": _serving_before_the_no_op,
    "acknowledged when the leader has flushed": _acknowledged_when_the_leader_has_flushed,
    "repeated batch answered before its original is committed": _repeated_batch_answered_before_commit,
    "duplicates are appended": _duplicates_are_appended,
    "lease not looked at": _lease_not_looked_at,
    "flush without fsync": _flush_without_fsync,
    "checkpoint before its segments are fsynced": _checkpoint_before_segments_are_synced,
    "a stale journal frame of an earlier lap is taken for a new one": _frame_of_an_earlier_lap,
    "payloads not checked in recovery": _payloads_not_checked_in_recovery,
    "journal files used again without a checkpoint": _journal_reused_before_the_checkpoint,
    "a deposed leader serves until the next turn": _deposed_leader_serves_until_the_next_turn,
    "copied entries keep their generation": _copied_entries_keep_their_generation,
    **COORDINATOR_MUTANTS,
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Apply a mutant for the duration of the block, in its module and wherever its module's name was imported."""
    undo: list[Patch] = []
    try:
        for owner, attribute, replacement in MUTANTS[name]():
            original = getattr(owner, attribute)
            users = [owner]
            if not isinstance(owner, type):
                users += [m for n, m in sys.modules.items() if n.split(".")[0] in PACKAGES and m is not owner and vars(m).get(attribute) is original]
            for user in users:
                undo.append((user, attribute, original))
                setattr(user, attribute, replacement)
        yield
    finally:
        for owner, attribute, original in reversed(undo):
            setattr(owner, attribute, original)


def hunt(job: tuple[str, int]) -> tuple[str, int, str]:
    """(name, seeds until killed or -1, what killed it)."""
    name, seeds = job
    workload = COORDINATORS if name in COORDINATOR_MUTANTS else REPLICATION
    with mutated(name):
        for seed in range(seeds):
            try:
                run_seed(seed, workload)
            except Exception as error:  # noqa: BLE001 - any end but success kills the mutant
                return name, seed + 1, f"{type(error).__name__}: {error}".splitlines()[0][:110]
    return name, -1, "survived"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if running() == "compiled":
        parser.error("mutants replace functions, which compiled code does not notice; run with CHRONIK_COMPILED=0")
    names = [name for name in MUTANTS if options.only in name]
    survived = 0
    print(f"{'mutant':62} {'seeds':>5}  killed by")
    with multiprocessing.Pool(2) as pool:
        for name, seeds, text in pool.imap_unordered(hunt, [(name, options.seeds) for name in names], chunksize=1):
            print(f"{name:62} {seeds:5}  {text}", flush=True)
            survived += seeds < 0
    print(f"{len(names) - survived} of {len(names)} mutants killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
