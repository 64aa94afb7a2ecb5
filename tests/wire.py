"""Requests to one node, byte by byte: what a node answers, before any client library has retried it away."""

from __future__ import annotations

import socket
import struct
from typing import TypeVar

from broker.protocol._generated import fetch, list_offsets, metadata
from broker.protocol.api_keys import APIS
from broker.protocol.message import Message

EARLIEST = -2

# What librdkafka 2.0.2 and kcat 1.7.1 speak.
METADATA_VERSION, LIST_OFFSETS_VERSION, FETCH_VERSION = 9, 5, 11

Answer = TypeVar("Answer", bound=Message)


class Wire:
    """One connection to 127.0.0.1:`port`; requests one after the other. Use as a context manager."""

    def __init__(self, port: int, seconds: float = 10.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._correlation_id = 0

    def ask(self, request: Message, answer: type[Answer], version: int) -> Answer:
        """OSError when the node closes the connection or does not answer in time."""
        self._correlation_id += 1
        flexible = version >= APIS[request.api_key].first_flexible_version
        frame = struct.pack(">hhihx" if flexible else ">hhih", request.api_key, version, self._correlation_id, -1) + request.encode(version)
        self._socket.sendall(struct.pack(">i", len(frame)) + frame)
        body = self._receive(struct.unpack(">i", self._receive(4))[0])
        assert struct.unpack_from(">i", body)[0] == self._correlation_id
        return answer.decode(body, 5 if flexible else 4, version)[0]

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("the node closed the connection")
            data += piece
        return bytes(data)

    def topic(self, name: str) -> metadata.MetadataResponseTopic:
        """The topic as this node describes it; never creates it."""
        request = metadata.MetadataRequest(topics=[metadata.MetadataRequestTopic(name=name)], allow_auto_topic_creation=False)
        return self.ask(request, metadata.MetadataResponse, METADATA_VERSION).topics[0]

    def earliest(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """(error, offset) of ListOffsets."""
        asked = list_offsets.ListOffsetsPartition(partition_index=partition, timestamp=EARLIEST)
        request = list_offsets.ListOffsetsRequest(replica_id=-1, topics=[list_offsets.ListOffsetsTopic(name=topic, partitions=[asked])])
        found = self.ask(request, list_offsets.ListOffsetsResponse, LIST_OFFSETS_VERSION).topics[0].partitions[0]
        return found.error_code, found.offset

    def fetch(self, topic: str, offset: int = 0, partition: int = 0) -> tuple[int, bytes]:
        """(error, records) of a Fetch that does not wait."""
        asked = fetch.FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=1 << 20)
        request = fetch.FetchRequest(
            max_wait_ms=0, min_bytes=1, max_bytes=1 << 20, session_epoch=-1, topics=[fetch.FetchTopic(topic=topic, partitions=[asked])]
        )
        answer = self.ask(request, fetch.FetchResponse, FETCH_VERSION)
        if answer.error_code:
            return answer.error_code, b""
        found = answer.responses[0].partitions[0]
        return found.error_code, bytes(found.records or b"")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
