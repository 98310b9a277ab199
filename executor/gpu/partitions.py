"""A GPU cut into disjoint partitions of SMs by green contexts. The only module that needs cuda-bindings.

`torch.cuda.green_contexts` alone gives partitions that overlap; here each takes its own groups of one split.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch

BINDINGS_FIX = "install tpplan[gpu], which has cuda-bindings, or name the GPU whole"


def load_bindings() -> Any:
    """`cuda.bindings.driver`; ValueError if it is missing, broken or too old for green contexts."""
    try:
        driver = import_module("cuda.bindings.driver")
    except Exception as error:
        raise ValueError(f"parts of a GPU need cuda-bindings, which does not load ({error}): {BINDINGS_FIX}") from None
    if not hasattr(driver, "cuGreenCtxStreamCreate"):
        raise ValueError(f"parts of a GPU need cuda-bindings 12.5 or newer: {BINDINGS_FIX}")
    return driver


class Partitions:
    """GPU `index` cut into partitions of `sizes` SMs, in order; use `streams`, then `close` when nothing runs.

    ValueError in one line where the driver or the SMs do not allow it.
    """

    def __init__(self, index: int, sizes: Sequence[int], driver: Any | None = None) -> None:
        self.index, self.sizes = index, tuple(sizes)
        self._driver = driver or load_bindings()
        self._contexts: list[Any] = []
        self._streams: list[list[Any]] = [[] for _ in sizes]
        try:
            self._carve()
        except BaseException:
            self.close()
            raise

    def _carve(self) -> None:
        d = self._driver
        self._handle = self._call("cuDeviceGet", self.index)
        whole = self._call("cuDeviceGetDevResource", self._handle, d.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM)
        _, step = self._split(whole, 1, 1)
        check_sizes(self.index, self.sizes, whole.sm.smCount, step)
        groups, _ = self._split(whole, whole.sm.smCount // step, step)
        ends = list(accumulate(size // step for size in self.sizes))
        if ends[-1] > len(groups):
            raise ValueError(
                f"GPU {self.index} gives {len(groups)} groups of {step} SMs, {' + '.join(map(str, self.sizes))} SMs "
                f"need {ends[-1]}: name fewer SMs"
            )
        for begin, end in zip([0, *ends], ends):
            mine = groups[begin:end]
            description = self._call("cuDevResourceGenerateDesc", mine, len(mine))
            flag = d.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
            self._contexts.append(self._call("cuGreenCtxCreate", description, self._handle, flag))

    def _split(self, whole: Any, count: int, least: int) -> tuple[list[Any], int]:
        """At most `count` groups of `least` SMs, rounded up to what the hardware allows; with how many each has."""
        groups, made, _ = self._call("cuDevSmResourceSplitByCount", count, whole, 0, least)
        if not made:
            raise ValueError(f"GPU {self.index} cannot be cut into parts: name it whole, cuda:{self.index}")
        return list(groups)[: int(made)], groups[0].sm.smCount

    def streams(self, partition: int, count: int) -> list[torch.cuda.ExternalStream]:
        """`count` new streams of a partition, for torch."""
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        made = [self._call("cuGreenCtxStreamCreate", self._contexts[partition], flag, 0) for _ in range(count)]
        self._streams[partition] += made
        return [torch.cuda.ExternalStream(int(stream), device=torch.device("cuda", self.index)) for stream in made]

    def close(self) -> None:
        """Destroys streams and contexts; a second call does nothing."""
        for stream in [stream for streams in self._streams for stream in streams]:
            self._driver.cuStreamDestroy(stream)
        for context in self._contexts:
            self._driver.cuGreenCtxDestroy(context)
        self._streams, self._contexts = [[] for _ in self.sizes], []

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a driver function returns beside its status; ValueError names the function that failed."""
        error, *results = getattr(self._driver, name)(*arguments)
        if int(error) != 0:
            raise ValueError(
                f"GPU {self.index} cannot be cut into parts ({name}: {getattr(error, 'name', error)}): update the "
                f"NVIDIA driver to 550 or newer, or name the GPU whole, cuda:{self.index}"
            )
        return results[0] if len(results) == 1 else results


def check_sizes(index: int, sizes: Sequence[int], sms: int, step: int) -> None:
    """ValueError unless all `sizes` are multiples of `step` and fit `sms` together."""
    wrong = [size for size in sizes if size % step]
    if wrong:
        raise ValueError(
            f"GPU {index} can be cut in steps of {step} SMs, not {wrong[0]}: name {max(step, wrong[0] // step * step)} "
            f"or {-(-wrong[0] // step) * step}"
        )
    usable = sms // step * step
    if sum(sizes) > usable:
        raise ValueError(
            f"GPU {index} has {sms} SMs, {usable} in steps of {step}; {' + '.join(map(str, sizes))} = {sum(sizes)} "
            "are asked for: name fewer"
        )
