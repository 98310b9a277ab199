"""Matrices of GPTQ, AWQ and compressed-tensors checkpoints: which tensors make one, checked against each other.

Knows their names and shapes. Knows nothing of bits (see `packed_words`) or of reading (see `packed_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..planner.model_spec import ModelSpec, Quant
from ..planner.quant_config import FIELD
from ..planner.weight_names import weight_shapes
from .stored import Stored

AGAIN = "download it again, or quantise the model again"
_PARTS = {
    "gptq": ("qweight", "scales", "qzeros", "g_idx"),
    "awq": ("qweight", "scales", "qzeros"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"),
}
_CODES, _SCALES = {"qweight", "weight_packed"}, {"scales", "weight_scale"}
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Packed:
    """One matrix [out, in]. `parts`: its tensors by the last part of their names."""

    name: str
    quant: Quant
    shape: tuple[int, int]
    parts: Mapping[str, Stored]
    bits: int = field(init=False)
    groups: int = field(init=False)

    def __post_init__(self) -> None:
        """ValueError where the shapes of the parts contradict each other or the config."""
        object.__setattr__(self, "bits", self._bits())
        if self.method != "compressed-tensors":
            self.part("qzeros")
        object.__setattr__(self, "groups", self._groups())
        for part, shape in self._shapes().items():
            if part in self.parts:
                self._check(part, self.parts[part], shape)

    def _check(self, part: str, stored: Stored, shape: tuple[int, ...]) -> None:
        if stored.shape != shape:
            found = list(stored.shape)
            raise ValueError(f"tensor '{self.name}.{part}' has shape {found}, {list(shape)} is expected: {AGAIN}")
        allowed = FLOATS if part in _SCALES else ("I64",) if part == "weight_shape" else ("I32",)
        if stored.type.name not in allowed:
            found_type = stored.type.name
            raise ValueError(
                f"tensor '{self.name}.{part}' is of type {found_type}, not {' or '.join(allowed)}: {AGAIN}"
            )

    @property
    def method(self) -> str:
        return "gptq" if self.quant.method == "gptq_v2" else self.quant.method

    @property
    def paths(self) -> set[Path]:
        return {part.path for part in self.parts.values()}

    @property
    def scales(self) -> str:
        """What the method calls its scales."""
        return "weight_scale" if self.method == "compressed-tensors" else "scales"

    def part(self, name: str) -> Stored:
        """ValueError where there is none."""
        if name not in self.parts:
            raise ValueError(f"tensor '{self.name}.{name}' is missing; {AGAIN}")
        return self.parts[name]

    def _bits(self) -> int:
        outputs, inputs = self.shape
        part = _CODES.intersection(self.parts).pop()
        codes = self.parts[part]
        packed, whole = {
            "gptq": (codes.shape[0], inputs),
            "awq": (codes.shape[-1], outputs),
            "compressed-tensors": (codes.shape[-1], inputs),
        }[self.method]
        bits = next((n for n in (2, 3, 4, 8) if whole * n == 32 * packed), 0)
        allowed = {"gptq": (2, 3, 4, 8), "awq": (4,), "compressed-tensors": (4, 8)}[self.method]
        if bits not in allowed or (bits != self.quant.bits and not self.quant.mixed):
            raise ValueError(
                f"tensor '{self.name}.{part}' packs {whole} numbers into {packed} words, which is not the "
                f"{self.quant.bits} bits of the config: correct {FIELD}, or {AGAIN}"
            )
        return bits

    def _groups(self) -> int:
        scales = self.part(self.scales)
        groups = scales.shape[0] if self.method != "compressed-tensors" else scales.shape[-1]
        size = self.quant.group_size if self.quant.group_size > 0 else self.shape[1]
        if groups * size != self.shape[1] and not self.quant.mixed:
            raise ValueError(
                f"tensor '{self.name}.{self.scales}' has {groups} groups of {self.shape[1]} inputs, the config asks "
                f"for groups of {size}: correct '{FIELD}.group_size', or {AGAIN}"
            )
        if self.shape[1] % groups and "g_idx" not in self.parts:
            raise ValueError(
                f"tensor '{self.name}.scales' has {groups} groups, which do not divide the inputs: {AGAIN}"
            )
        return groups

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        (outputs, inputs), bits, groups = self.shape, self.bits, self.groups
        if self.method == "compressed-tensors":
            return {
                "weight_packed": (outputs, inputs * bits // 32),
                "weight_scale": (outputs, groups),
                "weight_zero_point": (-(-outputs * bits // 32), groups),
                "weight_g_idx": (inputs,),
                "weight_shape": (2,),
            }
        codes = (inputs, outputs * bits // 32) if self.method == "awq" else (inputs * bits // 32, outputs)
        return {
            "qweight": codes,
            "scales": (groups, outputs),
            "qzeros": (groups, outputs * bits // 32),
            "g_idx": (inputs,),
        }


def packed_matrices(tensors: dict[str, Stored], spec: ModelSpec) -> dict[str, Stored | Packed]:
    """The checkpoint's tensors with those of each quantised matrix as one, under the name of its weight."""
    quant, found = spec.quant, dict[str, Stored | Packed](tensors)
    parts = _PARTS["gptq" if quant.method == "gptq_v2" else quant.method] if quant else ()
    for name, shape in weight_shapes(spec).items():
        if name in tensors and tensors[name].type.name.startswith("I"):
            raise ValueError(f"tensor {name!r} holds integers; convert it to float32, float16 or bfloat16")
        module = name.removesuffix(".weight")
        mine = {part: tensors[f"{module}.{part}"] for part in parts if f"{module}.{part}" in tensors}
        if quant and len(shape) == 2 and _CODES & mine.keys():
            for part in mine:
                del found[f"{module}.{part}"]
            found[name] = Packed(module, quant, (shape[0], shape[1]), mine)
    return found
