"""Transactions per second: each producer begins, writes, commits, and begins again."""

from __future__ import annotations

import threading
import time

from confluent_kafka import KafkaException, Producer

from benchmarks.client.job import PROMPT, Job, latencies_ms

SIZE = 100


def run(job: Job) -> None:
    """Keys: records of a transaction, producers, seconds, warm_seconds (the same before, not measured)."""
    records, producers, seconds = job.count("records", 1), job.count("producers", 1), job.number("seconds", 5)
    many = []
    for number in range(producers):
        producer = Producer({**PROMPT, "bootstrap.servers": job.bootstrap, "transactional.id": f"{job.topic}-{number}"})
        producer.init_transactions(30)
        many.append(producer)
    taken: list[list[float]] = [[] for _ in many]
    failed = [0] * producers
    value = bytes(SIZE)

    def work(number: int, end: float) -> None:
        producer = many[number]
        sent = number
        while (begin := time.perf_counter()) < end:
            try:
                producer.begin_transaction()
                for _ in range(records):
                    producer.produce(job.topic, value, partition=sent % job.partitions)
                    sent += 1
                producer.commit_transaction(30)
            except KafkaException:
                failed[number] += 1
                return
            taken[number].append(time.perf_counter() - begin)

    def work_all(end: float) -> None:
        threads = [threading.Thread(target=work, args=(number, end)) for number in range(producers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    work_all(time.perf_counter() + job.number("warm_seconds"))
    for one in taken:
        one.clear()
    job.begin()
    start = time.perf_counter()
    work_all(start + seconds)
    took = time.perf_counter() - start
    done = sum(len(each) for each in taken)
    job.end(seconds=took, transactions_per_s=done / took, failed=sum(failed), **latencies_ms([one for each in taken for one in each], 0))
