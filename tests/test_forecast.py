"""What a day takes on disk."""

from pipeline.forecast import bytes_a_day


def test_the_cost_of_a_day_grows_with_ticks():
    """Twice the ticks take twice the disk, full mode takes more than quote, and nothing subscribed takes nothing."""
    assert bytes_a_day([], 1) == 0
    assert bytes_a_day(["quote"], 2) == 2 * bytes_a_day(["quote"], 1) > 0
    assert bytes_a_day(["full"], 1) > bytes_a_day(["quote"], 1) > bytes_a_day(["ltp"], 1)
