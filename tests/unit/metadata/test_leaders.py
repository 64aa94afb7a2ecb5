"""Who may say what about a leader."""

from __future__ import annotations

import msgspec
import pytest

from broker.metadata.leaders import LeaderNews, LeaderTable, decode_news, encode_news
from wal.entry import GroupId

G, H = GroupId(b"g" * 20), GroupId(b"h" * 20)


def test_unknown() -> None:
    table = LeaderTable()
    assert table.leader_of(G) == (-1, -1) and table.isr_of(G) == ()


def test_heard_of() -> None:
    table = LeaderTable()
    assert not table.heard_of(G)
    table.set(G, 1, -1)
    assert not table.heard_of(G), "an election is not a leader"
    table.observe(2, [LeaderNews(G, 1, (2, 3))])
    assert table.heard_of(G)
    table.node_gone(2)
    assert table.leader_of(G)[0] == -1 and table.heard_of(G)
    table.set(G, 2, -1)
    assert table.heard_of(G)
    table.remove(G)
    assert not table.heard_of(G)


def test_higher_term_wins_and_lower_is_ignored() -> None:
    table = LeaderTable()
    assert table.set(G, 3, 1, (1, 2))
    assert not table.set(G, 2, 2, (2,))
    table.observe(2, [LeaderNews(G, 2, (2,))])
    assert table.leader_of(G) == (1, 3) and table.isr_of(G) == (1, 2)
    table.observe(2, [LeaderNews(G, 4, (2, 3))])
    assert table.leader_of(G) == (2, 4) and table.isr_of(G) == (2, 3)


def test_within_a_term_only_the_leader_tells() -> None:
    table = LeaderTable()
    table.observe(1, [LeaderNews(G, 3, (1, 2, 3))])
    table.observe(2, [LeaderNews(G, 3, (2,))])
    assert table.leader_of(G) == (1, 3) and table.isr_of(G) == (1, 2, 3)
    assert not table.set(G, 3, 1)  # our follower knows the leader, but not the isr
    table.observe(1, [LeaderNews(G, 3, (1, 2))])
    assert table.isr_of(G) == (1, 2)
    assert not table.set(G, 3, 0)  # our replica has lost it; others may not have
    assert table.leader_of(G) == (1, 3)
    assert table.set(G, 4, 0)
    assert table.leader_of(G) == (-1, 4)
    assert table.set(G, 4, 3)
    assert table.leader_of(G) == (3, 4)


def test_leader_whose_node_is_gone_may_come_back_in_the_same_term_and_nobody_else() -> None:
    table = LeaderTable()
    table.set(G, 3, 1, (1, 2))
    table.set(H, 1, 2, (2,))
    table.node_gone(1)
    assert table.leader_of(G) == (-1, 3) and table.leader_of(H) == (2, 1)
    table.observe(2, [LeaderNews(G, 3, (2,))])
    assert table.leader_of(G) == (-1, 3)
    table.observe(1, [LeaderNews(G, 3, (1,))])
    assert table.leader_of(G) == (1, 3)


def test_a_silent_leader_is_hidden_until_it_is_heard_or_another_leads() -> None:
    table = LeaderTable()
    for group in (G, H):
        table.set(group, 3, 1, (1, 2))
    table.node_silent(1)
    assert table.leader_of(G) == table.leader_of(H) == (-1, 3) and table.isr_of(G) == (1, 2)
    assert table.heard_of(G), "nobody waits for its first word"
    table.observe(2, [LeaderNews(H, 4, (2,))])
    table.node_heard(1)
    assert table.leader_of(G) == (1, 3), "it was only late"
    assert table.leader_of(H) == (2, 4), "not when others have a newer leader"
    before = table.version
    table.node_heard(1)
    table.node_heard(2)
    assert table.version == before, "once"


def test_what_a_dead_node_led_does_not_come_back_with_its_next_process() -> None:
    table = LeaderTable()
    table.set(G, 3, 1, (1, 2))
    table.node_silent(1)
    table.node_gone(1)
    table.node_heard(1)
    assert table.leader_of(G) == (-1, 3)
    table.set(H, 5, 1, (1, 2))
    table.node_silent(1)
    table.node_heard(1)
    assert table.leader_of(H) == (1, 5) and table.leader_of(G) == (-1, 3)


def test_version_and_listeners_tell_changes_only() -> None:
    table = LeaderTable()
    changed: list[GroupId] = []
    table.add_listener(changed.append)
    table.set(G, 1, 1, (1,))
    table.set(G, 1, 1, (1,))
    table.observe(1, [LeaderNews(G, 1, (1,))])
    assert table.version == 1 and changed == [G]
    table.remove(G)
    table.remove(G)
    assert table.version == 2 and table.leader_of(G) == (-1, -1)


def test_news_on_the_wire() -> None:
    table = LeaderTable()
    table.set(G, 3, 1, (1, 2))
    table.set(H, 3, 2, (2,))
    assert decode_news(encode_news(table.led_by(1))) == [LeaderNews(G, 3, (1, 2))]
    with pytest.raises(msgspec.MsgspecError):
        decode_news(b"\x91\x01")
