"""The timer wheel: never early, at most a tick late, nothing kept."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from broker.network.stats import LATENCY_BUCKETS, ApiStats
from broker.network.timer_wheel import TimerWheel
from tests.unit.handlers.fakes import ManualClock

TICK_MS = 10


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 300), st.booleans()), max_size=40))
def test_against_plain_times(steps: list[tuple[int, int, bool]]) -> None:
    """Entries are added as time goes on; some are cancelled at once. The others come once, within a tick of their time."""
    clock = ManualClock()
    wheel = TimerWheel(clock, TICK_MS)
    due: dict[int, int] = {}
    came: dict[int, int] = {}

    def entry(number: int) -> Callable[[], None]:
        def run() -> None:
            assert number not in came
            came[number] = clock.now_ms()

        return run

    for number, (delay_ms, pause_ms, cancel) in enumerate(steps):
        one = entry(number)
        slot = wheel.add(delay_ms, one)
        if cancel:
            slot.discard(one)
        else:
            due[number] = clock.now_ms() + delay_ms
        clock.advance(pause_ms)
    clock.advance(1000)
    assert came.keys() == due.keys()
    for number, time_ms in due.items():
        assert time_ms <= came[number] <= time_ms + TICK_MS
    assert len(wheel) == 0


def test_an_entry_may_cancel_another_of_its_slot_and_add_new_ones() -> None:
    clock = ManualClock()
    wheel = TimerWheel(clock, TICK_MS)
    ran: list[str] = []

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self) -> None:
            ran.append(self.name)
            for other in entries:
                slot.discard(other)
            if len(ran) < 3:
                wheel.add(5, Entry("again"))

    entries = [Entry("a"), Entry("b")]
    slot = wheel.add(5, entries[0])
    wheel.add(5, entries[1])
    clock.advance(100)
    assert len(ran) == 3
    assert ran[1:] == ["again", "again"]


def test_an_idle_wheel_arranges_nothing() -> None:
    clock = ManualClock()
    wheel = TimerWheel(clock, TICK_MS)
    wheel.add(5, lambda: None)
    clock.advance(100)
    assert clock._timers == []


def test_latency_buckets_are_powers_of_two() -> None:
    api = ApiStats("x")
    for us in (0, 1, 2, 3, 4, 1 << 40):
        api.observe(us * 1000)
    assert api.latency_buckets[:4] == [1, 1, 2, 1]
    assert api.latency_buckets[LATENCY_BUCKETS - 1] == 1
