"""`python -m benchmarks.client JOB`: one client process, started by the harness."""

from __future__ import annotations

import sys

from benchmarks.client import consume, failover, groups, hold, latency, produce, transactions
from benchmarks.client.job import Job

KINDS = {
    "produce": produce.run,
    "latency": latency.run,
    "consume": consume.run,
    "failover": failover.run,
    "transactions": transactions.run,
    "hold": hold.run,
    "groups": groups.run_groups,
    "commits": groups.run_commits,
    "rebalance": groups.run_rebalance,
}


def main() -> int:
    job = Job(sys.argv[1])
    KINDS[job.kind](job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
