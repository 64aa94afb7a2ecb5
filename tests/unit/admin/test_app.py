"""The admin interface over a fake view: routes, status codes, the shapes that the documents promise, errors without traceback."""

import asyncio
import errno
import json
import re
import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from admin_api.app import create_app
from admin_api.server import serve
from broker.metrics import Family, Sample, counter, gauge, histogram
from wal.metrics import Histogram


class FakeView:
    def __init__(self):
        self.healthy = True
        self.latency = Histogram((1, 10))

    def health(self):
        if self.healthy:
            return 200, {"status": "healthy", "cluster_size": 3, "is_leader": True}
        return 503, {"status": "unhealthy", "cluster_size": 3, "is_leader": False, "reasons": ["no leader is known"]}

    def ready(self):
        return (200, {"status": "ready"}) if self.healthy else (503, {"status": "catching_up", "lag_entries": 12})

    def startup(self):
        return 200, {"status": "started"}

    def cluster(self):
        return {"members": self.members(), "leader": self.leader()}

    def members(self):
        return [{"node_id": number, "addr": f"node{number}:9093", "state": "leader" if number == 1 else "follower"} for number in (1, 2, 3)]

    def leader(self):
        return {"node_id": 1, "addr": "node1:9093", "term": 4} if self.healthy else None

    def partitions(self):
        for topic in ("__meta", "orders"):
            yield {"topic": topic, "partition": 0, "leader": 1, "replicas": [1, 2, 3], "isr": [1, 2, 3]}

    def node_info(self):
        raise RuntimeError("secret detail")

    def families(self):
        yield gauge("chronik_raft_term", "Term.", 4, partition="__meta")
        yield Family("chronik_raft_replication_lag_entries", "gauge", "Lag.", (Sample({"node": "2"}, 7), Sample({"node": "3"}, 0)))
        yield counter("chronik_requests_total", "Requests.", 5, api="Produce")
        yield counter("chronik_requests_total", "Requests.", 6, api="Fetch")
        yield histogram("chronik_raft_append_latency_ms", "Append.", self.latency)
        yield histogram("chronik_wal_fsync_latency_seconds", "fsync.", self.latency, 0.001)
        yield gauge("kraft_leader_id", "Leader.", 1)


@pytest.fixture
def view():
    return FakeView()


@pytest.fixture
async def client(view):
    transport = httpx.ASGITransport(app=create_app(view), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://node1:8080") as opened:
        yield opened


async def test_health_tells_reasons(client, view):
    answer = await client.get("/health")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.text.startswith('{"status":"healthy","cluster_size":3,"is_leader":true')
    assert (await client.get("/health/ready")).json() == {"status": "ready"}
    view.healthy = False
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["no leader is known"])
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "catching_up", "lag_entries": 12})
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/startup")).json() == {"status": "started"}


async def test_leader_and_no_leader(client, view):
    assert (await client.get("/admin/cluster/leader")).json() == {"node_id": 1, "addr": "node1:9093", "term": 4}
    view.healthy = False
    answer = await client.get("/admin/cluster/leader")
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (503, "no_leader", "1")


async def test_partitions_are_one_per_line_for_grep(client):
    answer = await client.get("/admin/cluster/partitions")
    assert len(answer.json()) == 2
    found = [line for line in answer.text.splitlines() if "__meta" in line]
    assert found == ['{"topic":"__meta","partition":0,"leader":1,"replicas":[1,2,3],"isr":[1,2,3]},']
    assert len((await client.get("/admin/cluster/members")).json()) == 3
    assert (await client.get("/admin/cluster")).json()["leader"]["node_id"] == 1


async def test_unknown_paths_and_methods_get_a_hint(client):
    answer = await client.get("/admin/cluster/member")
    assert (answer.status_code, answer.json()) == (404, {"error": "not_found", "hint": "did you mean /admin/cluster/members?"})
    answer = await client.post("/health")
    assert (answer.status_code, answer.json()["hint"]) == (405, "/health takes GET")


async def test_a_failure_shows_no_detail(client):
    answer = await client.get("/admin/node/info")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_metrics_are_valid_and_exactly_named(client, view):
    for value in (0.5, 1, 5, 50):
        view.latency.observe(value)
    text = (await client.get("/metrics")).text
    lines = text.splitlines()
    assert 'chronik_raft_term{partition="__meta"} 4.0' in lines
    assert 'chronik_raft_replication_lag_entries{node="2"} 7.0' in lines
    assert 'chronik_requests_total{api="Produce"} 5.0' in lines
    assert 'chronik_requests_total{api="Fetch"} 6.0' in lines
    assert 'chronik_raft_append_latency_ms_bucket{le="1"} 2.0' in lines
    assert 'chronik_raft_append_latency_ms_bucket{le="+Inf"} 4.0' in lines
    assert "chronik_raft_append_latency_ms_count 4.0" in lines
    assert "chronik_raft_append_latency_ms_sum 56.5" in lines
    assert 'chronik_wal_fsync_latency_seconds_bucket{le="0.01"} 3.0' in lines
    assert "kraft_leader_id 1.0" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names))


async def test_the_server_serves_in_this_loop_and_stops(view):
    handle = await serve(view, "127.0.0.1", 0)
    try:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{handle.port}/health")
        assert answer.status_code == 200
        assert "server" not in answer.headers
    finally:
        await handle.stop()
        await handle.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", handle.port)


async def test_a_taken_port_is_refused_with_a_way_out(view):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} already in use.*--admin-port") as caught:
            await serve(view, "127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE


async def test_the_description_lists_every_path(client):
    paths = json.loads((await client.get("/openapi.json")).text)["paths"]
    assert set(paths) >= {"/health", "/admin/cluster/leader", "/metrics"}
    assert all(re.fullmatch(r"/[a-z/]+", path) for path in paths)
