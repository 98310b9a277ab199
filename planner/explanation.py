"""What `explain` finds, as frozen data: `solve --json`, tables and pages all show it.

Knows figures. Knows nothing of how they were found.
"""

from __future__ import annotations

from typing import Literal

import msgspec

BlockName = Literal["embedding", "attention", "mlp", "head"]
Subject = Literal["strategy", "memory", "link", "device", "granularity"]


class BlockUse(msgspec.Struct, frozen=True):
    """One device's part in one kind of block.

    `units`: KV heads or MLP columns a layer on average, or vocabulary rows. `bytes`: weights and KV cache. Shares: of
    a whole decode step or prefill, how much the device is busy with the block, pushes and pulls included.
    """

    device: str
    block: BlockName
    units: float
    bytes: int
    decode_share: float
    prefill_share: float


class Rest(msgspec.Struct, frozen=True):
    """What of one device no block accounts for: workspace bytes, and the shares of time that it waits for others."""

    device: str
    bytes: int
    decode_share: float
    prefill_share: float


class Figures(msgspec.Struct, frozen=True):
    """What a split takes. `proven`: no other split of the space is faster."""

    objective_s: float
    prefill_s: float
    decode_s_per_token: float
    decode_tokens_per_s: float
    proven: bool


class End(msgspec.Struct, frozen=True):
    """The best split for one phase alone, priced for the workload of the plan; None where the time did not reach that
    far. `attention`, `mlp`: its shares, "" where no better split than the plan was found.
    """

    phase: Literal["prefill", "decode"]
    figures: Figures | None
    attention: str = ""
    mlp: str = ""


class Change(msgspec.Struct, frozen=True):
    """One question: what if. `gain`: the share of the whole workload's time that it saves, negative where it costs,
    0 where plans so near count as equal. `most_gain`: what it saves at most, where the best was not proven to be found.
    None where the time did not reach that far.
    """

    subject: Subject
    words: str
    device: str
    figures: Figures | None = None
    gain: float | None = None
    most_gain: float | None = None


class Explanation(msgspec.Struct, frozen=True):
    """`plan`: the plan's own figures. `tight`: what holds the plan back, a sentence each; see `explain`.
    `weights`: what quantised ones cost.
    """

    plan: Figures
    uses: tuple[BlockUse, ...]
    rests: tuple[Rest, ...]
    ends: tuple[End, ...]
    changes: tuple[Change, ...]
    tight: tuple[str, ...]
    explain_s: float
    weights: tuple[str, ...] = ()
