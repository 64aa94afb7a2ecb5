import pytest

from tests.unit.wal.helpers import add, new_store, settle
from wal import inspect


@pytest.fixture(scope="module")
def written():
    fs, store, log = new_store()
    for _ in range(14):
        add(log, 10, 600)
        settle(store)
        log.advance_commit(log.flushed_index - 2)
        settle(store)
    store.note_idle()
    settle(store)
    return fs


def test_dump_and_stats(written):
    rows = list(inspect.dump("/d/wal", written))
    entries = [row for row in rows if row.kind == "data"]
    assert [row.index for row in entries] == list(range(1, len(entries) + 1)) and all(row.checksum == "ok" for row in rows)
    stats = inspect.stats("/d", written)
    assert stats.entries == len(entries) and stats.records == 2 * len(entries) and stats.entry_sizes == {"<= 1024": len(entries)}
    assert stats.partitions[0].topic == "topic" and stats.partitions[0].first_index == 1 and stats.partitions[0].next_offset == 2 * len(entries)
    journal = list(inspect.dump("/d/journal", written))
    assert {"data"} <= {row.kind for row in journal} and all(row.flush for row in journal)
    assert list(inspect.dump(rows[0].segment, written)) == [row for row in rows if row.segment == rows[0].segment]


def test_verify_whole_and_progress(written):
    seen = []
    report = inspect.verify("/d", lambda done, total: seen.append((done, total)), written)
    assert report.problems == [] and report.frames > 60 and seen[-1][0] == seen[-1][1] == report.bytes


def test_verify_names_file_position_and_reason(written):
    fs = written.clone()
    row = [row for row in inspect.dump("/d/wal", fs) if row.kind == "data"][4]
    fs.flip_bit(row.segment, row.position + 80)
    (problem,) = inspect.verify("/d", None, fs).problems
    assert (problem.file, problem.position, problem.torn_tail) == (row.segment, row.position, False)
    assert "checksum of the payload" in problem.reason
    assert [row.checksum for row in inspect.dump("/d/wal", fs) if row.checksum != "ok"] == ["checksum of the payload is wrong"]


def test_verify_tells_a_torn_tail_from_damage(written):
    fs = written.clone()
    rows = list(inspect.dump("/d/journal", fs))
    last = max(rows, key=lambda row: row.flush)
    fs.flip_bit(last.segment, last.position + 70)
    assert any(not problem.torn_tail for problem in inspect.verify("/d", None, fs).problems), "a seal follows"
    fs = written.clone()
    data = fs.open(last.segment).pread(1 << 20, 0)
    seal = max(at for at in range(0, len(data), 4096) if data[at : at + 8] == b"CHRNJRNL" and data[at + 10] == 2)
    file = fs.open(last.segment, write=True)
    file.pwrite(bytes(4096), seal)
    file.fdatasync()
    fs.flip_bit(last.segment, last.position + 70)
    problems = inspect.verify("/d", None, fs).problems
    assert problems and all(problem.torn_tail for problem in problems)


def test_verify_every_kind_of_file(written):
    fs = written.clone()
    for path in fs.paths():
        name = path.rpartition("/")[2]
        if name.startswith("checkpoint_") or name.endswith(".idx"):
            trial = fs.clone()
            trial.flip_bit(path, 33)
            problems = inspect.verify("/d", None, trial).problems
            assert any(problem.file == path and problem.torn_tail == name.endswith(".idx") for problem in problems), path
