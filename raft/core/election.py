"""Elections (sections 5.2 and 5.4.1 of the Raft paper, 4.2.3 and 9.6 of the thesis).

A pre-vote asks whether an election could be won and changes nothing anywhere. A vote is staged and promised only when durable; so are a
candidate's requests, because they tell of its own vote. A replica answers even when it believes to be a learner: it may have become a voter
without knowing. Candidates neither ask nor count learners.
"""

from __future__ import annotations

from raft.core.leader import become_leader
from raft.core.membership import VoteResult, decode
from raft.core.message import Message, MessageType
from raft.core.replication import send_heartbeat
from raft.core.state import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, CoreState

PRE_VOTE = MessageType.PRE_VOTE
PRE_VOTE_RESPONSE = MessageType.PRE_VOTE_RESPONSE
VOTE = MessageType.VOTE
VOTE_RESPONSE = MessageType.VOTE_RESPONSE
SAYS_LEADER = frozenset((MessageType.APPEND, MessageType.HEARTBEAT, MessageType.INSTALL_SNAPSHOT, MessageType.TIMEOUT_NOW))
STALE_ANSWERS = {
    MessageType.APPEND: MessageType.APPEND_RESPONSE,
    MessageType.HEARTBEAT: MessageType.HEARTBEAT_RESPONSE,
    MessageType.INSTALL_SNAPSHOT: MessageType.SNAPSHOT_STATUS,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
}


# Terms


def admit(core: CoreState, message: Message, leader_alive: bool) -> bool:
    """The rules of terms for a message of another term (5.1); whether it is to be looked at further."""
    if message.term < core.term:
        answer_stale(core, message)
        return False
    kind = message.type
    if kind == PRE_VOTE or (kind == PRE_VOTE_RESPONSE and not message.reject):
        return True  # about a term that nobody is in yet
    if kind == VOTE and protects_leader(core, message, leader_alive):
        return False
    core.become_follower(message.term, message.sender if kind in SAYS_LEADER else 0)
    return True


def answer_stale(core: CoreState, message: Message) -> None:
    """Tell whoever acts in an old term of the new one; answers of old terms are ignored (trap 2)."""
    kind = STALE_ANSWERS.get(message.type)
    if kind is not None:
        core.answer(Message(kind, core.replica, message.sender, core.term, message.index, reject=True))


def protects_leader(core: CoreState, message: Message, leader_alive: bool) -> bool:
    """While a leader is alive, nobody else is elected, so that a removed or partitioned replica disturbs nobody (thesis 4.2.3).

    A leader that asks for votes leads no longer, whatever its beats made us believe.
    """
    return leader_alive and core.leader not in (0, message.sender) and not message.transfer


# Candidate


def campaign(core: CoreState, transfer: bool) -> None:
    """Try to become the leader."""
    if core.role == LEADER or not may_campaign(core):
        return
    if transfer:
        start_vote(core, transfer=True)
    else:
        start_pre_vote(core)


def may_campaign(core: CoreState) -> bool:
    """A voter may; and who was one before a change that is not known to be committed: nobody else may hold its entries (thesis 4.2.2, figure 4.6).

    Such a candidate does not count its own vote, because it is no voter of the configuration in force.
    """
    if core.replica in core.membership.electorate:
        return True
    configurations = core.log.configurations
    if core.configuration_index <= core.commit_index or len(configurations) < 2:
        return False
    return core.replica in decode(configurations[-2][1]).electorate


def start_pre_vote(core: CoreState) -> None:
    """Ask whether we could win. Neither term nor vote changes, here or there."""
    core.role = PRE_CANDIDATE
    core.leader = 0
    core.changed = True
    core.votes = {core.replica: True}
    for message in requests(core, PRE_VOTE, core.term + 1, transfer=False):
        core.messages.append(message)
    count_votes(core)


def start_vote(core: CoreState, transfer: bool) -> None:
    """A new term with our own vote, which counts, and is told to the others, only when it is durable (traps 1 and 3)."""
    core.role = CANDIDATE
    core.leader = 0
    core.votes = {}
    core.save_hard_state(core.term + 1, core.replica)
    core.messages_after_flush.extend(requests(core, VOTE, core.term, transfer))


def requests(core: CoreState, kind: MessageType, term: int, transfer: bool) -> list[Message]:
    log = core.log
    others = sorted(core.membership.electorate - {core.replica})
    return [Message(kind, core.replica, other, term, log.last_index, log.last_term, transfer=transfer) for other in others]


def on_own_vote_durable(core: CoreState) -> None:
    """Our own hard state is flushed: a candidate's vote for itself counts from now on."""
    if core.role == CANDIDATE and core.vote == core.replica:
        core.votes[core.replica] = True
        count_votes(core)


def on_vote_response(core: CoreState, message: Message) -> None:
    if core.role == CANDIDATE:
        core.votes.setdefault(message.sender, not message.reject)
        count_votes(core)


def on_pre_vote_response(core: CoreState, message: Message) -> None:
    """A grant speaks of the next term, a refusal of this one."""
    if core.role == PRE_CANDIDATE and message.term == (core.term if message.reject else core.term + 1):
        core.votes.setdefault(message.sender, not message.reject)
        count_votes(core)


def count_votes(core: CoreState) -> None:
    result = core.membership.vote_result(core.votes)
    if result == VoteResult.LOST:
        core.become_follower(core.term, 0)
    elif result == VoteResult.WON:
        if core.role == PRE_CANDIDATE:
            start_vote(core, transfer=False)
        else:
            become_leader(core)


# Voter


def on_vote(core: CoreState, message: Message) -> None:
    """Stage the vote, promise it when it is durable. The same candidate asking again gets the same answer (trap 2)."""
    granted = may_vote_for(core, message.sender) and is_up_to_date(core, message)
    if granted and core.vote != message.sender:
        core.save_hard_state(core.term, message.sender)
    core.answer(Message(VOTE_RESPONSE, core.replica, message.sender, core.term, reject=not granted))


def may_vote_for(core: CoreState, candidate: int) -> bool:
    """One vote per term (5.2), and none in a term whose leader is known."""
    return core.vote == candidate or (core.vote == 0 and core.leader == 0)


def is_up_to_date(core: CoreState, message: Message) -> bool:
    """The election restriction of 5.4.1; an empty log counts as its snapshot's (index, term) (trap 7)."""
    return (message.log_term, message.index) >= (core.log.last_term, core.log.last_index)


def on_pre_vote(core: CoreState, message: Message, leader_alive: bool) -> None:
    """Would we vote so? Nothing changes here. A live leader is protected; if it is us, the asker is told who leads."""
    protected = protects_leader(core, message, leader_alive)
    allowed = message.term > core.term or may_vote_for(core, message.sender)
    if allowed and not protected and is_up_to_date(core, message):
        core.answer(Message(PRE_VOTE_RESPONSE, core.replica, message.sender, message.term))
        return
    core.answer(Message(PRE_VOTE_RESPONSE, core.replica, message.sender, core.term, reject=True))
    progress = core.progress.get(message.sender)
    if core.role == LEADER and progress is not None:
        send_heartbeat(core, progress)


def on_timeout_now(core: CoreState, message: Message) -> None:
    """The leader hands over: campaign at once, past pre-vote (thesis 3.10)."""
    if core.role == FOLLOWER and core.leader in (0, message.sender):
        campaign(core, transfer=True)
