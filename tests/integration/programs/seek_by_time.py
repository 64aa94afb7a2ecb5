"""Positions by time: the first record that is not older than a moment, on every partition, and from there on all that follow."""

from __future__ import annotations

from tests.integration.programs.clients import Reader, Reading
from tests.integration.programs.journal import Journal, Row
from tests.integration.programs.scene import FIRST_TIMESTAMP_MS, Feed, Scene, committed_of

PARTITIONS = 3
RECORDS = 60


def seek_by_time(scene: Scene) -> None:
    journal = Journal()
    topic, group = scene.topic("records", PARTITIONS), scene.id("group")
    feed = Feed(scene, topic, PARTITIONS, pause=0.001, at_least=RECORDS)
    produced = feed.stop()
    reader = scene.reader(Reading(topic, group), journal, "reader")
    join(scene, journal, reader)
    look(scene, journal, reader, produced, FIRST_TIMESTAMP_MS + 1000 * 20, 20)
    scene.middle()
    look(scene, journal, reader, produced, FIRST_TIMESTAMP_MS + 1000 * 41 - 1, 41)
    scene.progress += 1
    if not reader.commit(dict.fromkeys(range(PARTITIONS), 45)):
        scene.problems.append("the commit after seeking was refused")
    scene.wait_back()
    look(scene, journal, reader, produced, 0, 0)
    beyond = reader.offsets_for_time(Feed.timestamp(max(produced.values()) + 5))
    if any(offset is not None for offset in beyond.values()):
        scene.problems.append(f"nothing is so young, but {beyond} was answered")
    if not reader.commit(dict.fromkeys(range(PARTITIONS), 30)):
        scene.problems.append("the commit at the end was refused")
    reader.close()
    if committed_of(scene, group, topic, PARTITIONS) != dict.fromkeys(range(PARTITIONS), 30):
        scene.problems.append(f"committed is {committed_of(scene, group, topic, PARTITIONS)}")
    heir = scene.reader(Reading(topic, group), journal, "heir")
    rows: list[Row] = []
    scene.wait("all that follows", lambda: rows.extend(heir.poll(0.2)) or len(rows) >= sum(produced.values()) - 30 * PARTITIONS)
    heir.close()
    if {row.offset for row in rows if row.partition == 0} != set(range(30, produced[0])):
        scene.problems.append("the successor did not begin where the commit was")
    journal.check_complete(produced, Feed.value)
    scene.problems += [problem for problem in journal.problems if not problem.startswith("heir") or "twice" not in problem]


def join(scene: Scene, journal: Journal, reader: Reader) -> None:
    scene.wait("the assignment", lambda: reader.poll(0.1) or len(journal.owned().get("reader", ())) == PARTITIONS)


def look(scene: Scene, journal: Journal, reader: Reader, produced: dict[int, int], timestamp_ms: int, expected: int) -> None:
    """Ask, go there, and read all that follows."""
    answer = reader.offsets_for_time(timestamp_ms)
    if answer != dict.fromkeys(range(PARTITIONS), expected):
        scene.problems.append(f"the first records since {timestamp_ms} are at {answer}, not {expected}")
    for partition, offset in answer.items():
        if offset is not None:
            reader.seek(partition, offset)
    rows: list[Row] = []
    wanted = sum(count - expected for count in produced.values())
    scene.wait(f"{wanted} records since then", lambda: rows.extend(reader.poll(0.2)) or len(rows) >= wanted)
    for partition in range(PARTITIONS):
        found = [(row.offset, row.timestamp_ms) for row in rows if row.partition == partition]
        if found != [(offset, Feed.timestamp(offset)) for offset in range(expected, produced[partition])]:
            scene.problems.append(f"partition {partition} since {timestamp_ms}: {found[:3]} …, {len(found)} records")
