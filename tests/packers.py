"""Quantised checkpoints packed from the published layouts, number by number, and the models they mean.

GPTQ: AutoGPTQ's `QuantLinear.pack`. AWQ: AutoAWQ's `WQLinear_GEMM.from_linear`. compressed-tensors: `pack_to_int32`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


@dataclass
class Quantised:
    """One matrix: codes [out, in], scales [out, groups], zeros [out, groups], group [in]; w = (code - zero) * scale."""

    codes: np.ndarray
    scales: torch.Tensor
    zeros: np.ndarray
    group: np.ndarray
    bits: int

    @property
    def weights(self) -> torch.Tensor:
        """float32 [out, in]."""
        scales, zeros = self.scales.double().numpy()[:, self.group], self.zeros[:, self.group]
        return torch.from_numpy(((self.codes.astype(np.int64) - zeros) * scales).astype(np.float32))


def quantise(
    weight: torch.Tensor, bits: int, group_size: int, order: bool, symmetric: bool, rng: Any, lowest: int = 1
) -> Quantised:
    """Each group rounded between its extremes. `order`: inputs belong to groups at random, as after act-order."""
    outputs, inputs = weight.shape
    size = inputs if group_size == -1 else group_size
    group = np.arange(inputs) // size
    if order:
        group = group[rng.permutation(inputs)]
    top, values = 2**bits - 1, weight.double().numpy()
    scales, zeros = np.zeros((outputs, inputs // size)), np.zeros((outputs, inputs // size), np.int64)
    for g in range(inputs // size):
        mine = values[:, group == g]
        low, high = np.minimum(mine.min(1), 0), np.maximum(mine.max(1), 0)
        scales[:, g] = np.maximum(2 * np.maximum(-low, high) if symmetric else high - low, 1e-6) / top
        middle = np.full(outputs, 2 ** (bits - 1)) if symmetric else np.clip(np.round(-low / scales[:, g]), lowest, top)
        zeros[:, g] = middle
    kept = torch.from_numpy(scales).half()
    codes = np.clip(np.round(values / kept.double().numpy()[:, group]) + zeros[:, group], 0, top)
    return Quantised(codes.astype(np.int64), kept, zeros, group, bits)


def bit_stream(numbers: np.ndarray, bits: int) -> np.ndarray:
    """numbers [n, lines] -> int32 words [n * bits / 32, lines], by Python's unbounded integers, low bits first."""
    count, lines = numbers.shape
    words = np.zeros((-(-count * bits // 32), lines), np.uint32)
    for line in range(lines):
        stream = sum(int(value) << (bits * i) for i, value in enumerate(numbers[:, line]))
        words[:, line] = [(stream >> (32 * w)) & 0xFFFFFFFF for w in range(len(words))]
    return words.view(np.int32)


def gptq(q: Quantised, name: str, v2: bool = False, with_index: bool = True) -> Tensors:
    """qweight packed along the input, qzeros along the output, one less than the zero point in the first format."""
    tensors = {
        f"{name}.qweight": bit_stream(q.codes.T, q.bits),
        f"{name}.qzeros": np.ascontiguousarray(bit_stream(q.zeros - (not v2), q.bits).T),
        f"{name}.scales": np.ascontiguousarray(q.scales.numpy().T),
    } | ({f"{name}.g_idx": q.group.astype(np.int32)} if with_index else {})
    return {key: torch.from_numpy(value) for key, value in tensors.items()}


def awq(q: Quantised, name: str) -> Tensors:
    """Eight outputs to a word, in the order 0 2 4 6 1 3 5 7."""

    def words(numbers: np.ndarray) -> np.ndarray:
        packed = np.zeros((numbers.shape[0], numbers.shape[1] // 8), np.int64)
        for column in range(packed.shape[1]):
            for nibble, output in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                packed[:, column] |= numbers[:, 8 * column + output] << (4 * nibble)
        return packed.astype(np.uint32).view(np.int32)

    tensors = {
        f"{name}.qweight": words(q.codes.T),
        f"{name}.qzeros": words(q.zeros.T),
        f"{name}.scales": np.ascontiguousarray(q.scales.numpy().T),
    }
    return {key: torch.from_numpy(value) for key, value in tensors.items()}


def compressed(q: Quantised, name: str, symmetric: bool, ordered: bool) -> Tensors:
    """Codes as signed integers offset to unsigned ones, packed along the input; zero points along the output."""
    tensors: Tensors = {
        f"{name}.weight_packed": torch.from_numpy(np.ascontiguousarray(bit_stream(q.codes.T, q.bits).T)),
        f"{name}.weight_scale": q.scales.clone(),
        f"{name}.weight_shape": torch.tensor(q.codes.shape),
    }
    if not symmetric:
        tensors[f"{name}.weight_zero_point"] = torch.from_numpy(bit_stream(q.zeros, q.bits))
    if ordered:
        tensors[f"{name}.weight_g_idx"] = torch.from_numpy(q.group.astype(np.int32))
    return tensors


@dataclass(frozen=True)
class Format:
    """How a checkpoint is quantised, and `pack`, which makes a matrix's tensors."""

    method: str
    bits: int = 4
    group_size: int = 32
    order: bool = False
    symmetric: bool = False
    v2: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    def pack(self, q: Quantised, name: str) -> Tensors:
        if self.method == "gptq":
            return gptq(q, name, self.v2)
        return awq(q, name) if self.method == "awq" else compressed(q, name, self.symmetric, self.order)

    @property
    def quantization_config(self) -> dict[str, Any]:
        if self.method == "compressed-tensors":
            how = {"strategy": "channel"} if self.group_size == -1 else {"strategy": "group"}
            scheme = {"num_bits": self.bits, "type": "int", "symmetric": self.symmetric, **how}
            scheme |= {"group_size": self.group_size} if self.group_size > 0 else {}
            scheme |= {"actorder": "group"} if self.order else {}
            groups = {"group_0": {"targets": ["Linear"], "weights": scheme}}
            return {
                "format": "pack-quantized",
                "ignore": ["lm_head"],
                "config_groups": groups,
                "quant_method": self.method,
            }
        common = {"quant_method": self.method, "bits": self.bits, "group_size": self.group_size}
        if self.method == "awq":
            return common | {"version": "gemm", "zero_point": True} | self.config
        version = "gptq_v2" if self.v2 else "gptq"
        return common | {"desc_act": self.order, "sym": self.symmetric, "checkpoint_format": version} | self.config


def packed_checkpoint(
    model: Any, folder: Path, form: Format, seed: int = 0, dense: Callable[[str], bool] = lambda name: False
) -> Path:
    """Saves `model` with its layers' matrices quantised, those left dense that `dense` names, and the others as they
    are; the model itself gets the weights that the files mean.
    """
    rng, tensors = np.random.default_rng(seed), Tensors()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue
            if "_proj.weight" in name and not dense(name):
                q = quantise(weight, form.bits, form.group_size, form.order, form.symmetric, rng, 0 if form.v2 else 1)
                weight.copy_(q.weights)
                tensors |= form.pack(q, name.removesuffix(".weight"))
            else:
                tensors[name] = weight.clone().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads(model.config.to_json_string(use_diff=False)) | {"quantization_config": form.quantization_config}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
