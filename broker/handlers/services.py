"""What every handler is given, and the few questions that several of them ask."""

from __future__ import annotations

from broker.api import Broker
from broker.errors import ErrorCode
from broker.handlers.fetch_session import FetchSessionCache
from broker.metadata.image import BrokerImage, TopicImage
from broker.network.dispatcher import Dispatcher
from broker.network.request import Request
from broker.network.timer_wheel import TimerWheel
from broker.protocol.produce import Endpoint, LeaderHint, TopicKey
from wal.entry import META_TOPIC, GroupId

ZERO_ID = bytes(16)


class Services:
    """The broker and what handlers share: the registry (for ApiVersions), one timer wheel, the fetch sessions."""

    __slots__ = ("broker", "dispatcher", "sessions", "wheel")

    def __init__(self, broker: Broker, dispatcher: Dispatcher, wheel: TimerWheel, sessions: FetchSessionCache) -> None:
        self.broker = broker
        self.dispatcher = dispatcher
        self.wheel = wheel
        self.sessions = sessions

    def topic(self, key: TopicKey) -> TopicImage | None:
        """The topic of a name or an id; never the metadata log itself."""
        image = self.broker.image
        found = image.topics.get(key) if isinstance(key, str) else image.topics_by_id.get(key)
        return found if found is None or found.name != META_TOPIC else None

    def not_here(self, key: TopicKey, partition: int) -> tuple[ErrorCode, LeaderHint | None]:
        """Why a partition is not on this node: it is elsewhere (with its leader, if known), or nowhere."""
        topic = self.topic(key)
        if topic is None:
            return (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if isinstance(key, str) else ErrorCode.UNKNOWN_TOPIC_ID), None
        if not 0 <= partition < len(topic.partitions):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None
        return ErrorCode.NOT_LEADER_OR_FOLLOWER, self.leader(topic.partitions[partition].group_id)

    def leader(self, group: GroupId) -> LeaderHint | None:
        leader_id, leader_epoch = self.broker.leaders.leader_of(group)
        return LeaderHint(leader_id, leader_epoch) if leader_id >= 0 else None

    def address(self, broker: BrokerImage, request: Request) -> tuple[str, int]:
        """Where clients reach `broker`: as advertised, or else the address that this client has used."""
        connection = request.connection
        return broker.host or client_side_host(connection.local_host), broker.port or connection.local_port

    def endpoints(self, leaders: set[int], request: Request) -> list[Endpoint]:
        """Addresses of the brokers `leaders`, as far as they are registered."""
        brokers = self.broker.image.brokers
        known = [brokers[node_id] for node_id in sorted(leaders) if node_id in brokers]
        return [Endpoint(one.node_id, *self.address(one, request), one.rack) for one in known]


def client_side_host(host: str) -> str:
    """The local address of a connection in the form in which a client can use it."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host
