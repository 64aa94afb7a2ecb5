"""The broker settings that Kafka's tools and this broker use.

Owns: the table. A setting that gives a topic's default acts exactly when the topic's does, which a test keeps true.
"""

from __future__ import annotations

from broker.settings.definition import INT_MAX, LONG_MAX, Choices, Range, SettingDefinition, SettingType, Valid
from broker.settings.topic import COMPRESSION_TYPES, MAX_MESSAGE_BYTES_LIMIT, TIMESTAMP_TYPES

_T = SettingType
_POSITIVE = Range(1)
_NOT_NEGATIVE = Range(0)


def _static(name: str, kind: SettingType, default: str | None, doc: str, valid: Valid = None, acts: bool = False) -> SettingDefinition:
    return SettingDefinition(name, kind, default, doc, valid, True, (), acts)


def _dynamic(name: str, kind: SettingType, default: str | None, doc: str, valid: Valid = None, acts: bool = False) -> SettingDefinition:
    return SettingDefinition(name, kind, default, doc, valid, False, (), acts)


_IDENTITY = (
    _static("broker.id", _T.INT, "-1", "This broker's id; the cluster section's node_id decides it.", Range(-1)),
    _static("node.id", _T.INT, "-1", "The same as broker.id.", Range(-1)),
    _static("broker.rack", _T.STRING, None, "Where this broker stands; replicas of a partition are spread over racks.", acts=True),
    _static(
        "process.roles",
        _T.LIST,
        "broker,controller",
        "What this process is: every node is a broker and may lead the metadata.",
        Choices(("broker", "controller")),
    ),
    _static("cluster.id", _T.STRING, None, "Id of the cluster, made when it was created."),
    _static("listeners", _T.LIST, "PLAINTEXT://:9092", "Addresses that clients connect to; kafka_port decides it."),
    _static("advertised.listeners", _T.LIST, None, "Addresses that clients are told; advertised_host decides it."),
    _static("listener.security.protocol.map", _T.STRING, "PLAINTEXT:PLAINTEXT", "Security protocol of each listener."),
    _static("inter.broker.listener.name", _T.STRING, None, "Listener between brokers; they use the Raft port here."),
    _static("controller.listener.names", _T.LIST, "RAFT", "Listener between controllers; they use the Raft port here."),
    _static("controller.quorum.voters", _T.LIST, "", "Voters of the metadata; seed_nodes and membership decide it."),
    _static("log.dir", _T.STRING, "data", "Directory of the data; data_dir decides it."),
    _static("log.dirs", _T.STRING, None, "The same as log.dir; one directory per node."),
    _static("metadata.log.dir", _T.STRING, None, "Directory of the metadata's log: the data directory."),
    _static("inter.broker.protocol.version", _T.STRING, "4.0-IV3", "Level of Kafka's features, as tools expect to read it."),
)

_NETWORK = (
    _dynamic("num.network.threads", _T.INT, "3", "In Kafka, threads for connections. One loop serves them all here.", _POSITIVE),
    _dynamic("num.io.threads", _T.INT, "8", "In Kafka, threads for requests. One loop serves them all here.", _POSITIVE),
    _dynamic("background.threads", _T.INT, "10", "In Kafka, threads for background work.", _POSITIVE),
    _static(
        "queued.max.requests", _T.INT, "500", "Requests of one connection that may wait for their answer before it is read from no more.", _POSITIVE
    ),
    _static(
        "queued.max.request.bytes",
        _T.LONG,
        "-1",
        "Bytes of requests in work before connections are read from no more; -1 = a limit is derived.",
        Range(-1),
    ),
    _static("socket.send.buffer.bytes", _T.INT, "102400", "Send buffer of a connection's socket; -1 = the system's.", Range(-1)),
    _static("socket.receive.buffer.bytes", _T.INT, "102400", "Receive buffer of a connection's socket; -1 = the system's.", Range(-1)),
    _static("socket.listen.backlog.size", _T.INT, "50", "Connections that may wait to be accepted.", _POSITIVE),
    _static("socket.request.max.bytes", _T.INT, "104857600", "Largest request in bytes; a larger one closes the connection.", _POSITIVE, acts=True),
    _static("request.timeout.ms", _T.INT, "30000", "Longest that a request between nodes may take.", _POSITIVE),
    _dynamic("max.connections", _T.INT, str(INT_MAX), "Connections at one time; further ones are closed at once.", _NOT_NEGATIVE, acts=True),
    _dynamic("max.connections.per.ip", _T.INT, str(INT_MAX), "Connections at one time from one address.", _NOT_NEGATIVE),
    _dynamic("max.connections.per.ip.overrides", _T.STRING, "", "Exceptions from max.connections.per.ip, as address:count, comma separated."),
    _dynamic("max.connection.creation.rate", _T.INT, str(INT_MAX), "New connections per second.", _NOT_NEGATIVE),
    _static("connections.max.idle.ms", _T.LONG, "600000", "A connection without a request for this long is closed.", Range(-1), acts=True),
    _static("connections.max.reauth.ms", _T.LONG, "0", "Longest life of an authenticated session; 0 = no limit.", _NOT_NEGATIVE),
    _static("connection.failed.authentication.delay.ms", _T.INT, "100", "Delay before a failed authentication is answered.", _NOT_NEGATIVE),
)

_TOPICS = (
    _static("auto.create.topics.enable", _T.BOOLEAN, "true", "Create a topic that a client asks for and that does not exist.", acts=True),
    _static("delete.topic.enable", _T.BOOLEAN, "true", "Let topics be deleted.", acts=True),
    _static("num.partitions", _T.INT, "1", "Partitions of a topic that does not say.", _POSITIVE, acts=True),
    _static("default.replication.factor", _T.INT, "1", "Replicas of a topic that does not say.", _POSITIVE, acts=True),
    _static("create.topic.policy.class.name", _T.CLASS, None, "In Kafka, a Java class that may refuse topics."),
    _static("alter.config.policy.class.name", _T.CLASS, None, "In Kafka, a Java class that may refuse settings."),
    _dynamic(
        "unclean.leader.election.enable", _T.BOOLEAN, "false", "Raft never elects a leader that lacks acknowledged records; it changes nothing here."
    ),
    _dynamic("min.insync.replicas", _T.INT, "1", "Default of the topic setting of this name.", _POSITIVE, acts=True),
    _dynamic("compression.type", _T.STRING, "producer", "Default of the topic setting of this name.", Choices(COMPRESSION_TYPES), acts=True),
    _dynamic("compression.gzip.level", _T.INT, "-1", "Default of the topic setting of this name.", Range(-1, 9)),
    _dynamic("compression.lz4.level", _T.INT, "9", "Default of the topic setting of this name.", Range(1, 17)),
    _dynamic("compression.zstd.level", _T.INT, "3", "Default of the topic setting of this name.", Range(-131072, 22)),
    _dynamic(
        "message.max.bytes",
        _T.INT,
        "1048588",
        "Default of max.message.bytes of topics. At most 16 MiB here.",
        Range(0, MAX_MESSAGE_BYTES_LIMIT),
        acts=True,
    ),
)

_LOG = (
    _dynamic("log.cleanup.policy", _T.LIST, "delete", "Default of cleanup.policy of topics.", Choices(("compact", "delete"))),
    _dynamic("log.retention.ms", _T.LONG, None, "Default of retention.ms of topics; unset = log.retention.minutes.", Range(-1)),
    _static("log.retention.minutes", _T.INT, None, "The same in minutes; unset = log.retention.hours.", Range(-1)),
    _static("log.retention.hours", _T.INT, "168", "The same in hours.", Range(-1)),
    _dynamic("log.retention.bytes", _T.LONG, "-1", "Default of retention.bytes of topics.", Range(-1)),
    _static("log.retention.check.interval.ms", _T.LONG, "300000", "Time between two looks for segments that may go.", _POSITIVE),
    _dynamic("log.segment.bytes", _T.INT, "1073741824", "Default of segment.bytes of topics.", Range(1024 * 1024, INT_MAX)),
    _dynamic("log.segment.delete.delay.ms", _T.LONG, "60000", "Default of file.delete.delay.ms of topics.", _NOT_NEGATIVE),
    _dynamic("log.roll.ms", _T.LONG, None, "Default of segment.ms of topics; unset = log.roll.hours.", _POSITIVE),
    _static("log.roll.hours", _T.INT, "168", "The same in hours.", _POSITIVE),
    _dynamic("log.roll.jitter.ms", _T.LONG, None, "Default of segment.jitter.ms of topics; unset = log.roll.jitter.hours.", _NOT_NEGATIVE),
    _static("log.roll.jitter.hours", _T.INT, "0", "The same in hours.", _NOT_NEGATIVE),
    _dynamic("log.index.size.max.bytes", _T.INT, "10485760", "Default of segment.index.bytes of topics.", Range(4)),
    _dynamic("log.index.interval.bytes", _T.INT, "4096", "Default of index.interval.bytes of topics.", _NOT_NEGATIVE),
    _dynamic("log.preallocate", _T.BOOLEAN, "false", "Default of preallocate of topics."),
    _dynamic("log.flush.interval.messages", _T.LONG, str(LONG_MAX), "Every acknowledged record is fsynced; it changes nothing here.", _POSITIVE),
    _dynamic("log.flush.interval.ms", _T.LONG, None, "Every acknowledged record is fsynced; it changes nothing here.", _NOT_NEGATIVE),
    _static(
        "log.flush.scheduler.interval.ms", _T.LONG, str(LONG_MAX), "Every acknowledged record is fsynced; it changes nothing here.", _NOT_NEGATIVE
    ),
    _dynamic(
        "log.message.timestamp.type", _T.STRING, "CreateTime", "Default of message.timestamp.type of topics.", Choices(TIMESTAMP_TYPES), acts=True
    ),
    _dynamic(
        "log.message.timestamp.before.max.ms",
        _T.LONG,
        str(LONG_MAX),
        "Default of message.timestamp.before.max.ms of topics.",
        _NOT_NEGATIVE,
        acts=True,
    ),
    _dynamic(
        "log.message.timestamp.after.max.ms", _T.LONG, "3600000", "Default of message.timestamp.after.max.ms of topics.", _NOT_NEGATIVE, acts=True
    ),
    _dynamic("log.local.retention.bytes", _T.LONG, "-2", "Default of local.retention.bytes of topics.", Range(-2)),
    _dynamic("log.local.retention.ms", _T.LONG, "-2", "Default of local.retention.ms of topics.", Range(-2)),
    _static("log.cleaner.enable", _T.BOOLEAN, "true", "Compact the topics that ask for it."),
    _dynamic("log.cleaner.threads", _T.INT, "1", "Threads for compaction.", _NOT_NEGATIVE),
    _dynamic("log.cleaner.backoff.ms", _T.LONG, "15000", "Pause of compaction when there is nothing to do.", _NOT_NEGATIVE),
    _dynamic("log.cleaner.dedupe.buffer.size", _T.LONG, "134217728", "Memory for the keys of one round of compaction.", _POSITIVE),
    _dynamic("log.cleaner.io.max.bytes.per.second", _T.DOUBLE, "1.7976931348623157E308", "Bytes that compaction may read and write per second."),
    _dynamic("log.cleaner.delete.retention.ms", _T.LONG, "86400000", "Default of delete.retention.ms of topics.", _NOT_NEGATIVE),
    _dynamic("log.cleaner.min.cleanable.ratio", _T.DOUBLE, "0.5", "Default of min.cleanable.dirty.ratio of topics.", Range(0, 1)),
    _dynamic("log.cleaner.min.compaction.lag.ms", _T.LONG, "0", "Default of min.compaction.lag.ms of topics.", _NOT_NEGATIVE),
    _dynamic("log.cleaner.max.compaction.lag.ms", _T.LONG, str(LONG_MAX), "Default of max.compaction.lag.ms of topics.", _POSITIVE),
)

_REPLICATION = (
    _static(
        "replica.lag.time.max.ms",
        _T.LONG,
        "30000",
        "A replica that has not reached the leader's end for this long is not in sync.",
        _POSITIVE,
        acts=True,
    ),
    _static(
        "replica.fetch.max.bytes", _T.INT, "1048576", "In Kafka, bytes that a follower asks for; followers are sent entries here.", _NOT_NEGATIVE
    ),
    _static("replica.fetch.response.max.bytes", _T.INT, "10485760", "In Kafka, bytes of one answer to a follower.", _NOT_NEGATIVE),
    _static("replica.fetch.wait.max.ms", _T.INT, "500", "In Kafka, longest that a follower's fetch waits.", _NOT_NEGATIVE),
    _static("replica.socket.timeout.ms", _T.INT, "30000", "In Kafka, time limit of a follower's requests.", _NOT_NEGATIVE),
    _dynamic("num.replica.fetchers", _T.INT, "1", "In Kafka, threads for replication per peer.", _POSITIVE),
    _dynamic("leader.replication.throttled.rate", _T.LONG, str(LONG_MAX), "Bytes per second that throttled replicas may send.", _NOT_NEGATIVE),
    _dynamic("follower.replication.throttled.rate", _T.LONG, str(LONG_MAX), "Bytes per second that throttled replicas may receive.", _NOT_NEGATIVE),
    _static("auto.leader.rebalance.enable", _T.BOOLEAN, "true", "Give leadership back to the preferred replica when it is in sync again.", acts=True),
    _static("leader.imbalance.check.interval.seconds", _T.LONG, "300", "Time between two looks at who leads.", _POSITIVE),
    _static("controlled.shutdown.enable", _T.BOOLEAN, "true", "Hand leadership over before a stop."),
    _static("controller.quorum.election.timeout.ms", _T.INT, "1000", "Election time-out of the metadata; cluster.raft decides it."),
    _static("controller.quorum.fetch.timeout.ms", _T.INT, "2000", "In Kafka, longest that a controller stays without its leader."),
    _static("broker.heartbeat.interval.ms", _T.INT, "2000", "In Kafka, time between a broker's beats to the controller.", _POSITIVE),
    _static("broker.session.timeout.ms", _T.INT, "9000", "In Kafka, silence after which a broker counts as gone.", _POSITIVE),
)

_FETCH_AND_PRODUCERS = (
    _static("fetch.max.bytes", _T.INT, "57671680", "Largest answer to a fetch, in bytes.", Range(1024), acts=True),
    _static("max.incremental.fetch.session.cache.slots", _T.INT, "1000", "Fetch sessions kept at one time (KIP-227).", _NOT_NEGATIVE, acts=True),
    _static("max.request.partition.size.limit", _T.INT, "2000", "Partitions in one answer of DescribeTopicPartitions.", _POSITIVE, acts=True),
    _dynamic(
        "producer.id.expiration.ms", _T.INT, "86400000", "A producer that has written nothing for this long is forgotten.", _POSITIVE, acts=True
    ),
    _static("producer.id.expiration.check.interval.ms", _T.INT, "600000", "Time between two looks for such producers.", _POSITIVE),
    _static("quota.window.num", _T.INT, "11", "Samples that a quota looks at.", _POSITIVE),
    _static("quota.window.size.seconds", _T.INT, "1", "Length of such a sample.", _POSITIVE),
)

_COORDINATORS = (
    _static("offsets.topic.num.partitions", _T.INT, "50", "Partitions of __consumer_offsets.", _POSITIVE, acts=True),
    _static("offsets.topic.replication.factor", _T.SHORT, "3", "Replicas of __consumer_offsets.", _POSITIVE, acts=True),
    _static("offsets.topic.segment.bytes", _T.INT, "104857600", "Segment size of __consumer_offsets.", _POSITIVE, acts=True),
    _static("offsets.topic.compression.codec", _T.INT, "0", "Compression of __consumer_offsets."),
    _static("offsets.retention.minutes", _T.INT, "10080", "Time after which the offsets of an empty group go.", _POSITIVE, acts=True),
    _static("offsets.retention.check.interval.ms", _T.LONG, "600000", "Time between two looks for such offsets.", _POSITIVE, acts=True),
    _static("offset.metadata.max.bytes", _T.INT, "4096", "Largest text with a committed offset.", acts=True),
    _static("offsets.commit.timeout.ms", _T.INT, "5000", "Longest that a commit may wait for its replicas.", _POSITIVE),
    _static("offsets.load.buffer.size", _T.INT, "5242880", "In Kafka, bytes read at a time while loading offsets.", _POSITIVE),
    _static("group.min.session.timeout.ms", _T.INT, "6000", "Shortest session time-out that a member may ask for.", acts=True),
    _static("group.max.session.timeout.ms", _T.INT, "1800000", "Longest session time-out that a member may ask for.", acts=True),
    _static("group.initial.rebalance.delay.ms", _T.INT, "3000", "How long a new group waits for more members.", acts=True),
    _static("group.max.size", _T.INT, str(INT_MAX), "Members of one group.", _POSITIVE, acts=True),
    _static(
        "group.coordinator.rebalance.protocols",
        _T.LIST,
        "classic,consumer",
        "Group protocols that are served.",
        Choices(("classic", "consumer", "share", "streams")),
    ),
    _static("group.consumer.session.timeout.ms", _T.INT, "45000", "Session time-out of members (KIP-848).", _POSITIVE),
    _static("group.consumer.heartbeat.interval.ms", _T.INT, "5000", "Time between a member's beats (KIP-848).", _POSITIVE),
    _static("group.consumer.max.size", _T.INT, str(INT_MAX), "Members of one group (KIP-848).", _POSITIVE),
    _static("transaction.state.log.num.partitions", _T.INT, "50", "Partitions of __transaction_state.", _POSITIVE, acts=True),
    _static("transaction.state.log.replication.factor", _T.SHORT, "3", "Replicas of __transaction_state.", _POSITIVE, acts=True),
    _static("transaction.state.log.min.isr", _T.INT, "2", "min.insync.replicas of __transaction_state.", _POSITIVE, acts=True),
    _static("transaction.state.log.segment.bytes", _T.INT, "104857600", "Segment size of __transaction_state.", _POSITIVE, acts=True),
    _static("transaction.max.timeout.ms", _T.INT, "900000", "Longest time-out that a transaction may ask for.", _POSITIVE, acts=True),
    _static(
        "transactional.id.expiration.ms", _T.INT, "604800000", "A transactional id that is idle for this long is forgotten.", _POSITIVE, acts=True
    ),
    _dynamic(
        "transaction.partition.verification.enable",
        _T.BOOLEAN,
        "true",
        "Check that a partition was added to a transaction before it takes its records.",
        acts=True,
    ),
)

_SECURITY = (
    _static("authorizer.class.name", _T.STRING, "", "In Kafka, the Java class that authorises."),
    _static("super.users", _T.STRING, "", "Principals that may do everything, separated by semicolons."),
    _static("allow.everyone.if.no.acl.found", _T.BOOLEAN, "false", "Whether a resource without any ACL is open."),
    _static("security.inter.broker.protocol", _T.STRING, "PLAINTEXT", "Security protocol between brokers."),
    _dynamic("sasl.enabled.mechanisms", _T.LIST, "GSSAPI", "SASL mechanisms that are served."),
    _dynamic("ssl.keystore.location", _T.STRING, None, "File with this node's key and certificate."),
    _dynamic("ssl.keystore.password", _T.PASSWORD, None, "Password of that file."),
    _dynamic("ssl.key.password", _T.PASSWORD, None, "Password of the key in it."),
    _dynamic("ssl.truststore.location", _T.STRING, None, "File with the certificates that are trusted."),
    _dynamic("ssl.truststore.password", _T.PASSWORD, None, "Password of that file."),
    _dynamic("ssl.client.auth", _T.STRING, "none", "Whether clients must show a certificate.", Choices(("required", "requested", "none"))),
)

BROKER_SETTINGS: dict[str, SettingDefinition] = {
    definition.name: definition
    for definition in (*_IDENTITY, *_NETWORK, *_TOPICS, *_LOG, *_REPLICATION, *_FETCH_AND_PRODUCERS, *_COORDINATORS, *_SECURITY)
}
