"""Golden scenarios of the Raft core: a command, `----`, and everything that happened because of it.

A scenario file is a sequence of blocks: comment lines (#), one command line, `----`, the trace, an empty line.
`pytest tests/golden/raft --rewrite-golden` writes the traces anew; a difference is committed only when it is understood.

    add-nodes 3 [learners=4] [others=5] [message-bytes=64] [in-flight=4]
    campaign 1 [transfer]       propose 1 a b c         propose-size 1 200      reconfigure 1 voters=1,2 learners=3
    deliver [2->1] [TYPE] [n=1] [alive]  drop [2->1] [TYPE] [n=1]  duplicate …   reverse     (messages on the network, oldest first)
    begin-flush 1   end-flush 1   flush 1 [2 …]        stabilize               restart 1
    partition 1,2 3   heal      transfer 1 2            abort-transfer 1        quorum-lost 1
    reset 1 2   retry 1 2   unreachable 1 2   heartbeat 1 2   broadcast-commit 1
    trim 1 5   evict 1 5   read 1 [fail]   snapshot [fail]
    status   log 1   network
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raft.core.core import CoreLimits, RaftCore
from raft.core.message import Message, MessageType
from tests.unit.raft_core.cluster import LIMITS, Cluster, show, show_entry

RULER = "----"


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def show_members(core: RaftCore) -> str:
    text = f"voters={sorted(core.membership.voters)}"
    if core.membership.learners:
        text += f" learners={sorted(core.membership.learners)}"
    if core.membership.voters_outgoing:
        text += f" outgoing={sorted(core.membership.voters_outgoing)}"
    return text


def show_state(core: RaftCore) -> str:
    text = f"{core.role.name.lower()} term={core.term} vote={core.vote} leader={core.leader} commit={core.commit_index}"
    return f"{text} last={core.log.last_term}/{core.log.last_index} {show_members(core)}"


class Scenario:
    def __init__(self) -> None:
        self.cluster = Cluster(())
        self.trace: list[str] = []
        self.states: dict[int, str] = {}

    def run(self, line: str) -> list[str]:
        """Execute one command; the trace that it leaves."""
        name, *words = line.split()
        self.trace = []
        command: Callable[..., None] = getattr(self, "do_" + name.replace("-", "_"))
        options = dict(word.split("=", 1) for word in words if "=" in word)
        command(*(word for word in words if "=" not in word), **{key.replace("-", "_"): value for key, value in options.items()})
        self.note_states()
        return self.trace or ["ok"]

    def note_states(self) -> None:
        for replica, found in self.cluster.replicas.items():
            text = show_state(found.core)
            if self.states.get(replica) != text:
                self.states[replica] = text
                self.trace.append(f"{replica}: {text}")

    def act(self, replica: str, action: Callable[[RaftCore], object]) -> None:
        result = self.cluster.do(int(replica), action)
        if isinstance(result, str) and result:
            self.trace.append(f"refused: {result}")
        elif result is False:
            self.trace.append("no")

    def note_sent(self, message: Message) -> None:
        blocked = (message.sender, message.receiver) in self.cluster.blocked
        self.trace.append(show(message) + (" (cut)" if blocked else ""))

    # Commands

    def do_add_nodes(self, count: str, learners: str = "", others: str = "", message_bytes: str = "64", in_flight: str = "4") -> None:
        limits = CoreLimits(int(message_bytes), int(in_flight), LIMITS.max_in_flight_bytes, LIMITS.max_message_entries)
        self.cluster = Cluster(range(1, int(count) + 1), numbers(learners), numbers(others), limits)
        self.cluster.on_sent = self.note_sent

    def do_campaign(self, replica: str, how: str = "") -> None:
        self.cluster.campaign(int(replica), transfer=how == "transfer")

    def do_propose(self, replica: str, *payloads: str) -> None:
        if not self.cluster.propose(int(replica), *(payload.encode() for payload in payloads)):
            self.trace.append("not the leader, or handing over")

    def do_propose_size(self, replica: str, size: str) -> None:
        self.do_propose(replica, "x" * int(size))

    def do_reconfigure(self, replica: str, voters: str, learners: str = "") -> None:
        self.act(replica, lambda core: core.propose_configuration(numbers(voters), numbers(learners)))

    def select(self, words: tuple[str, ...], n: str) -> list[Message]:
        found = self.cluster.network
        for word in words:
            if "->" in word:
                sender, receiver = word.split("->")
                found = [message for message in found if sender in ("*", str(message.sender)) and receiver in ("*", str(message.receiver))]
            elif word != "alive":
                found = [message for message in found if message.type == MessageType[word]]
        return list(found[: int(n)] if n else found)

    def do_deliver(self, *words: str, n: str = "") -> None:
        for message in self.select(words, n):
            self.cluster.network.remove(message)
            self.trace.append(f"> {show(message)}")
            self.cluster.deliver(message, leader_alive="alive" in words)
            self.note_states()

    def do_drop(self, *words: str, n: str = "") -> None:
        for message in self.select(words, n):
            self.cluster.network.remove(message)
            self.trace.append(f"dropped {show(message)}")

    def do_duplicate(self, *words: str, n: str = "") -> None:
        for message in self.select(words, n):
            self.cluster.network.append(message)
            self.trace.append(f"twice {show(message)}")

    def do_reverse(self) -> None:
        self.cluster.network.reverse()

    def do_begin_flush(self, replica: str) -> None:
        self.cluster.begin_flush(int(replica))

    def do_end_flush(self, replica: str) -> None:
        self.cluster.end_flush(int(replica))

    def do_flush(self, *replicas: str) -> None:
        for replica in replicas:
            self.cluster.flush(int(replica))

    def do_stabilize(self) -> None:
        self.cluster.stabilize()

    def do_restart(self, replica: str) -> None:
        self.cluster.restart(int(replica))

    def do_partition(self, *sides: str) -> None:
        self.cluster.partition(*map(numbers, sides))

    def do_heal(self) -> None:
        self.cluster.heal()

    def do_transfer(self, replica: str, target: str) -> None:
        self.act(replica, lambda core: core.transfer_leadership(int(target)))

    def do_abort_transfer(self, replica: str) -> None:
        self.act(replica, lambda core: core.abort_transfer())

    def do_quorum_lost(self, replica: str) -> None:
        self.act(replica, lambda core: core.quorum_lost())

    def do_reset(self, replica: str, peer: str) -> None:
        self.act(replica, lambda core: core.peer_reset(int(peer)))

    def do_retry(self, replica: str, peer: str) -> None:
        self.act(replica, lambda core: core.retry(int(peer)))

    def do_unreachable(self, replica: str, peer: str) -> None:
        self.act(replica, lambda core: core.peer_unreachable(int(peer)))

    def do_heartbeat(self, replica: str, peer: str) -> None:
        self.act(replica, lambda core: core.heartbeat(int(peer)))

    def do_broadcast_commit(self, replica: str) -> None:
        self.act(replica, lambda core: core.broadcast_commit())

    def do_trim(self, replica: str, first_kept: str) -> None:
        self.cluster.trim(int(replica), int(first_kept))
        log = self.cluster.log(int(replica))
        self.trace.append(f"{replica}: log {log.first_index}..{log.last_index}")

    def do_evict(self, replica: str, first_in_memory: str) -> None:
        self.cluster.log(int(replica)).memory_first = int(first_in_memory)

    def do_read(self, replica: str, how: str = "") -> None:
        self.trace.extend(f"{replica}: reads {request.low} for {request.peer}" for request in self.cluster.replicas[int(replica)].reads[:1])
        self.cluster.serve_read(int(replica), ok=how != "fail")

    def do_snapshot(self, how: str = "") -> None:
        for snapshot in self.cluster.snapshots[:1]:
            self.trace.append(f"{snapshot.sender}->{snapshot.receiver} snapshot at {snapshot.term}/{snapshot.at}")
        self.cluster.serve_snapshot(ok=how != "fail")

    def do_status(self) -> None:
        for replica, found in self.cluster.replicas.items():
            self.trace.append(f"{replica}: {show_state(found.core)} flushed={found.log.flushed_index}")
            self.trace.extend(f"  {progress!r}" for progress in found.core.peers)

    def do_log(self, replica: str) -> None:
        log = self.cluster.log(int(replica))
        self.trace.append(f"{replica}: {log.first_index}..{log.last_index} flushed={log.flushed_index} committed={log.committed_index}")
        self.trace.extend(f"  {show_entry(entry)}" for entry in log.entries)

    def do_network(self) -> None:
        self.trace.extend(show(message) for message in self.cluster.network)


def play(text: str) -> str:
    """Run all commands of a scenario's text; the text with the traces as they are now."""
    scenario, result, lines = Scenario(), [], iter(text.splitlines())
    for line in lines:
        if line.startswith("#") or not line.strip():
            result.append(line)
            continue
        result += [line, RULER, *scenario.run(line), ""]
        for old in lines:
            if not old.strip():
                break
    return "\n".join(result).rstrip("\n") + "\n"


def scenarios() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.txt"))
