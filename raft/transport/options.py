"""Settings of the transport, the channel arguments made of them, and the names both sides must agree on.

Owns no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from raft.api import Lane
from wal.entry import Buffer

MESSAGE_SIZE_MAX_BYTES = 33 << 20
"""What grpc lets through: an entry of 16 MiB that travels alone, with room. How large an ordinary message may grow is the driver's decision."""

EXCHANGE_METHOD = "/chronik.raft.RaftService/Exchange"
SNAPSHOT_METHOD = "/chronik.raft.RaftService/InstallSnapshot"
CALL_METHOD = "/chronik.cluster.ClusterService/Call"

KEY_CLUSTER = "chronik-cluster-id-bin"
KEY_SENDER = "chronik-sender"
KEY_TARGET = "chronik-target"
KEY_INCARNATION = "chronik-incarnation"
KEY_LANE = "chronik-lane"


class TransportError(Exception):
    """The transport can not be started as configured. The text says what to change."""


class RemoteError(Exception):
    """A call was received and answered with an error: the method's own code, or one of the *_CODE constants."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class UnreachableError(Exception):
    """A call got no answer. `unknown`: it may have been executed all the same, so nobody may be told that it failed."""

    def __init__(self, text: str, unknown: bool) -> None:
        super().__init__(text)
        self.unknown = unknown


FAILED_CODE = -1
UNKNOWN_METHOD_CODE = 35
WRONG_CLUSTER_CODE = 104
TOO_LARGE_CODE = 10
BUSY_CODE = 7


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Times in ms, sizes in bytes. `listen` is host:port; port 0 takes a free one. Credentials None: plain text."""

    listen: str = "0.0.0.0:9093"
    connect_timeout_ms: int = 2000
    request_timeout_ms: int = 10_000
    snapshot_timeout_ms: int = 60_000  # without a chunk moving, and for the receiver's last fsync
    snapshot_chunk_bytes: int = 1 << 20
    snapshot_size_bytes_max: int = 64 << 30
    keepalive_time_ms: int = 5000
    keepalive_timeout_ms: int = 5000
    backoff_min_ms: int = 50
    backoff_max_ms: int = 1000
    data_queue_bytes: int = 64 << 20
    control_queue_bytes: int = 8 << 20
    channel_credentials: grpc.ChannelCredentials | None = None
    server_credentials: grpc.ServerCredentials | None = None

    def queue_bytes(self, lane: Lane) -> int:
        return self.data_queue_bytes if lane is Lane.DATA else self.control_queue_bytes


class Identity:
    """Who we are. `cluster_id` is empty until the node has created or joined a cluster; only then are peers dialled and their sessions accepted."""

    __slots__ = ("cluster_id", "incarnation", "node_id")

    def __init__(self, cluster_id: bytes, node_id: int, incarnation: int) -> None:
        self.cluster_id = cluster_id
        self.node_id = node_id
        self.incarnation = incarnation


def split_address(address: str) -> tuple[str, int]:
    """host and port of "host:port" or "[v6]:port". TransportError when it is neither."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise TransportError(f"{address!r} is no address; write host:port, for example node1:9093")
    return host.strip("[]"), int(port)


def channel_options(config: NetworkConfig) -> list[tuple[str, Any]]:
    """Arguments of every channel. A local subchannel pool makes each one a TCP connection of its own: full data lanes do not hold up control."""
    return [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", config.backoff_min_ms),
        ("grpc.min_reconnect_backoff_ms", config.connect_timeout_ms),
        ("grpc.max_reconnect_backoff_ms", config.backoff_max_ms),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        *_common_options(config),
    ]


def server_options(config: NetworkConfig) -> list[tuple[str, Any]]:
    """Arguments of the server. Without SO_REUSEPORT a second process on the port is refused instead of sharing the connections at random."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 2048),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 100),
        *_common_options(config),
    ]


def _common_options(config: NetworkConfig) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", MESSAGE_SIZE_MAX_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_SIZE_MAX_BYTES),
        ("grpc.keepalive_time_ms", config.keepalive_time_ms),
        ("grpc.keepalive_timeout_ms", config.keepalive_timeout_ms),
        ("grpc.http2.ping_timeout_ms", config.keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def make_channel(address: str, config: NetworkConfig) -> grpc.aio.Channel:
    """A channel to `address`; it connects when it is first used. Needs a running loop."""
    options = channel_options(config)
    if config.channel_credentials is not None:
        return grpc.aio.secure_channel(address, config.channel_credentials, options=options)
    return grpc.aio.insecure_channel(address, options=options)


def same_bytes(data: bytes) -> bytes:
    """The (de)serializer of what is bytes already."""
    return data


def join_parts(parts: Sequence[Buffer]) -> bytes:
    """The one copy of a message that is sent."""
    return parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)
