"""How many SMs the kernels of a stream have: a partition's, or all of the GPU's. Needs torch only."""

from __future__ import annotations

from functools import lru_cache

import torch

_OF_STREAMS: dict[tuple[int, int], int] = {}  # (GPU, handle): of streams that belong to a partition
WHOLE_GPU = 132  # where there is no GPU to ask


def limit_stream(stream: torch.cuda.Stream, sms: int) -> None:
    """Says that `stream` belongs to a partition of `sms` SMs."""
    _OF_STREAMS[stream.device_index, stream.cuda_stream] = sms


def forget_stream(stream: torch.cuda.Stream) -> None:
    """Before a stream that `limit_stream` was told of is destroyed; handles are used again."""
    _OF_STREAMS.pop((stream.device_index, stream.cuda_stream), None)


@lru_cache
def _whole(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def whole_sms(tensor: torch.Tensor) -> int:
    """SMs of `tensor`'s GPU."""
    return _whole(tensor.device.index) if tensor.is_cuda else WHOLE_GPU


def sms_for(tensor: torch.Tensor) -> int:
    """SMs that a launch on the current stream of `tensor`'s GPU can use."""
    if not tensor.is_cuda:
        return WHOLE_GPU
    index = tensor.device.index
    return _OF_STREAMS.get((index, torch.cuda.current_stream(index).cuda_stream)) or _whole(index)
