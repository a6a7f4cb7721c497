"""The shares of a global batch: disjoint, whole, in order, and as equal as can be."""

import pytest

from facevae.data.rank import rank_size, rank_slice


@pytest.mark.parametrize("total", [1, 5, 24, 128])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_shares_are_the_whole_in_order_and_differ_by_at_most_a_row(total, ranks):
    rows = [list(range(total))[rank_slice(total, rank, ranks)] for rank in range(ranks)]
    assert [row for share in rows for row in share] == list(range(total))
    sizes = [len(share) for share in rows]
    assert sizes == [rank_size(total, rank, ranks) for rank in range(ranks)]
    assert max(sizes) - min(sizes) <= 1
