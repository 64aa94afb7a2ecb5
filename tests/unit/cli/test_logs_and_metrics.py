"""Log lines as the document's greps expect them, and histograms against a plain count."""

import io
import json
import logging
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import logs
from cli import allocator
from wal.metrics import Histogram


@pytest.fixture
def configured():
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def make(levels="info", style="text", timestamps=False, env=None):
        stream = io.StringIO()
        logs.configure(levels, style, timestamps, stream, env or {})
        return stream

    yield make
    root.handlers[:], level = before
    root.setLevel(level)
    for target in logs.TARGETS:
        logging.getLogger(target).setLevel(logging.NOTSET)


def test_lines_begin_with_the_level(configured):
    stream = configured()
    raft = logs.logger(logs.RAFT)
    raft.info("Became leader for term %d", 5)
    raft.debug("Heartbeat sent to follower 2")
    raft.warning("AppendEntries failed")
    raft.error("Seed node 1@node1:9093 unreachable")
    assert stream.getvalue() == "[INFO] Became leader for term 5\n[WARN] AppendEntries failed\n[ERROR] Seed node 1@node1:9093 unreachable\n"


def test_levels_by_target(configured):
    stream = configured("warn,chronik_raft=trace")
    logs.logger(logs.RAFT).log(logs.TRACE, "a")
    logs.logger(logs.CLUSTER).info("b")
    logging.getLogger("asyncio").info("c")
    assert stream.getvalue() == "[TRACE] a\n"


def test_a_message_can_not_forge_a_line(configured):
    stream = configured()
    logs.logger(logs.SERVER).info("client id %s", "x\n[ERROR] fake")
    assert stream.getvalue() == "[INFO] client id x\\n[ERROR] fake\n"


def test_json_and_timestamps(configured):
    stream = configured(style="json")
    try:
        raise ValueError("x")
    except ValueError:
        logs.logger(logs.SERVER).exception("failed")
    content = json.loads(stream.getvalue())
    assert (content["level"], content["target"], content["message"]) == ("ERROR", "chronik_server", "failed")
    assert content["exception"].endswith("ValueError: x")
    stream = configured(timestamps=True)
    logs.logger(logs.SERVER).info("text")
    assert stream.getvalue().endswith("Z [INFO] text\n")


def test_priorities_only_when_the_stream_is_the_journal(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert logs.writes_to_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not logs.writes_to_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not logs.writes_to_journal(stream, {})
    assert not logs.writes_to_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
    record = logging.LogRecord("x", logging.ERROR, "", 0, "text", (), None)
    assert logs._Formatter(False, True).format(record) == "<3>[ERROR] text"


def test_level_lists():
    assert logs.parse_levels("chronik_raft=trace, chronik_server=DEBUG,warn") == {"chronik_raft": 5, "chronik_server": 10, "": 30}
    assert logs.parse_levels("chronik_raft") == {"chronik_raft": 5}
    for wrong in ("loud", "=debug", "chronik_raft=loud"):
        with pytest.raises(ValueError, match="log"):
            logs.parse_levels(wrong)


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_histogram_counts_like_a_plain_count(values):
    histogram = Histogram((1, 10, 100))
    for value in values:
        histogram.observe(value)
    assert histogram.counts == [
        sum(value <= 1 for value in values),
        sum(1 < value <= 10 for value in values),
        sum(10 < value <= 100 for value in values),
        sum(value > 100 for value in values),
    ]
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))
    quantiles = [histogram.quantile(share / 10) for share in range(11)]
    assert quantiles == sorted(quantiles)
    assert quantiles[-1] <= 100


def test_quantiles_interpolate_within_a_bucket():
    histogram = Histogram((10, 20))
    for _ in range(10):
        histogram.observe(15)
    assert histogram.quantile(0.5) == 15
    assert Histogram((1,)).quantile(0.5) == 0
    with pytest.raises(ValueError, match="ascend"):
        Histogram((2, 1))


def test_the_allocator_can_be_left_alone():
    assert allocator.tune({"CHRONIK_ALLOCATOR": "default"}) is False


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_the_allocator_is_tuned_where_glibc_is():
    assert allocator.tune({}) is ("CS_GNU_LIBC_VERSION" in os.confstr_names)
