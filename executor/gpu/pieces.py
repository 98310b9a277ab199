"""How a pass of any number of rows is cut into launches that were warmed up. Knows no tensors."""

from __future__ import annotations

from collections.abc import Iterator

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Rows of a launch; fewer are padded, so that every kernel is loaded before any waits for a peer."""


def pieces(
    rows: int, position: int, capacity: int, most: int = BUCKETS[-1], padded: bool = True
) -> Iterator[tuple[int, int]]:
    """(rows, bucket) of the passes that take `rows` tokens: one padded pass, or more where the cache has no room for
    padding behind the last token. `most`: rows of a pass; not `padded`: passes are full.
    """
    most = max(b for b in BUCKETS if b <= most)
    while rows:
        bucket = next(b for b in BUCKETS if b >= min(rows, most))
        if position + bucket > capacity or not padded:
            bucket = max(b for b in BUCKETS if b <= min(rows, most))
        taken = min(rows, bucket)
        yield taken, bucket
        rows, position = rows - taken, position + taken
