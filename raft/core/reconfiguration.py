"""Changes of membership by the leader (section 6 of the Raft paper, chapter 4 of the thesis).

One change in flight; none before an entry of the leader's own term is committed; a change of one voter is one step, of several goes through joint
consensus. A configuration is in force when it is appended, on every replica (`CoreState.refresh_membership`).
"""

from __future__ import annotations

from collections.abc import Collection

from crc32c import crc32c

from raft.core.membership import MEMBERS_MAX, Membership, encode
from raft.core.message import Message, MessageType
from raft.core.replication import append_own, broadcast, broadcast_commit, new_entry, send_heartbeat
from raft.core.state import LEADER, CoreState
from wal.entry import EntryKind


def propose_configuration(core: CoreState, voters: Collection[int], learners: Collection[int]) -> str:
    """Begin the change to exactly these members; "" when it is appended, otherwise why not."""
    refusal = why_no_change_now(core) or why_not_these(core, frozenset(voters), frozenset(learners))
    if not refusal:
        append_configuration(core, next_configuration(core.membership, frozenset(voters), frozenset(learners)))
    return refusal


def why_no_change_now(core: CoreState) -> str:
    """The rules that do not depend on the wished members (trap 13)."""
    if core.role != LEADER:
        return "this replica does not lead the group"
    if core.commit_index < core.term_start_index:
        return f"no entry of term {core.term} is committed yet: try again when the leader serves"
    if change_in_flight(core):
        return f"the configuration at index {core.configuration_index} is not complete yet: one change at a time"
    if core.transferee:
        return f"leadership is being handed to replica {core.transferee}: try again with the new leader"
    return ""


def change_in_flight(core: CoreState) -> bool:
    """Whether the last configuration is uncommitted, or joint, so that another one follows by itself."""
    return core.configuration_index > core.commit_index or bool(core.membership.voters_outgoing)


def why_not_these(core: CoreState, voters: frozenset[int], learners: frozenset[int]) -> str:
    """Whether the wished members make sense, and every new voter has caught up as a learner (trap 15)."""
    if not voters:
        return "a group needs at least one voter"
    if voters & learners:
        return f"replicas {sorted(voters & learners)} can not be voters and learners at once"
    if min(voters | learners) <= 0 or len(voters | learners) > MEMBERS_MAX:
        return f"replica ids are positive, and a group has at most {MEMBERS_MAX} members"
    if (voters, learners) == (core.membership.voters, core.membership.learners):
        return "the configuration is already so"
    for replica in sorted(voters - core.membership.voters):
        progress = core.progress.get(replica)
        if progress is None:
            return f"replica {replica} must be added as a learner first"
        if progress.match_index < core.term_start_index:
            return (
                f"replica {replica} has not caught up: it has acknowledged {progress.match_index}, term {core.term} starts at {core.term_start_index}"
            )
    return ""


def next_configuration(current: Membership, voters: frozenset[int], learners: frozenset[int]) -> Membership:
    """One step when at most one voter comes or goes (any two majorities overlap), otherwise joint consensus."""
    if len(current.voters ^ voters) <= 1:
        return Membership(voters, learners)
    return Membership(voters, learners, current.voters)


def append_configuration(core: CoreState, membership: Membership) -> None:
    """Append it, put it in force, and greet who is new."""
    before = core.progress
    payload = encode(membership)
    append_own(core, (new_entry(EntryKind.CONFIGURATION, payload, crc32c(payload)),))
    core.refresh_membership()
    for progress in core.peers:
        if progress.replica not in before:
            send_heartbeat(core, progress)
    if core.transferee not in core.membership.voters:
        core.transferee = 0
    broadcast(core)


def on_commit(core: CoreState) -> None:
    """Leader: the commit index rose. Leave joint consensus when it is committed; step down when we are out for good."""
    if core.configuration_index > core.commit_index:
        return
    membership = core.membership
    if membership.voters_outgoing:
        append_configuration(core, Membership(membership.voters, membership.learners))
    elif core.replica not in membership.voters:
        retire(core)


def retire(core: CoreState) -> None:
    """A removed leader has led until its removal committed (thesis 4.2.2): tell the commit, name a successor that has everything, step down."""
    broadcast_commit(core)
    complete = [progress for progress in core.voter_progress if progress.match_index == core.log.last_index]
    if complete:
        core.messages.append(Message(MessageType.TIMEOUT_NOW, core.replica, complete[0].replica, core.term))
    core.become_follower(core.term, 0)
