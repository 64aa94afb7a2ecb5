"""Consume, transform, produce: members of a group copy records in transactions that hold the output and the input's offsets."""

from __future__ import annotations

import threading
import traceback

from tests.integration.programs.clients import AbortableError, Reader, Reading, StuckError, Writer
from tests.integration.programs.journal import Journal, Row, check_exactly_once, next_offsets
from tests.integration.programs.scene import WAIT_SECONDS, Feed, Scene, committed_of, read_all, wait_no_open_transaction

PARTITIONS = 4
ABORT_EVERY = 5


class Copier(threading.Thread):
    """Aborts every fifth transaction on purpose, and does it again."""

    def __init__(self, scene: Scene, reading: Reading, target: str, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._scene, self._reading, self._target = scene, reading, target
        self._ending = threading.Event()
        self.transactional_id = scene.id(name)
        self.copied = 0
        self.aborted = 0
        self.start()

    def run(self) -> None:
        try:
            # Not dense: a rewind after an abort gives records again, on purpose. What counts is the output.
            reader = self._scene.reader(self._reading, Journal(dense=False), self.name)
            writer = self._scene.library.writer(self._scene.bootstrap, self.transactional_id)
            turn = 0
            try:
                while not self._ending.is_set():
                    rows = reader.poll(0.1)
                    if not rows:
                        continue
                    turn += 1
                    try:
                        self._copy(reader, writer, rows, turn % ABORT_EVERY == 0)
                    except AbortableError:
                        writer = self._abort(writer)
                        self.aborted += 1
                        reader.rewind()
                    except StuckError:
                        writer = self._anew(writer)
                        reader.rewind()
            finally:
                reader.close()
                writer.close()
        except BaseException:  # noqa: BLE001 - told as a problem of the scene
            self._scene.problems.append(f"copier {self.name}: {traceback.format_exc(limit=-4)}")

    def _copy(self, reader: Reader, writer: Writer, rows: list[Row], abort: bool) -> None:
        writer.begin()
        writer.send(self._target, [(row.partition, b"copy of " + row.value) for row in rows])
        writer.send_offsets(reader, next_offsets(rows))
        if abort:
            writer.flush()
            raise AbortableError("on purpose")
        writer.commit()
        self.copied += len(rows)
        self._scene.progress += len(rows)

    def _abort(self, writer: Writer) -> Writer:
        try:
            writer.abort()
        except StuckError:
            return self._anew(writer)
        return writer

    def _anew(self, writer: Writer) -> Writer:
        """As after a crash: the new producer ends what the old one left, one way or the other; what is committed then tells which."""
        writer.close()
        while True:
            try:
                return self._scene.library.writer(self._scene.bootstrap, self.transactional_id)
            except StuckError:
                continue

    def stop(self) -> None:
        self._ending.set()
        self.join(WAIT_SECONDS)
        if self.is_alive():
            self._scene.problems.append(f"copier {self.name} does not end")


def exactly_once(scene: Scene) -> None:
    source, target, group = scene.topic("source", PARTITIONS), scene.topic("target", PARTITIONS), scene.id("group")
    reading = Reading(source, group, read_committed=True)
    feed = Feed(scene, source, PARTITIONS)
    one = Copier(scene, reading, target, "one")
    several = scene.library.traits.generation_in_transactions
    running = [one]
    scene.wait("the first copies", lambda: one.copied >= 60 or scene.problems)
    if several:
        running.append(Copier(scene, reading, target, "two"))
        scene.wait("copies of the second member", lambda: running[1].copied >= 20 or scene.problems)
    scene.middle()
    before = scene.progress
    scene.wait("more copies", lambda: scene.progress >= before + 60 or scene.problems)
    # Without a generation in the transaction one member may copy at a time: the next comes when the one before has gone.
    one.stop()
    running.append(Copier(scene, reading, target, "three"))
    scene.wait("copies of the newcomer", lambda: running[-1].copied >= 20 or scene.problems)
    scene.wait_back()
    produced = feed.stop()
    scene.wait("all copies", lambda: committed_of(scene, group, source, PARTITIONS) == produced or scene.problems)
    for copier in running[1:]:
        copier.stop()
    if not sum(copier.aborted for copier in running):
        scene.problems.append("no transaction was aborted")
    wait_no_open_transaction(scene, target, PARTITIONS)
    wanted = {partition: [b"copy of " + Feed.value(partition, offset) for offset in range(count)] for partition, count in produced.items()}
    scene.problems += check_exactly_once(read_all(scene, target, PARTITIONS), wanted)
