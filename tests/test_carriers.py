"""Finding places for what others record: the rules one by one. All at random: `test_subscriptions`."""

from pipeline.supervisor.carriers import assign


def test_the_best_place_comes_first():
    """As far as its room goes; then the next, and in the end who may be back soon."""
    found = assign({1: [11, 12, 13, 14]}, {}, {3: 1, 2: 1}, {1: 1}, [])
    assert found.places == {11: 3, 12: 2, 13: 1}
    assert found.evicted == set()


def test_who_has_a_place_stays_there():
    """Moving costs; a place that is unfit is none."""
    before = {11: 2, 12: 3, 13: 1}
    assert assign({1: [11, 12, 13]}, before, {3: 5, 2: 5}, {1: 5}, []).places == {11: 2, 12: 3, 13: 3}


def test_the_first_home_comes_first():
    """The other's make room: at once where their home is lost, else when it covers them again."""
    homes, before = {1: [11, 12], 2: [21, 22]}, {21: 3, 22: 3}
    lost = assign(homes, before, {3: 3}, {}, [1, 2])
    assert (lost.places, lost.evicted) == ({21: 3, 11: 3, 12: 3}, {22})
    well = assign(homes, before, {3: 3}, {}, [1])
    assert (well.places, well.evicted) == ({21: 3, 11: 3}, set())


def test_of_one_home_those_that_have_a_place_come_first():
    """Nobody is uncovered for the sake of another that is worth no more."""
    found = assign({1: [11, 12]}, {12: 3}, {3: 1}, {2: 1}, [1])
    assert (found.places, found.evicted) == ({12: 3, 11: 2}, set())
