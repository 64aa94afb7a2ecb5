from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NONE: _ClassVar[SnapshotError]
    TIMEOUT: _ClassVar[SnapshotError]
    DISK_FULL: _ClassVar[SnapshotError]
    OUT_OF_ORDER: _ClassVar[SnapshotError]
    TOO_LARGE: _ClassVar[SnapshotError]
    DAMAGED: _ClassVar[SnapshotError]
    REFUSED: _ClassVar[SnapshotError]
    FAILED: _ClassVar[SnapshotError]
NONE: SnapshotError
TIMEOUT: SnapshotError
DISK_FULL: SnapshotError
OUT_OF_ORDER: SnapshotError
TOO_LARGE: SnapshotError
DAMAGED: SnapshotError
REFUSED: SnapshotError
FAILED: SnapshotError

class RaftBatch(_message.Message):
    __slots__ = ("cluster_id", "sender", "incarnation", "beat", "headers_crc", "messages", "entries", "news", "echo", "payload")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    HEADERS_CRC_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    sender: int
    incarnation: int
    beat: int
    headers_crc: int
    messages: bytes
    entries: bytes
    news: bytes
    echo: int
    payload: bytes
    def __init__(self, cluster_id: _Optional[bytes] = ..., sender: _Optional[int] = ..., incarnation: _Optional[int] = ..., beat: _Optional[int] = ..., headers_crc: _Optional[int] = ..., messages: _Optional[bytes] = ..., entries: _Optional[bytes] = ..., news: _Optional[bytes] = ..., echo: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "node_id", "incarnation", "index", "term", "total_size", "position", "crc", "data")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CRC_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    node_id: int
    incarnation: int
    index: int
    term: int
    total_size: int
    position: int
    crc: int
    data: bytes
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., node_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., index: _Optional[int] = ..., term: _Optional[int] = ..., total_size: _Optional[int] = ..., position: _Optional[int] = ..., crc: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class InstallSnapshotResponse(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "node_id", "incarnation", "installed", "position", "error", "error_text")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_TEXT_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    node_id: int
    incarnation: int
    installed: bool
    position: int
    error: SnapshotError
    error_text: str
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., node_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., installed: _Optional[bool] = ..., position: _Optional[int] = ..., error: _Optional[_Union[SnapshotError, str]] = ..., error_text: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("node_id", "cluster_id", "topic_id", "partition", "incarnation", "term")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    term: int
    def __init__(self, node_id: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("node_id", "term", "leader_id", "commit_index", "role", "last_index", "applied_index", "cluster_id", "topic_id", "partition", "incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    term: int
    leader_id: int
    commit_index: int
    role: str
    last_index: int
    applied_index: int
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    def __init__(self, node_id: _Optional[int] = ..., term: _Optional[int] = ..., leader_id: _Optional[int] = ..., commit_index: _Optional[int] = ..., role: _Optional[str] = ..., last_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class RequestVoteRequest(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "sender", "receiver", "term", "last_index", "last_term", "pre_vote", "transfer")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    sender: int
    receiver: int
    term: int
    last_index: int
    last_term: int
    pre_vote: bool
    transfer: bool
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., sender: _Optional[int] = ..., receiver: _Optional[int] = ..., term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., pre_vote: _Optional[bool] = ..., transfer: _Optional[bool] = ...) -> None: ...

class RequestVoteResponse(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "sender", "term", "granted")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    sender: int
    term: int
    granted: bool
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., sender: _Optional[int] = ..., term: _Optional[int] = ..., granted: _Optional[bool] = ...) -> None: ...

class EntryRecord(_message.Message):
    __slots__ = ("kind", "term", "index", "base_offset", "record_count", "payload_crc", "payload")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BASE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_CRC_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    kind: int
    term: int
    index: int
    base_offset: int
    record_count: int
    payload_crc: int
    payload: bytes
    def __init__(self, kind: _Optional[int] = ..., term: _Optional[int] = ..., index: _Optional[int] = ..., base_offset: _Optional[int] = ..., record_count: _Optional[int] = ..., payload_crc: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class AppendEntriesRequest(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "sender", "receiver", "term", "previous_index", "previous_term", "commit", "entries")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    sender: int
    receiver: int
    term: int
    previous_index: int
    previous_term: int
    commit: int
    entries: _containers.RepeatedCompositeFieldContainer[EntryRecord]
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., sender: _Optional[int] = ..., receiver: _Optional[int] = ..., term: _Optional[int] = ..., previous_index: _Optional[int] = ..., previous_term: _Optional[int] = ..., commit: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[EntryRecord, _Mapping]]] = ...) -> None: ...

class AppendEntriesResponse(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "sender", "term", "success", "match_index", "hint_index", "hint_term")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_TERM_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    sender: int
    term: int
    success: bool
    match_index: int
    hint_index: int
    hint_term: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., sender: _Optional[int] = ..., term: _Optional[int] = ..., success: _Optional[bool] = ..., match_index: _Optional[int] = ..., hint_index: _Optional[int] = ..., hint_term: _Optional[int] = ...) -> None: ...

class ReadIndexRequest(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "node_id")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    node_id: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., node_id: _Optional[int] = ...) -> None: ...

class ReadIndexResponse(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "node_id", "term", "index")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    node_id: int
    term: int
    index: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., node_id: _Optional[int] = ..., term: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class TransferLeaderRequest(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "node_id", "target_node_id")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    node_id: int
    target_node_id: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., node_id: _Optional[int] = ..., target_node_id: _Optional[int] = ...) -> None: ...

class TransferLeaderResponse(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "node_id", "accepted", "error_text")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    ERROR_TEXT_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    node_id: int
    accepted: bool
    error_text: str
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., node_id: _Optional[int] = ..., accepted: _Optional[bool] = ..., error_text: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "node_id", "address", "rack")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RACK_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    node_id: int
    address: str
    rack: str
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., node_id: _Optional[int] = ..., address: _Optional[str] = ..., rack: _Optional[str] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("cluster_id", "topic_id", "partition", "incarnation", "node_id", "accepted", "leader_id", "leader_address", "error_text")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_TEXT_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    topic_id: bytes
    partition: int
    incarnation: int
    node_id: int
    accepted: bool
    leader_id: int
    leader_address: str
    error_text: str
    def __init__(self, cluster_id: _Optional[bytes] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., incarnation: _Optional[int] = ..., node_id: _Optional[int] = ..., accepted: _Optional[bool] = ..., leader_id: _Optional[int] = ..., leader_address: _Optional[str] = ..., error_text: _Optional[str] = ...) -> None: ...
