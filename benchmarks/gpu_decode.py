"""Decode and prefill at real shapes on GPUs or parts of one: python benchmarks/gpu_decode.py --rig cuda:0/8+cuda:0/16

Weights are random. Correctness comes first: logits after a prompt and some steps against an unsplit float32 model,
beside what the unsplit model loses in bfloat16. Then each rig: by speed and even. Needs torch, triton, msgspec and
networkx, and cuda-bindings for parts of a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec
import torch
from gpu_models import RandomWeights, unsplit_logits
from gpu_packed import GROUP, RandomPacked

from tpplan.executor.gpu.devices import open_devices
from tpplan.executor.gpu.loading import GpuLoader
from tpplan.executor.opening import start_worker
from tpplan.hwprofiles.device_names import is_gpu, numbered
from tpplan.planner.hf_config import spec_from_config
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import (
    GPU_PREFILL_CHUNK,
    HIDDEN_UNIT,
    VOCAB_UNIT,
    BlockPlan,
    LayerPlan,
    Range,
    Split,
    devices_used,
)
from tpplan.planner.units import Units, proportional

PROMPT = 512
WEIGHTS = ("bfloat16", "int4", "int4-act-order")


def split_by(model: ModelSpec, weights: Sequence[float], strategy: str = "row") -> Split:
    """Every block in proportion to `weights`: query heads, MLP columns, vocabulary rows."""

    def spans(total: int, unit: int) -> tuple[Range, ...]:
        units = Units(total, unit)
        return units.spans(proportional(units.count, weights))

    def block(total: int, unit: int) -> BlockPlan:
        outputs = spans(model.hidden, HIDDEN_UNIT) if strategy == "column" and len(weights) > 1 else ()
        return BlockPlan("column" if outputs else "row", spans(total, unit), outputs)

    layer = LayerPlan(block(model.heads, 1), block(model.mlp, 128))
    table = spans(model.vocab, VOCAB_UNIT)
    return Split(table, (layer,) * model.layers, table)


def weight_bytes(model: ModelSpec, weights: str = "bfloat16") -> float:
    """Bytes that a token reads: all weights but the embedding's; the head's in bfloat16."""
    head = model.vocab * model.hidden
    layers = model.weights - head * (2 - model.tied_embeddings)
    return 2 * head + layers * (2 if weights == "bfloat16" else 1 / 2 + 4 / GROUP)


def random_weights(model: ModelSpec, place: torch.device, weights: str) -> RandomWeights:
    """One of WEIGHTS."""
    if weights == "bfloat16":
        return RandomWeights(model, place)
    return RandomPacked(model, place, act_order=weights == "int4-act-order")


def copy_bytes_per_s() -> float:
    """Of a large copy on the whole GPU, read and written bytes counted."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = []
    for _ in range(12):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return 2 * source.numel() / median(seconds[2:])


class Rig:
    """A model split over devices, GPUs and CPUs, loaded with random weights."""

    def __init__(
        self, model: ModelSpec, names: Sequence[str], split: Split, context: int, weights: str = "bfloat16"
    ) -> None:
        self.model, self.logits, self.held = model, torch.zeros(model.vocab), ExitStack()
        busy = devices_used(split)
        on_gpus = [d for d in busy if is_gpu(names[d])]
        opened = self.held.enter_context(open_devices([names[d] for d in on_gpus]))
        devices = dict(zip(on_gpus, opened, strict=True))
        cpus = {d: start_worker(names[d], self.held) for d in busy if d not in devices}
        self.rows = min(GPU_PREFILL_CHUNK, context)
        places = {d: devices[d].place if d in devices else torch.device("cuda", 0) for d in busy}
        loader = GpuLoader(
            model, split, devices, lambda d: random_weights(model, places[d], weights), torch.bfloat16, context,
            self.logits, limit_ms=20_000 if cpus else 5_000, rows=self.rows, cpus=cpus, cpu_cache=torch.bfloat16,
            as_stored=weights != "bfloat16",
        )  # fmt: skip
        started = time.perf_counter()
        self.runners = loader.load()
        self.load_s = time.perf_counter() - started

    def prefill(self, tokens: Sequence[int]) -> float:
        """Seconds from the first token to the logits of the last."""
        started = time.perf_counter()
        for begin in range(0, len(tokens), self.rows):
            chunk = tokens[begin : begin + self.rows]
            self.runners["prefill"].run(chunk, begin, begin + len(chunk) == len(tokens))
        return time.perf_counter() - started

    def step(self, token: int, position: int) -> torch.Tensor:
        """Logits of one decode step."""
        self.runners["decode"].run([token], position, True)
        self.runners["decode"].gather_logits()
        return self.logits.clone()

    def decode_s(self, position: int, steps: int) -> float:
        """Seconds a token, in the middle of a run of `steps`."""
        ends, skipped = [], min(8, steps // 2)
        for _ in self.runners["decode"].decode(1, position, steps):
            ends.append(time.perf_counter())
        return (ends[-1] - ends[skipped]) / (len(ends) - 1 - skipped)

    def close(self) -> None:
        self.runners["decode"].abort()
        self.held.close()
        self.runners["decode"].host.memory.close()
        del self.runners
        torch.cuda.empty_cache()


def check(model: ModelSpec, names: Sequence[str], split: Split, form: str = "bfloat16") -> str:
    """Worst logit error of a prompt of 40 and three tokens, against float32, beside the unsplit bfloat16 model's."""
    tokens = [(7919 * i + 13) % model.vocab for i in range(44)]
    weights = random_weights(model, torch.device("cuda", 0), form)
    truth, plain = (unsplit_logits(model, weights, tokens, dtype) for dtype in (torch.float32, torch.bfloat16))
    rig = Rig(model, names, split, 256, form)
    rig.prefill(tokens[:40])
    rig.runners["prefill"].gather_logits()
    found = [(39, rig.logits.clone())] + [(at, rig.step(tokens[at], at)) for at in range(40, 44)]
    rig.close()
    scale = float(truth.abs().max())
    split_error = max(float((logits - truth[at].cpu()).abs().max()) for at, logits in found) / scale
    own_error = max(float((plain[at] - truth[at]).abs().max()) for at, _ in found) / scale
    verdict = "ok" if split_error <= 2 * own_error else "WRONG"
    return f"error {split_error:.2e} of the largest logit, unsplit bfloat16 {own_error:.2e}: {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="examples/llama-3.1-8b.json")
    parser.add_argument("--layers", type=int, default=0, help="fewer than the model has")
    parser.add_argument("--rig", action="append", default=[], help="devices joined by +, as often as wanted")
    parser.add_argument("--strategy", action="append", default=[], choices=["row", "column"])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--weights", choices=WEIGHTS, default=WEIGHTS[0])
    arguments = parser.parse_args()
    model = spec_from_config(msgspec.json.decode(Path(arguments.model).read_bytes()))
    if arguments.layers:
        model = msgspec.structs.replace(model, layers=arguments.layers, windows=model.windows[: arguments.layers])
    small = msgspec.structs.replace(model, layers=2, windows=model.windows[:2])
    rate = copy_bytes_per_s()
    lines = [f"{torch.cuda.get_device_name(0)}: copy {rate / 1e12:.2f} TB/s; {arguments.weights}"]
    for rig in arguments.rig or ["cuda:0"]:
        names = numbered(rig.split("+"))
        speeds = [float(name.partition("/")[2].partition("#")[0] or 132) for name in names]
        for label, shares in {"by SMs": speeds, "even": [1.0] * len(names)}.items():
            if label == "even" and len(set(speeds)) == 1:
                continue
            for strategy in (arguments.strategy or ("row", "column")) if len(names) > 1 else ("row",):
                split = split_by(model, shares, strategy)
                checked = check(small, names, split_by(small, shares, strategy), arguments.weights)
                print(rig, label, strategy, checked, flush=True)
                measured = Rig(model, names, split, arguments.context, arguments.weights)
                prefill_s = median(measured.prefill([i % 1000 for i in range(512)]) for _ in range(5))
                token_s = median(measured.decode_s(512, 72) for _ in range(3))
                share = weight_bytes(model, arguments.weights) / token_s / rate
                lines.append(
                    f"{rig:24} {label:7} {strategy:7} decode {1 / token_s:6.1f} tok/s, {share:4.0%} of copy; prefill "
                    f"{512 / prefill_s:8.0f} tok/s; load {measured.load_s:.1f} s; {checked}"
                )
                print(lines[-1], flush=True)
                measured.close()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
