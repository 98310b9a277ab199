"""The GPUs of this machine in words, and what keeps tpplan from using them; for `tpplan doctor`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ...hwprofiles import nvidia_smi
from .partitions import load_bindings
from .requirements import check_capability, check_torch, check_triton, free_bytes


def gpu_findings() -> tuple[list[dict[str, Any]], list[str]]:
    """Each GPU's figures in torch's order, and problems with them, one line each; both empty where there are none."""
    cards = nvidia_smi.cards()
    problem = _refusal(check_torch)
    if problem:
        found = [_card(card) for card in cards.values()]
        return found, [f"{card['name']} is here, but {problem}" for card in found]
    found = [_gpu(index, cards) for index in range(torch.cuda.device_count())]
    problems = [_refusal(check_triton), _refusal(load_bindings)]
    for index in range(len(found)):
        problems += [_refusal(partial(check, index)) for check in (check_capability, free_bytes)]
    return found, list(filter(None, problems))


def _refusal(check: Callable[[], object]) -> str:
    try:
        check()
    except ValueError as error:
        return str(error)
    return ""


def _gpu(index: int, cards: dict[str, nvidia_smi.Card]) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    card = cards.get(str(getattr(properties, "uuid", "")))
    more = _card(card) if card else {}
    return more | {
        "device": f"cuda:{index}",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "sms": properties.multi_processor_count,
        "free_bytes": free,
        "total_bytes": total,
    }


def _card(card: nvidia_smi.Card) -> dict[str, Any]:
    """What is known without CUDA. A link at rest is slow to save power."""
    slot = card.slot
    return {
        "name": card.name,
        "driver": card.driver,
        "free_bytes": card.free_bytes,
        "pcie": {
            "generation_now": slot.generation,
            "generation_most": slot.generation_max,
            "width_now": slot.width,
            "width_most": slot.width_max,
        },
    }


def described(gpu: dict[str, Any]) -> str:
    """One line for people."""
    words = [gpu["name"]]
    if "device" in gpu:
        words = [f"{gpu['device']} {gpu['name']}", f"sm_{gpu['capability'].replace('.', '')}", f"{gpu['sms']} SMs"]
    words.append(f"{gpu['free_bytes'] / 2**30:.1f} GiB free")
    if pcie := gpu.get("pcie"):
        now, most = (f"{pcie[f'generation_{when}']}.0x{pcie[f'width_{when}']}" for when in ("now", "most"))
        words += [f"PCIe {now} at rest, {most} at most", f"driver {gpu['driver']}"]
    return ", ".join(words)
