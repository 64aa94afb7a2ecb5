"""All programs and all libraries; which coordinators' topics a program depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.integration.programs.clients import Library
from tests.integration.programs.exactly_once import exactly_once
from tests.integration.programs.manual_commit import manual_commit
from tests.integration.programs.membership import come_and_go, cooperative
from tests.integration.programs.read_committed import read_committed
from tests.integration.programs.scene import Program
from tests.integration.programs.seek_by_time import seek_by_time
from tests.integration.programs.static_members import static_members
from tests.integration.programs.with_aiokafka import AioKafka
from tests.integration.programs.with_confluent import ConfluentKafka
from tests.integration.programs.with_kafka_python import KafkaPython

GROUPS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
LIBRARIES: Sequence[Library] = (ConfluentKafka(), KafkaPython(), AioKafka())


class Act(NamedTuple):
    program: Program
    coordinators: tuple[str, ...]


REPERTOIRE = {
    "come-and-go": Act(come_and_go, (GROUPS,)),
    "cooperative": Act(cooperative, (GROUPS,)),
    "static": Act(static_members, (GROUPS,)),
    "manual-commit": Act(manual_commit, (GROUPS,)),
    "seek-by-time": Act(seek_by_time, (GROUPS,)),
    "exactly-once": Act(exactly_once, (TRANSACTIONS, GROUPS)),
    "read-committed": Act(read_committed, (TRANSACTIONS,)),
}


def libraries_of(act: str) -> list[Library]:
    return [library for library in LIBRARIES if act not in library.lacks]
