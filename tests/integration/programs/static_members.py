"""Static members (KIP-345): one goes and comes back under its instance id, and nobody else notices; a usurper fences the elder."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient

from tests.integration.programs.clients import Reading
from tests.integration.programs.journal import Journal
from tests.integration.programs.scene import QUIET, Feed, Members, Scene, committed_of

PARTITIONS = 4


def static_members(scene: Scene) -> None:
    journal = Journal()
    topic, group = scene.topic("records", PARTITIONS), scene.id("group")
    feed = Feed(scene, topic, PARTITIONS)
    members = Members(scene, Reading(topic, group), journal, PARTITIONS)
    for name in ("one", "two"):
        members.start(name, instance=name)
    members.wait_balanced(2, 2)
    scene.wait("records", lambda: journal.deliveries >= 100)
    shares, undisturbed = journal.owned(), len(journal.revoked.get("two", []))
    members.stop("one")  # a static member does not say good-bye
    if instances(scene, group) != ["one", "two"]:
        scene.problems.append(f"a static member that stops stays a member; there are {instances(scene, group)}")
    scene.middle()
    seen = journal.deliveries
    scene.wait("records for the member that stayed", lambda: journal.deliveries >= seen + 50)
    members.start("one", instance="one")
    members.wait_balanced(2, 2)
    if journal.owned() != shares:
        scene.problems.append(f"the shares were {shares}, now {journal.owned()}")
    if len(journal.revoked.get("two", [])) != undisturbed:
        scene.problems.append("a static member that came back disturbed the other")
    scene.wait_back()
    elder = members.running("two")
    if not scene.library.traits.fences_members:
        elder.stop()  # or the two would push each other out, again and again
    members.start("usurper", instance="two")
    if scene.library.traits.fences_members:
        scene.wait("the elder of two with one instance id to be fenced", lambda: elder.fenced)
    journal.on_revoked("two", range(PARTITIONS))
    produced = feed.stop()
    scene.wait("all records", lambda: len(journal.given) >= sum(produced.values()))
    members.stop()
    journal.check_complete(produced, Feed.value)
    journal.check_commits(committed_of(scene, group, topic, PARTITIONS))
    # The usurper may be given its share before the elder hears that it is fenced: the broker refuses the elder's commits, it can not stop its hands.
    scene.problems += [problem for problem in journal.problems if "while two owns it" not in problem and not problem.startswith("two is given")]


def instances(scene: Scene, group: str) -> list[str]:
    admin = AdminClient({"bootstrap.servers": scene.bootstrap, **QUIET})
    described = admin.describe_consumer_groups([group], request_timeout=10)[group].result()
    return sorted(str(one.group_instance_id) for one in described.members)
