"""Greedy text of a real model on rigs of GPUs against the CPU's.

    python benchmarks/gpu_text.py MODEL --rig cuda:0/8+cuda:0/16 --rig cuda:0/16+cpu*4

Splits are by the weights given with `*` (cuda:0/8*1+cpu:0-7*0.5), else by SMs. Where texts differ, the gap of the
CPU's two likeliest logits at that place is shown: a genuine tie is within the error of bfloat16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from gpu_decode import split_by
from plans import plan_of

from tpplan.executor.sampling import Sampler
from tpplan.executor.session import Session
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec

PROMPTS = [
    [1, 4093, 198, 19556, 314, 260, 6376, 4461, 47, 2, 198, 1, 520, 9531, 198],
    [504, 1820, 282, 260, 905, 5025, 314, 253, 1423, 282],
    [57, 327, 260, 808, 655, 281, 260, 2816, 28],
]
NEW = 64


def texts(model: ModelSpec, path: str, devices: Sequence[str], weights: Sequence[float], dtype: str) -> list[list[int]]:
    """Greedy continuations of all prompts, and what loading and decoding took."""
    strategies = ("row", "column") if len(devices) > 1 else ("row",)
    found = []
    for strategy in strategies:
        plan = plan_of(model, devices, split_by(model, weights, strategy), dtype, dtype, 1024)
        started = time.perf_counter()
        with Session.open(plan, model, path) as session:
            loaded = time.perf_counter()
            results = [session.generate(prompt, NEW, Sampler()) for prompt in PROMPTS]
        speed = results[-1].decode_tokens_per_s
        print(f"  {strategy}: loaded in {loaded - started:.2f} s, decode {speed:.1f} tok/s", flush=True)
        found.append([list(result.token_ids) for result in results])
    assert all(each == found[0] for each in found) or dtype != "float32", "strategies differ in float32"
    return found[-1]


def tie(model: ModelSpec, path: str, ids: list[int]) -> float:
    """By how much of the largest logit the CPU prefers its first choice after `ids` to its second."""
    plan = plan_of(model, ["cpu"], split_by(model, [1.0]), "float32", "float32", 1024)
    with Session.open(plan, model, path) as session:
        session.step(ids, 0, Sampler(temperature=1.0, seed=0), "prefill")
        best = session.logits.topk(2).values
        return float((best[0] - best[1]) / best[0].abs())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rig", action="append", default=[], help="devices joined by +, as often as wanted")
    arguments = parser.parse_args()
    path, model = arguments.model, load_model(arguments.model)
    print("CPU, float32")
    truth = texts(model, path, ["cpu"], [1.0], "float32")
    for rig in arguments.rig:
        parts = [part.partition("*") for part in rig.split("+")]
        names = [name for name, _, _ in parts]
        weights = [float(given or name.partition("/")[2].partition("#")[0] or 1) for name, _, given in parts]
        for dtype in ("float32", "bfloat16"):
            print(f"{rig}, {dtype}", flush=True)
            found = texts(model, path, names, weights, dtype)
            for prompt, (one, other) in zip(PROMPTS, zip(found, truth, strict=True), strict=True):
                at = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), None)
                if at is None:
                    print(f"  {len(one)} tokens equal the CPU's")
                else:
                    gap = tie(model, path, [*prompt, *other[:at]])
                    print(f"  first difference at token {at}, where the CPU's choices are {gap:.2%} apart")
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
