"""ShardedHub: topics over several hubs. That it does all that a hub does is in test_hubs.py."""

from __future__ import annotations

import pytest
from support.hubs import Heard

from mormot_ws import HubUnavailable, MemoryHub, ShardedHub

TOPICS = [f"news{number}" for number in range(300)]


def numbers_of(count: int) -> list[int]:
    """Return on which of *count* hubs each topic is."""
    hubs = [MemoryHub() for _ in range(count)]
    with ShardedHub(hubs) as sharded:
        return [hubs.index(sharded.hub_of(topic)) for topic in TOPICS]  # type: ignore[arg-type]


def test_topics_are_spread_evenly() -> None:
    """Each hub has its share, more or less."""
    numbers = numbers_of(3)
    assert all(70 < numbers.count(number) < 130 for number in range(3))


def test_a_topic_is_on_the_same_hub_in_every_process() -> None:
    """Python's own hashes would differ from process to process."""
    numbers = numbers_of(3)
    assert numbers[:8] == [int(digit) for digit in "11120001"]


def test_one_hub_more_takes_its_share_and_changes_nothing_else() -> None:
    """A quarter of the topics moves, all to the fourth hub."""
    moved = [new for old, new in zip(numbers_of(3), numbers_of(4), strict=True) if new != old]
    assert set(moved) == {3}
    assert 45 < len(moved) < 105


def test_when_one_hub_is_away_the_others_work() -> None:
    """Only its own topics fail."""
    first, second = MemoryHub(), MemoryHub()
    with ShardedHub([first, second]) as sharded:
        mine = next(topic for topic in TOPICS if sharded.hub_of(topic) is second)
        other = next(topic for topic in TOPICS if sharded.hub_of(topic) is first)
        heard = Heard()
        sharded.subscribe(mine, heard)
        first.free()
        with pytest.raises(HubUnavailable):
            sharded.publish(other, 1)
        sharded.publish(mine, 2)
        assert heard.data == [2]
        assert not sharded.status().connected


def test_no_hubs_and_what_is_not_a_hub_are_refused() -> None:
    """When it is made."""
    with pytest.raises(ValueError, match="hubs"):
        ShardedHub([])
    with pytest.raises(TypeError, match="hubs"):
        ShardedHub(["redis://localhost"])  # type: ignore[list-item]
