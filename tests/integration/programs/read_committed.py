"""Transactions over several partitions, every third aborted: readers of committed records see whole ones, in order, and no aborted one."""

from __future__ import annotations

from tests.integration.programs.clients import AbortableError, Reading, StuckError
from tests.integration.programs.journal import Journal, check_exactly_once
from tests.integration.programs.scene import Members, Scene, read_all, wait_no_open_transaction

PARTITIONS = 3
HIT, LAST = 9, 24
"""The transaction in whose midst the coordinator dies, and the one before which it is back."""


def read_committed(scene: Scene) -> None:
    journal = Journal(dense=False)
    topic, group = scene.topic("records", PARTITIONS), scene.id("group")
    members = Members(scene, Reading(topic, group, read_committed=True), journal, PARTITIONS)
    for name in ("a", "b"):
        members.start(name)
    transactional_id = scene.id("writer")
    writer = scene.library.writer(scene.bootstrap, transactional_id)
    committed: list[int] = []
    aborted: list[int] = []
    unknown: list[int] = []

    def transact(number: int, hit: bool = False) -> None:
        nonlocal writer
        try:
            attempt(number, hit)
        except StuckError:
            unknown.append(number)
            writer.close()
            writer = scene.library.writer(scene.bootstrap, transactional_id)
        scene.progress += 1

    def attempt(number: int, hit: bool) -> None:
        writer.begin()
        try:
            writer.send(topic, [(partition, b"%d" % number) for partition in range(PARTITIONS)])
            writer.flush()
            if hit:
                scene.middle()
            if number % 3 == 2:
                raise AbortableError("on purpose")
            writer.commit()
            committed.append(number)
        except AbortableError:
            writer.abort()
            aborted.append(number)

    for number in range(HIT):
        transact(number)
    transact(HIT, hit=True)  # open when the coordinator dies, then committed
    for number in range(HIT + 1, LAST):
        transact(number)
    scene.wait_back()
    for number in range(LAST, LAST + 5):
        transact(number)
    writer.close()
    if HIT not in committed and not scene.killing:
        scene.problems.append("a transaction was aborted that nobody aborted")
    wait_no_open_transaction(scene, topic, PARTITIONS)
    seen = read_all(scene, topic, PARTITIONS)
    # What a producer never told is there whole, or not at all.
    committed = sorted(committed + [number for number in unknown if b"%d" % number in seen[0]])
    wanted = [b"%d" % number for number in committed]
    scene.problems += check_exactly_once(seen, dict.fromkeys(range(PARTITIONS), wanted))
    scene.wait("all committed records for the members", lambda: len(journal.given) >= PARTITIONS * len(wanted) or journal.problems)
    members.stop()
    given = {partition: [value for (where, _), value in sorted(journal.given.items()) if where == partition] for partition in range(PARTITIONS)}
    scene.problems += check_exactly_once(given, dict.fromkeys(range(PARTITIONS), wanted))
    everything = read_all(scene, topic, PARTITIONS, committed=False)
    for partition, values in everything.items():
        if not set(wanted) <= set(values) or not aborted or not {b"%d" % number for number in aborted} & set(values):
            scene.problems.append(f"partition {partition}: readers of everything do not see everything")
    scene.problems += journal.problems
