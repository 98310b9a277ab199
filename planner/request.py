"""What the user asks of a solve: the workload, limits and any split given by hand, in a frozen `Request`.

Knows the wishes. Knows nothing of how they are met or refused (see `solve`).
"""

from __future__ import annotations

import msgspec

from .plan import CacheDtype, Dtype, Strategy, Workload


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`caps`: bytes by device name. Splits: KV heads or MLP columns per device, in profile order; None is solved.

    `dtype`, `cache_dtype`: None for what suits model and devices (`weight_formats.native_dtype`; the cache is short
    where there are GPUs, unless float32 was asked for). `replicate_kv`: whether a device may hold part of the query
    heads of a KV head.
    """

    workload: Workload = Workload()
    dtype: Dtype | None = None
    cache_dtype: CacheDtype | None = None
    caps: dict[str, int] = {}
    attention_split: tuple[int, ...] | None = None
    attention_strategy: Strategy | None = None
    mlp_split: tuple[int, ...] | None = None
    mlp_strategy: Strategy | None = None
    replicate_kv: bool = True
    time_limit_s: float = 30.0
