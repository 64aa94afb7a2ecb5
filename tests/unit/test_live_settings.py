"""The broker's settings while it runs."""

from __future__ import annotations

from broker.settings import broker_settings
from broker.settings.live import LiveSettings


def test_the_nearest_wins_and_goes_again() -> None:
    live = LiveSettings(broker_settings({"max.connections": "3"}), 1)
    assert live["max.connections"] == 3
    assert live.update({-1: {"max.connections": "4"}, 2: {"max.connections": "9"}}) == {"max.connections"}
    assert live["max.connections"] == 4
    assert live.update({-1: {"max.connections": "4"}, 1: {"max.connections": "5"}}) == {"max.connections"}
    assert (live["max.connections"], live.static["max.connections"]) == (5, 3)
    assert live.update({1: {"max.connections": "5"}}) == set()
    assert live.update({}) == {"max.connections"}
    assert live["max.connections"] == 3


def test_what_can_not_act_is_left_out() -> None:
    live = LiveSettings(broker_settings({}), 1)
    assert live.update({1: {"num.partitions": "9", "max.connections": "many", "from.the.future": "1"}}) == set()
    assert live["num.partitions"] == 1
    assert len(live) == len(live.static) and set(live) == set(live.static)
