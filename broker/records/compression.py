"""Compression of record batches: Kafka's five codecs, decompressed with a bound on the result.

A bomb never makes us hold much more than `max_bytes`: gzip and zstd are streamed, snappy announces its size, lz4 is written into a buffer that grows
up to the bound. Snappy comes raw (librdkafka) or in the block framing of Java's snappy library ("xerial"); we write the latter, which every client
reads. lz4 frames are written with independent blocks, because Java's client refuses linked ones (KIP-57).
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from struct import Struct, error

import cramjam
import zstandard

from wal.entry import Buffer


class Codec(IntEnum):
    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


CODEC_NAMES = {"uncompressed": Codec.NONE, "gzip": Codec.GZIP, "snappy": Codec.SNAPPY, "lz4": Codec.LZ4, "zstd": Codec.ZSTD}
"""Values of `compression.type` other than `producer`."""


class CompressionError(ValueError):
    """The bytes are no valid stream of their codec, or hold more than the bound."""


_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + b"\x00\x00\x00\x01\x00\x00\x00\x01"
_XERIAL_BLOCK_BYTES = 32 * 1024
_LZ4_HEADER = b"\x04\x22\x4d\x18\x60\x40\x82"  # version 1, independent blocks of 64 KiB, no checksums; the last byte is the header's own checksum
_LZ4_BLOCK_BYTES = 64 * 1024
_LZ4_UNCOMPRESSED = 0x80000000
_PIECE_BYTES = 256 * 1024
_ZSTD_STEP_BYTES = 512
_MIN_BUFFER_BYTES = 64 * 1024
_BIG = Struct(">i")
_LITTLE = Struct("<I")


def decompress(codec: int, data: Buffer, max_bytes: int) -> Buffer:
    """The records of a batch. Raises CompressionError when `data` is damaged, the codec is unknown, or the result is larger than `max_bytes`."""
    if codec == Codec.NONE:
        return data
    try:
        if codec == Codec.GZIP:
            return _gunzip(data, max_bytes)
        if codec == Codec.SNAPPY:
            return _unsnappy(memoryview(data), max_bytes)
        if codec == Codec.LZ4:
            return _unlz4(data, max_bytes)
        if codec == Codec.ZSTD:
            return _unzstd(data, max_bytes)
    except (zlib.error, cramjam.DecompressionError, zstandard.ZstdError, error) as cause:
        raise CompressionError(f"{Codec(codec).name.lower()} stream is damaged: {cause}") from cause
    raise CompressionError(f"compression codec {codec} is unknown")


def _too_large(max_bytes: int) -> CompressionError:
    return CompressionError(f"batch holds more than {max_bytes} bytes when decompressed")


def _gunzip(data: Buffer, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    total = 0
    rest: Buffer = data
    while rest:
        stream = zlib.decompressobj(wbits=31)
        while not stream.eof:
            piece = stream.decompress(rest, min(_PIECE_BYTES, max_bytes - total + 1))
            if not piece and not stream.unconsumed_tail and not stream.eof:
                raise CompressionError("gzip stream is cut off")
            total += len(piece)
            if total > max_bytes:
                raise _too_large(max_bytes)
            pieces.append(piece)
            rest = stream.unconsumed_tail
        rest = stream.unused_data
    return b"".join(pieces)


def _unsnappy(data: memoryview, max_bytes: int) -> Buffer:
    if bytes(data[:8]) != _XERIAL_MAGIC:
        return _unsnappy_block(data, max_bytes, 0)
    pieces: list[Buffer] = []
    total, position = 0, len(_XERIAL_HEADER)
    while position < len(data):
        (length,) = _BIG.unpack_from(data, position)
        position += 4
        if length < 0 or length > len(data) - position:
            raise CompressionError("snappy block is cut off")
        piece = _unsnappy_block(data[position : position + length], max_bytes, total)
        total += len(piece)
        pieces.append(piece)
        position += length
    return b"".join(pieces)


def _unsnappy_block(block: memoryview, max_bytes: int, before: int) -> bytearray:
    size = cramjam.snappy.decompress_raw_len(block)
    if before + size > max_bytes:
        raise _too_large(max_bytes)
    output = bytearray(size)
    if cramjam.snappy.decompress_raw_into(block, output) != size:
        raise CompressionError("snappy block is shorter than it says")
    return output


def _unlz4(data: Buffer, max_bytes: int) -> memoryview:
    capacity = min(max_bytes, max(_MIN_BUFFER_BYTES, 4 * len(data)))
    while True:
        output = bytearray(capacity)
        try:
            size = cramjam.lz4.decompress_into(data, output)
        except cramjam.DecompressionError as cause:
            if "whole buffer" not in str(cause):
                raise
            if capacity >= max_bytes:
                raise _too_large(max_bytes) from cause
            capacity = min(max_bytes, capacity * 4)
            continue
        except OSError as cause:
            raise CompressionError(f"lz4 stream is damaged: {cause}") from cause
        return memoryview(output)[:size]


def _unzstd(data: Buffer, max_bytes: int) -> bytes:
    """Fed in small pieces: four compressed bytes make at most one block of 128 KiB, so that one step goes at most 16 MiB over the bound."""
    factory = zstandard.ZstdDecompressor(max_window_size=1 << max(20, (max_bytes - 1).bit_length()))
    pieces: list[bytes] = []
    total = 0
    rest: Buffer = data
    while rest:
        stream = factory.decompressobj()
        view = memoryview(rest)
        position = 0
        while not stream.eof:
            if position >= len(view):
                raise CompressionError("zstd stream is cut off")
            piece = stream.decompress(view[position : position + _ZSTD_STEP_BYTES])
            position += _ZSTD_STEP_BYTES
            total += len(piece)
            if total > max_bytes:
                raise _too_large(max_bytes)
            pieces.append(piece)
        rest = b"".join((stream.unused_data, view[position:]))
    return b"".join(pieces)


def compress(codec: int, data: Buffer) -> Buffer:
    """Compress the records of a batch as Kafka's clients expect them."""
    if codec == Codec.NONE:
        return data
    if codec == Codec.GZIP:
        stream = zlib.compressobj(wbits=31)
        return stream.compress(data) + stream.flush()
    if codec == Codec.SNAPPY:
        return _snappy(memoryview(data))
    if codec == Codec.LZ4:
        return _lz4(memoryview(data))
    if codec == Codec.ZSTD:
        return zstandard.ZstdCompressor().compress(data)
    raise CompressionError(f"compression codec {codec} is unknown")


def _snappy(data: memoryview) -> bytes:
    pieces: list[bytes] = [_XERIAL_HEADER]
    for position in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[position : position + _XERIAL_BLOCK_BYTES]))
        pieces += (_BIG.pack(len(block)), block)
    return b"".join(pieces)


def _lz4(data: memoryview) -> bytes:
    pieces: list[Buffer] = [_LZ4_HEADER]
    for position in range(0, len(data), _LZ4_BLOCK_BYTES):
        plain = data[position : position + _LZ4_BLOCK_BYTES]
        block = bytes(cramjam.lz4.compress_block(plain, store_size=False))
        if len(block) < len(plain):
            pieces += (_LITTLE.pack(len(block)), block)
        else:
            pieces += (_LITTLE.pack(len(plain) | _LZ4_UNCOMPRESSED), plain)
    pieces.append(_LITTLE.pack(0))
    return b"".join(pieces)
