"""How a global batch is cut into one share for each data-parallel worker."""


def rank_slice(total: int, rank: int, ranks: int) -> slice:
    """The rows that a rank takes of `total`: equal shares, or uneven ones that differ by a row."""
    return slice(rank * total // ranks, (rank + 1) * total // ranks)


def rank_size(total: int, rank: int, ranks: int) -> int:
    """How many rows that is."""
    return (rank + 1) * total // ranks - rank * total // ranks
