from random import Random

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from wal.entry import Entry
from wal.errors import InvariantError
from wal.frame import COPY_FLAG, Control, Copy, FrameKind, check_payload, unpack_header
from wal.memory_filesystem import MemoryFileSystem
from wal.region import RegionWriter
from wal.settings import BLOCK_BYTES


@given(st.lists(st.integers(0, 9000), max_size=8), st.sampled_from([4096, 8192, 65536]))
def test_frames_are_what_was_put_whatever_the_buffer(sizes, buffer_bytes):
    fs = MemoryFileSystem(Random(1))
    fs.mkdir("/d")
    file = fs.open("/d/f", write=True, create=True, direct=True)
    writer = RegionWriter(buffer_bytes)
    writer.begin(file, BLOCK_BYTES)
    items = []
    for at, size in enumerate(sizes):
        payload = Random(at).randbytes(size)
        entry = Entry(1, at + 1, 1, [payload[: size // 2], memoryview(payload)[size // 2 :]], size, crc32c(payload), at, 1)
        items.append([entry, Copy(entry), Control(FrameKind.QUARANTINED, 1, 2, 3, payload)][at % 3])
    writer.put(b"h" * 64)
    writer.put_frames(bytes(16), 5, 9, items)
    end = writer.finish()
    data = file.pread(1 << 20, 0)
    assert end == len(data) and end % BLOCK_BYTES == 0
    position = BLOCK_BYTES + 64
    for at, size in enumerate(sizes):
        header = unpack_header(data, position, end - position)
        check_payload(header, data[position + 64 : position + header.length])
        assert (header.generation, header.partition, header.payload_bytes) == (9, 5, size)
        assert data[position + 64 : position + header.length] == Random(at).randbytes(size)
        assert bool(header.flags & COPY_FLAG) == (at % 3 == 1)
        position += header.length
    assert not any(data[position:])


def test_size_must_be_that_of_the_chunks():
    fs = MemoryFileSystem(Random(1))
    fs.mkdir("/d")
    writer = RegionWriter(8192)
    writer.begin(fs.open("/d/f", write=True, create=True), 0)
    with pytest.raises(InvariantError):
        writer.put_frames(bytes(16), 0, 0, [Entry(1, 1, 1, [b"abc"], 4, 0)])
    with pytest.raises(InvariantError):
        writer.begin(fs.open("/d/f", write=True), 100)
