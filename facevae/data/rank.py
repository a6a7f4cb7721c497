"""How a global batch is cut into one share for each data-parallel worker."""


def rank_slice(total: int, rank: int, world_size: int) -> slice:
    """The rows that a rank takes of `total`: equal shares, or uneven ones that differ by a row."""
    return slice(rank * total // world_size, (rank + 1) * total // world_size)


def rank_size(total: int, rank: int, world_size: int) -> int:
    """How many rows that is."""
    return (rank + 1) * total // world_size - rank * total // world_size
