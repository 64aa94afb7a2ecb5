"""The settings of a topic that Kafka 4 knows, and the broker settings that give their defaults.

Owns: the table. The words of the descriptions are this project's; names, types, defaults and limits are Kafka's, except where `doc` says otherwise.
"""

from __future__ import annotations

from broker.settings.definition import INT_MAX, LONG_MAX, Choices, Range, SettingDefinition, SettingType, Valid

MAX_MESSAGE_BYTES_LIMIT = 16 * 1024 * 1024
"""One entry of the log is at most this large, and a record batch is never divided."""

COMPRESSION_TYPES = ("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")
TIMESTAMP_TYPES = ("CreateTime", "LogAppendTime")

_T = SettingType
_NOT_NEGATIVE = Range(0)


def _topic(
    name: str, kind: SettingType, default: str, doc: str, valid: Valid = None, synonyms: tuple[str, ...] = (), acts: bool = False
) -> SettingDefinition:
    return SettingDefinition(name, kind, default, doc, valid, False, synonyms, acts)


_DEFINITIONS = (
    _topic(
        "cleanup.policy",
        _T.LIST,
        "delete",
        "What happens to old records: 'delete' drops whole segments by age or size, 'compact' keeps the latest record of each key; or both.",
        Choices(("compact", "delete")),
        ("log.cleanup.policy",),
    ),
    _topic("compression.gzip.level", _T.INT, "-1", "Level for gzip when this topic recompresses.", Range(-1, 9), ("compression.gzip.level",)),
    _topic("compression.lz4.level", _T.INT, "9", "Level for lz4 when this topic recompresses.", Range(1, 17), ("compression.lz4.level",)),
    _topic("compression.zstd.level", _T.INT, "3", "Level for zstd when this topic recompresses.", Range(-131072, 22), ("compression.zstd.level",)),
    _topic(
        "compression.type",
        _T.STRING,
        "producer",
        "'producer' stores batches as they were sent; any other value is the codec that stored batches shall have.",
        Choices(COMPRESSION_TYPES),
        ("compression.type",),
        acts=True,
    ),
    _topic(
        "delete.retention.ms",
        _T.LONG,
        "86400000",
        "How long a compacted topic keeps the mark that a key was deleted.",
        _NOT_NEGATIVE,
        ("log.cleaner.delete.retention.ms",),
    ),
    _topic(
        "file.delete.delay.ms",
        _T.LONG,
        "60000",
        "Time between taking a segment out of use and removing its file.",
        _NOT_NEGATIVE,
        ("log.segment.delete.delay.ms",),
    ),
    _topic(
        "flush.messages",
        _T.LONG,
        str(LONG_MAX),
        "In Kafka, records between two fsyncs. Here every acknowledged record is fsynced already, so that it changes nothing.",
        Range(1),
        ("log.flush.interval.messages",),
    ),
    _topic(
        "flush.ms",
        _T.LONG,
        str(LONG_MAX),
        "In Kafka, time between two fsyncs. Here every acknowledged record is fsynced already, so that it changes nothing.",
        _NOT_NEGATIVE,
        ("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
    ),
    _topic(
        "follower.replication.throttled.replicas",
        _T.LIST,
        "",
        "Replicas whose incoming replication is slowed, as partition:broker pairs, or '*' for all.",
    ),
    _topic(
        "index.interval.bytes",
        _T.INT,
        "4096",
        "Bytes of records between two places of the sparse offset index.",
        _NOT_NEGATIVE,
        ("log.index.interval.bytes",),
    ),
    _topic(
        "leader.replication.throttled.replicas",
        _T.LIST,
        "",
        "Replicas whose outgoing replication is slowed, as partition:broker pairs, or '*' for all.",
    ),
    _topic(
        "local.retention.bytes",
        _T.LONG,
        "-2",
        "With tiered storage: bytes kept on local disk; -2 = as retention.bytes.",
        Range(-2),
        ("log.local.retention.bytes",),
    ),
    _topic(
        "local.retention.ms",
        _T.LONG,
        "-2",
        "With tiered storage: time kept on local disk; -2 = as retention.ms.",
        Range(-2),
        ("log.local.retention.ms",),
    ),
    _topic(
        "max.compaction.lag.ms",
        _T.LONG,
        str(LONG_MAX),
        "The longest that a record may stay out of reach of compaction.",
        Range(1),
        ("log.cleaner.max.compaction.lag.ms",),
    ),
    _topic(
        "max.message.bytes",
        _T.INT,
        "1048588",
        "Largest record batch that is accepted, in bytes as sent (after compression). At most 16 MiB here.",
        Range(0, MAX_MESSAGE_BYTES_LIMIT),
        ("message.max.bytes",),
        acts=True,
    ),
    _topic(
        "message.timestamp.after.max.ms",
        _T.LONG,
        "3600000",
        "How far in the future a record's CreateTime may be before the record is refused.",
        _NOT_NEGATIVE,
        ("log.message.timestamp.after.max.ms",),
        acts=True,
    ),
    _topic(
        "message.timestamp.before.max.ms",
        _T.LONG,
        str(LONG_MAX),
        "How far in the past a record's CreateTime may be before the record is refused.",
        _NOT_NEGATIVE,
        ("log.message.timestamp.before.max.ms",),
        acts=True,
    ),
    _topic(
        "message.timestamp.type",
        _T.STRING,
        "CreateTime",
        "Whose clock gives a record its timestamp: the producer's or, at the append, the leader's.",
        Choices(TIMESTAMP_TYPES),
        ("log.message.timestamp.type",),
        acts=True,
    ),
    _topic(
        "min.cleanable.dirty.ratio",
        _T.DOUBLE,
        "0.5",
        "Share of a compacted log that must be uncompacted before the next round begins.",
        Range(0, 1),
        ("log.cleaner.min.cleanable.ratio",),
    ),
    _topic(
        "min.compaction.lag.ms",
        _T.LONG,
        "0",
        "The shortest time that a record stays out of reach of compaction.",
        _NOT_NEGATIVE,
        ("log.cleaner.min.compaction.lag.ms",),
    ),
    _topic(
        "min.insync.replicas",
        _T.INT,
        "1",
        "Replicas in sync that acks=all asks for; it acts above the majority, which is always needed.",
        Range(1),
        ("min.insync.replicas",),
        acts=True,
    ),
    _topic("preallocate", _T.BOOLEAN, "false", "Reserve a new segment's whole size on disk at once.", None, ("log.preallocate",)),
    _topic("remote.log.copy.disable", _T.BOOLEAN, "false", "With tiered storage: copy nothing more to the remote tier."),
    _topic("remote.log.delete.on.disable", _T.BOOLEAN, "false", "With tiered storage: remove the remote data when the tier is switched off."),
    _topic("remote.storage.enable", _T.BOOLEAN, "false", "Switch tiered storage on for this topic."),
    _topic(
        "retention.bytes",
        _T.LONG,
        "-1",
        "Size of a partition above which the oldest segments go; -1 = no limit.",
        Range(-1),
        ("log.retention.bytes",),
    ),
    _topic(
        "retention.ms",
        _T.LONG,
        "604800000",
        "Age after which a segment goes; -1 = never.",
        Range(-1),
        ("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
    ),
    _topic("segment.bytes", _T.INT, "1073741824", "Size at which a new segment begins.", Range(1024 * 1024, INT_MAX), ("log.segment.bytes",)),
    _topic("segment.index.bytes", _T.INT, "10485760", "Largest size of a segment's offset index.", Range(4), ("log.index.size.max.bytes",)),
    _topic(
        "segment.jitter.ms",
        _T.LONG,
        "0",
        "Random part taken off segment.ms, so that partitions do not all roll at once.",
        _NOT_NEGATIVE,
        ("log.roll.jitter.ms", "log.roll.jitter.hours"),
    ),
    _topic(
        "segment.ms",
        _T.LONG,
        "604800000",
        "Age at which a new segment begins even if the old one is small.",
        Range(1),
        ("log.roll.ms", "log.roll.hours"),
    ),
    _topic(
        "unclean.leader.election.enable",
        _T.BOOLEAN,
        "false",
        "In Kafka, lets a replica that lacks acknowledged records lead. Raft never does that; it changes nothing here.",
        None,
        ("unclean.leader.election.enable",),
    ),
)

TOPIC_SETTINGS: dict[str, SettingDefinition] = {definition.name: definition for definition in _DEFINITIONS}
