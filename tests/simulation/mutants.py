"""`python -m tests.simulation.mutants`: break one rule at a time and see the simulator notice. A mutant that survives means that a rule is not tested.

Each mutant replaces one small function of the real code. A run is killed by a broken invariant, an invariant error of the code itself, or no progress.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from broker.partition import appending
from broker.partition.producers import ProducerTable
from raft.core import core as core_module
from raft.core import election, follower, leader, replication
from raft.core.core import RaftCore
from raft.core.message import Message, MessageType
from raft.core.state import CoreState
from raft.driver import Driver
from tests.simulation.cluster import run_seed
from wal.group_log import GroupLog

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
        leader.on_commit(core)
        return True

    return [(leader, "maybe_commit", maybe_commit)]


def _truncate_on_an_equal_entry() -> list[Patch]:
    return [(follower, "count_known", lambda core, entries: 0)]


def _no_log_check_for_votes() -> list[Patch]:
    return [(election, "is_up_to_date", lambda core, message: True)]


def _two_votes_in_a_term() -> list[Patch]:
    return [(election, "may_vote_for", lambda core, candidate: True)]


def _follower_commit_not_bounded() -> list[Patch]:
    def commit_proven(core: CoreState, leader_commit: int, last_proven: int) -> None:
        core.commit_to(min(leader_commit, core.log.last_index))

    return [(follower, "commit_proven", commit_proven)]


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
    original = Driver._gather

    def gather(driver: Driver, group: Any) -> None:
        original(driver, group)
        if group.core.role == core_module.LEADER and not group.serving:
            group.serving = True
            group.machine.on_leadership(True)

    return [(Driver, "_gather", gather)]


def _acknowledged_before_commit() -> list[Patch]:
    return [(appending, "ACKS_ALL", -99)] if hasattr(appending, "ACKS_ALL") else []


def _duplicates_are_appended() -> list[Patch]:
    return [(ProducerTable, "check", lambda table, *args, **kwargs: None)] if hasattr(ProducerTable, "check") else []


MUTANTS: dict[str, Callable[[], list[Patch]]] = {
    "vote before fsync": _vote_before_fsync,
    "leader counts itself before its fsync": _own_entries_before_fsync,
    "append acknowledged before fsync": _append_acknowledged_before_fsync,
    "old term committed by counting": _old_term_committed_by_counting,
    "truncate on an equal entry": _truncate_on_an_equal_entry,
    "no log check for votes": _no_log_check_for_votes,
    "two votes in a term": _two_votes_in_a_term,
    "follower's commit not bounded by what matches": _follower_commit_not_bounded,
    "no consistency check of the previous entry": _no_consistency_check,
    "hard state not staged": _hard_state_not_staged,
    "answers of old terms count": _answers_of_old_terms_count,
    "promises not checked again after the fsync": _promise_not_checked_after_fsync,
    "a truncated index counts as flushed": _truncated_index_counts_as_flushed,
    "match index kept over a restart": _match_kept_over_a_restart,
    "serving before the no-op is applied": _serving_before_the_no_op,
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Apply a mutant for the duration of the block."""
    undo: list[Patch] = []
    try:
        for owner, attribute, replacement in MUTANTS[name]():
            undo.append((owner, attribute, getattr(owner, attribute)))
            setattr(owner, attribute, replacement)
            for user in (core_module, election, follower, leader, replication):
                if user is not owner and getattr(user, attribute, None) is undo[-1][2]:
                    undo.append((user, attribute, undo[-1][2]))
                    setattr(user, attribute, replacement)
        yield
    finally:
        for owner, attribute, original in reversed(undo):
            setattr(owner, attribute, original)


def hunt(job: tuple[str, int]) -> tuple[str, int, str]:
    """(name, seeds until killed or -1, what killed it)."""
    name, seeds = job
    with mutated(name):
        for seed in range(seeds):
            try:
                run_seed(seed, fault_seconds=12.0)
            except Exception as error:  # noqa: BLE001 - any end but success kills the mutant
                return name, seed + 1, f"{type(error).__name__}: {error}".splitlines()[0][:110]
    return name, -1, "survived"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    names = [name for name in MUTANTS if options.only in name]
    survived = 0
    print(f"{'mutant':50} {'seeds':>5}  killed by")
    with multiprocessing.Pool(2) as pool:
        for name, seeds, text in pool.imap_unordered(hunt, [(name, options.seeds) for name in names], chunksize=1):
            print(f"{name:50} {seeds:5}  {text}", flush=True)
            survived += seeds < 0
    print(f"{len(names) - survived} of {len(names)} mutants killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
