"""Members come and go, with eager or cooperative rebalances, while records flow: every record once, in order, by one owner at a time."""

from __future__ import annotations

from tests.integration.programs.clients import Reading
from tests.integration.programs.journal import Journal
from tests.integration.programs.scene import Feed, Members, Scene, Watcher, committed_of

PARTITIONS = 4


def come_and_go(scene: Scene) -> None:
    play(scene, "range")


def cooperative(scene: Scene) -> None:
    journal = play(scene, "cooperative-sticky")
    # KIP-429: what stays with a member is never taken from it. When the second came, the first gave up two of four.
    first = journal.revoked.get("a", [])
    if any(len(gone) > PARTITIONS // 2 for gone in first[:1]):
        scene.problems.append(f"the first rebalance took {first[0]} from the first member, two would do")


def play(scene: Scene, strategy: str) -> Journal:
    journal = Journal()
    topic, group = scene.topic("records", PARTITIONS), scene.id("group")
    feed = Feed(scene, topic, PARTITIONS)
    watcher = Watcher(scene, group, topic, PARTITIONS, journal)
    members = Members(scene, Reading(topic, group, strategy), journal, PARTITIONS)
    members.start("a")
    members.wait_balanced(4)
    members.start("b")
    members.wait_balanced(2, 2)
    scene.wait("records", lambda: journal.deliveries >= 100)
    scene.middle()
    members.start("c")
    members.wait_balanced(1, 1, 2)
    members.stop("a")
    members.wait_balanced(2, 2)
    scene.wait_back()
    members.start("d")
    members.wait_balanced(1, 1, 2)
    produced = feed.stop()
    scene.wait("all records", lambda: len(journal.given) >= sum(produced.values()))
    members.stop()
    watcher.stop()
    journal.check_complete(produced, Feed.value)
    journal.check_commits(committed_of(scene, group, topic, PARTITIONS))
    if committed_of(scene, group, topic, PARTITIONS) != produced:
        scene.problems.append(f"committed {committed_of(scene, group, topic, PARTITIONS)}, produced {produced}")
    if journal.given_twice and not scene.killing:
        scene.problems.append(f"{journal.given_twice} records were given twice")
    scene.problems += journal.problems
    return journal
