"""A model that does not fit its GPU: the rest of it on the CPU, planned or by whole layers.

    python benchmarks/gpu_offload.py --gpu cuda:0 --cpu cpu --held 0.8

Weights are random at a real shape. `--held`: the share of the blocks' weights that the GPU may hold. Layer offload puts
whole layers on the CPU, as llama.cpp does; the planned split is the solver's under the same limit, where OR-Tools is
installed; "by columns" gives the CPU its share of every MLP.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import msgspec
from gpu_boxes import layer_split
from gpu_decode import PROMPT, Rig, check

from tpplan.planner.hf_config import spec_from_config
from tpplan.planner.memory import device_bytes
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Split, Workload


def by_columns(model: ModelSpec, held: float) -> Split:
    """The GPU holds all but MLP columns, of which the CPU has as many as its share of the weights asks for."""
    attention = (2 * model.heads + 2 * model.kv_heads) * model.head_dim * model.hidden
    mlp = 3 * model.mlp * model.hidden
    columns = min(model.mlp, round((1 - held) * (attention + mlp) / mlp * model.mlp / 128) * 128)
    kept = model.mlp - columns
    layer = LayerPlan(
        BlockPlan("row", ((0, model.heads), (model.heads, model.heads))),
        BlockPlan("row", ((0, kept), (kept, model.mlp))),
    )
    whole = ((0, model.vocab), (model.vocab, model.vocab))
    return Split(whole, (layer,) * model.layers, whole)


def by_layers(model: ModelSpec, held: float) -> Split:
    """Whole layers on the GPU, then on the CPU; embedding and head on the GPU."""
    split = layer_split(model, [held, 1 - held])
    whole = ((0, model.vocab), (model.vocab, model.vocab))
    return Split(whole, split.layers, whole)


def planned(model: ModelSpec, names: list[str], cap_bytes: int, context: int) -> tuple[Split, float] | None:
    """The solver's split, and the seconds a token that it expects; None without OR-Tools."""
    try:
        import ortools  # noqa: F401  what solve will want

        from tpplan.hwprofiles.measure import measure
        from tpplan.planner.request import Request
        from tpplan.planner.solve import solve
    except ImportError as error:
        print(f"no planned split: {error}")
        return None
    profile = measure(names, True, lambda what, share: None, lambda line: print("  note:", line, flush=True))
    request = Request(
        Workload(PROMPT, 64, 1, context), dtype="bfloat16", cache_dtype="bfloat16", caps={names[0]: cap_bytes}
    )
    plan = solve(model, "random", profile, request)
    return plan.split, plan.predicted.decode_s_per_token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="cuda:0")
    parser.add_argument("--cpu", default="cpu")
    parser.add_argument("--held", type=float, default=0.8)
    parser.add_argument("--layers", type=int, default=0, help="fewer than the model has")
    parser.add_argument("--model", default=str(Path(__file__).parent.parent / "examples" / "llama-3.1-8b.json"))
    parser.add_argument("--context", type=int, default=1024)
    arguments = parser.parse_args()
    model = spec_from_config(msgspec.json.decode(Path(arguments.model).read_bytes()))
    if arguments.layers:
        model = msgspec.structs.replace(model, layers=arguments.layers, windows=model.windows[: arguments.layers])
    small = msgspec.structs.replace(model, layers=2, windows=model.windows[:2])
    names, work = [arguments.gpu, arguments.cpu], Workload(PROMPT, 64, 1, arguments.context)
    splits = {"layer offload": (by_layers(model, arguments.held), 0.0)}
    splits["by columns"] = (by_columns(model, arguments.held), 0.0)
    caps = [device_bytes(model, split, work, "bfloat16", "bfloat16")[0].total for split, _ in splits.values()]
    if found := planned(model, names, max(caps), arguments.context):
        splits["planned"] = found
    print(check(small, names, by_columns(small, arguments.held)), flush=True)
    lines = [f"{model.layers} layers, {names[0]} holds {arguments.held:.0%} of the blocks, the rest on {names[1]}"]
    for label, (split, expected_s) in splits.items():
        rig = Rig(model, names, split, arguments.context)
        prefill_s = statistics.median(rig.prefill([i % 1000 for i in range(PROMPT)]) for _ in range(2))
        token_s = statistics.median(rig.decode_s(PROMPT, 24) for _ in range(3))
        rig.close()
        told = f", expected {1 / expected_s:.1f}" if expected_s else ""
        lines.append(f"{label:14} decode {1 / token_s:6.2f} tok/s{told}; prefill {PROMPT / prefill_s:6.0f} tok/s")
        print(lines[-1], flush=True)
    print("\n".join(["", "== results", *lines]))


if __name__ == "__main__":
    main()
