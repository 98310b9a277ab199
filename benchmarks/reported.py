"""What people reported of unequal or badly linked cards, as splits that can be priced.

Knows sources, machines, and the nearest model of `examples/`; where a report does not say something, `assumed` says
what stands in for it. Knows nothing of prices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from boxes import example

from tpplan.planner.baselines import proportional_split, split_bytes
from tpplan.planner.memory import fits
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Range, Split, Strategy, Workload
from tpplan.planner.price import Pricer

Measure = Literal["decode", "prefill", "both"]
SplitOf = Callable[[Pricer, tuple[int, ...]], Split]


@dataclass(frozen=True)
class Tried:
    """A configuration: what it is called, tokens a second that were reported (None where none were), and the split.

    `overlapped`: prefill is counted as if all devices worked on different chunks of the prompt at the same time.
    """

    words: str
    reported: float | None
    machine: str
    split: SplitOf
    overlapped: bool = False


@dataclass(frozen=True)
class Step:
    """From one configuration to another. `change`: of the speed that `measure` names, after over before; None where
    the report does not tell.
    """

    model_name: str
    model: ModelSpec
    workload: Workload
    measure: Measure
    before: Tried
    after: Tried
    change: float | None


@dataclass(frozen=True)
class Report:
    """`assumed`: what stands in for what the report does not say. `differs`: where model and report part, and why."""

    name: str
    source: str
    assumed: str
    differs: str
    steps: tuple[Step, ...]


def layers_by_memory(pricer: Pricer, caps: tuple[int, ...]) -> Split:
    """What llama.cpp does unless told otherwise."""
    return layered(pricer.model, shares(pricer.model.layers, caps))


def layers_filled(pricer: Pricer, caps: tuple[int, ...]) -> Split:
    """As many layers on the first device as fit there, the rest in proportion to memory: what people tune `-ts` to."""
    for first in range(pricer.model.layers, -1, -1):
        rest = shares(pricer.model.layers - first, caps[1:])
        split = layered(pricer.model, (first, *rest))
        if fits(split_bytes(pricer, split), pricer.profile, caps):
            return split
    return layers_by_memory(pricer, caps)


def alone(device: int) -> SplitOf:
    """Everything on one device."""
    return lambda pricer, caps: tensor([float(d == device) for d in range(len(caps))])(pricer, caps)


def tensor(weights: Sequence[float] | None = None, strategy: Strategy = "row") -> SplitOf:
    """Every block on all devices, in proportion to `weights`, or to memory."""
    return lambda pricer, caps: proportional_split(pricer, weights or caps, (strategy, None), (strategy, None))


def shares(count: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Layers in proportion, by rounded running totals."""
    ends = [round(count * sum(weights[: d + 1]) / sum(weights)) for d in range(len(weights))]
    return tuple(end - begin for begin, end in zip([0, *ends], ends))


def layered(model: ModelSpec, counts: Sequence[int]) -> Split:
    """A split by layers."""
    owners = [d for d, count in enumerate(counts) for _ in range(count)]

    def whole(total: int, owner: int) -> tuple[Range, ...]:
        return tuple(
            (0, total) if d == owner else ((0, 0) if d < owner else (total, total)) for d in range(len(counts))
        )

    stack = [LayerPlan(BlockPlan("row", whole(model.heads, d)), BlockPlan("row", whole(model.mlp, d))) for d in owners]
    return Split(whole(model.vocab, owners[0]), tuple(stack), whole(model.vocab, owners[-1]))


def shaped(base: str, **changes: int) -> ModelSpec:
    """A model like one of the examples, of other dimensions."""
    model = example(base)
    if "layers" in changes:
        model = msgspec.structs.replace(model, windows=(0,) * changes["layers"])
    return msgspec.structs.replace(model, **changes)


QWEN3_14B = shaped("qwen3-8b-int8", hidden=5120, layers=40, heads=40, kv_heads=8, mlp=17408)
MISTRAL_123B = shaped("mistral-7b-v0.3-int4", hidden=12288, layers=88, heads=96, kv_heads=8, mlp=28672, vocab=32768)

CHAT = Workload(prompt_tokens=512, new_tokens=256, context=4096)
LONG = Workload(prompt_tokens=16000, new_tokens=220, context=16384)
PROMPT = Workload(prompt_tokens=4096, new_tokens=64, context=8192)

PAIR = "rtx3090@4.0x16+rtx4060ti@4.0x8"
THREE = "rtx3090@4.0x16+2xrtx3060@4.0x4"
OLD_SLOT, NEW_SLOTS = "rtx3090@3.0x2+3xrtx3090@3.0x16", "2xrtx3090@3.0x8+2xrtx3090@3.0x16"
GENERATIONS = "rtx5090@5.0x8+rtx3090@4.0x8"
TWINS = "2xrtx3090@4.0x8"


def _three_cards(
    name: str, model: ModelSpec, words: str, split: SplitOf, before_per_s: float, after_per_s: float
) -> Step:
    before = Tried("layers by memory", before_per_s, THREE, layers_by_memory)
    after = Tried(words, after_per_s, THREE, split)
    return Step(name, model, CHAT, "decode", before, after, after_per_s / before_per_s)


def _long_prompts(machine: str) -> Step:
    before = Tried("layers, 3090 filled first", 9.9, machine, layers_filled)
    after = Tried("tensor by memory, gathered as exllamav2 does", 2.75, machine, tensor(None, "column"))
    return Step("qwen2.5-32b-int4", example("qwen2.5-32b-int4"), LONG, "both", before, after, 2.75 / 9.9)


def _slots(words: str, measure: Measure, before: Tried, after: Tried, change: float | None) -> Step:
    return Step(f"123B in int4, {words}", MISTRAL_123B, CHAT, measure, before, after, change)


def _twins(words: str, machine: str, overlapped: bool) -> Step:
    before = Tried(f"layers by memory{words}", 1046, machine, layers_by_memory, overlapped)
    after = Tried("tensor, even, gathered as exllamav2 does", 379, machine, tensor([1, 1], "column"))
    return Step("llama-3.1-70b-int4", example("llama-3.1-70b-int4"), PROMPT, "prefill", before, after, 379 / 1046)


OLD_LAYERS = Tried("layers by memory, one card on 2.0 x4", 11, OLD_SLOT, layers_by_memory)
OLD_TENSOR = Tried("tensor, even, one card on 2.0 x4", None, OLD_SLOT, tensor([1] * 4))
NEW_LAYERS = Tried("layers by memory, all on 3.0 x8 or x16", None, NEW_SLOTS, layers_by_memory)
NEW_TENSOR = Tried("tensor, even, all on 3.0 x8 or x16", 24.7, NEW_SLOTS, tensor([1] * 4))

REPORTS = (
    Report(
        "3090 and 4060 Ti",
        "https://github.com/oobabooga/textgen/issues/6424",
        "neither model nor slots are told: a 32B model in 4 bits; time counts the prompt of 16,000 tokens too; "
        "then the same with the 4060 Ti on x4",
        "The model agrees that this way of tensor parallelism loses, by 15 to 40 %, not that it is 3.6 times slower; "
        "against layers in proportion to memory (4.7) it would even win on x8. What else exllamav2 spends (four "
        "gathers a layer, started from Python) is no property of the machine, and is not modelled.",
        (_long_prompts(PAIR), _long_prompts("rtx3090@4.0x16+rtx4060ti@4.0x4")),
    ),
    Report(
        "3090 and two 3060",
        "r/LocalLLaMA, Building LocalLlama Machine, episode 3 (llama.cpp)",
        "8B and 14B in 8 bits, as their speeds imply; both 3060 on 4.0 x4; tuned is as many layers on the 3090 as fit",
        "Nothing parts. Hand-tuned splits are a little faster than ours by the same rule; perhaps llama.cpp left room "
        "for some more layers on the 3090.",
        (
            _three_cards("qwen3-8b-int8", example("qwen3-8b-int8"), "3090 alone", alone(0), 48, 82),
            _three_cards("Qwen3 14B in int8", QWEN3_14B, "3090 alone", alone(0), 28, 48),
            _three_cards("qwen3-32b-int8", example("qwen3-32b-int8"), "layers tuned", layers_filled, 13.0, 15.6),
            _three_cards(
                "llama-3.1-70b-int4", example("llama-3.1-70b-int4"), "layers tuned", layers_filled, 10.3, 12.1
            ),
        ),
    ),
    Report(
        "four 3090, one of them on PCIe 2.0 x4",
        "r/LocalLLaMA, a hidden PCIe 2.0 x4 slot (llama.cpp with NCCL)",
        "128B of unknown shape: Mistral Large's 123B; 2.0 x4, which the catalogue lacks, is 3.0 x2 (equal rates)",
        "The report changed slot and split at once. By the model the split pays more in decode, and the slot makes "
        "prefill by tensor parallelism three times as fast; layers by memory gain nothing from the slot.",
        (
            _slots("both changed", "decode", OLD_LAYERS, NEW_TENSOR, 24.7 / 11),
            _slots("split only", "decode", OLD_LAYERS, OLD_TENSOR, None),
            _slots("slot only", "decode", OLD_TENSOR, NEW_TENSOR, None),
            _slots("slot only", "prefill", OLD_TENSOR, NEW_TENSOR, None),
            _slots("slot only", "decode", OLD_LAYERS, NEW_LAYERS, None),
        ),
    ),
    Report(
        "5090 and 3090 Ti",
        "r/LocalLLaMA, Qwen3.6 27B over 100 t/s (llama.cpp)",
        "a 32B model in 8 bits; slots 5.0 x8 and 4.0 x8; a 3090, which reads 7 % more slowly than the Ti",
        "The report lies between our exchanges and those of 40 us. Its 100 tokens a second are those of speculative "
        "decoding; only the ratio can be compared.",
        (
            Step(
                "qwen3-32b-int8",
                example("qwen3-32b-int8"),
                CHAT,
                "decode",
                Tried("layers by memory", None, GENERATIONS, layers_by_memory),
                Tried("tensor by memory", None, GENERATIONS, tensor()),
                1.43,
            ),
        ),
    ),
    Report(
        "two 3090, prefill of a 70B model",
        "https://github.com/turboderp-org/exllamav2/issues/734",
        "4 bits; both cards on 4.0 x8; a prompt of 4,096",
        "tpplan's layer split works on one chunk at a time, so its second card waits, and the directions differ. "
        "1046 t/s are 147e12 operations a second, more than one 3090 does (71e12, 142e12 with sums in 16 bits): in "
        "exllamav2 both cards must be busy with different chunks. Counted so, the directions agree; the tensor figure "
        "is close as it is. An engine that overlaps chunks beats every plan of tpplan in prefill here.",
        (_twins("", TWINS, False), _twins(", chunks overlapped", TWINS, True)),
    ),
)
