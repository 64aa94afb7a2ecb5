"""Commits by hand: after every few records, of single partitions, and a successor that begins exactly where the last acknowledged commit was."""

from __future__ import annotations

from tests.integration.programs.clients import Reader, Reading
from tests.integration.programs.journal import Journal, next_offsets
from tests.integration.programs.scene import Feed, Scene, Watcher, committed_of

PARTITIONS = 2


def manual_commit(scene: Scene) -> None:
    journal = Journal()
    topic, group = scene.topic("records", PARTITIONS), scene.id("group")
    feed = Feed(scene, topic, PARTITIONS)
    watcher = Watcher(scene, group, topic, PARTITIONS, journal)
    reading = Reading(topic, group)
    first = scene.reader(reading, journal, "first")
    work(scene, journal, first, 30)
    scene.middle()
    work(scene, journal, first, 30)
    lazy(scene, first)
    first.close()  # what it was given last, it did not commit
    acked = journal.acked()
    second = scene.reader(reading, journal, "second")
    work(scene, journal, second, 5)
    begun = {partition: offset for partition, offset in acked.items() if offset != started(journal, acked, partition)}
    if begun:
        scene.problems.append(f"the successor did not begin at {begun}")
    scene.wait_back()
    produced = feed.stop()
    scene.wait("all records", lambda: turn(scene, second) and journal.acked() == produced)
    if (told := second.committed()) != produced:
        scene.problems.append(f"committed is {told}, not {produced}")
    # Back, on purpose: a commit may be smaller than the one before when the program says so.
    watcher.stop()
    if not second.commit({0: 1}) or second.committed()[0] != 1:
        scene.problems.append(f"a smaller commit of one partition: {second.committed()}")
    second.close()
    if committed_of(scene, group, topic, PARTITIONS) != {**produced, 0: 1}:
        scene.problems.append(f"at the end {committed_of(scene, group, topic, PARTITIONS)} is committed")
    journal.check_complete(produced, Feed.value)
    scene.problems += journal.problems


def turn(scene: Scene, reader: Reader) -> bool:
    """Poll, and commit each partition by itself."""
    rows = reader.poll(0.1)
    for partition, offset in next_offsets(rows).items():
        if not reader.commit({partition: offset}):
            scene.problems.append("a commit of the only member was refused")
    scene.progress += len(rows)
    return True


def work(scene: Scene, journal: Journal, reader: Reader, batches: int) -> None:
    """So many batches; at least one record of each partition."""
    done = 0

    def enough() -> bool:
        nonlocal done
        before = scene.progress
        turn(scene, reader)
        done += scene.progress > before
        return done >= batches

    scene.wait(f"{batches} batches", enough)


def lazy(scene: Scene, reader: Reader) -> None:
    """Records that are taken and not committed."""
    scene.wait("records to forget", lambda: reader.poll(0.2))


def started(journal: Journal, acked: dict[int, int], partition: int) -> int:
    """Where the present owner's run began; what it was, when nothing has come yet."""
    run = journal._owned.get(partition)
    return acked[partition] if run is None or run.first < 0 else run.first
