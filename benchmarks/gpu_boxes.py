"""Several GPUs of one host, or parts of one: links, all-reduces beside NCCL's, decode of real shapes, planned or not.

    python benchmarks/gpu_boxes.py --pair cuda:0+cuda:1 --rig cuda:0+cuda:1 --rig cuda:0+cuda:1/32

Peer access is never used but by NCCL's own column. `--pair`: devices whose links and collectives are timed; with one
GPU name parts of it (`cuda:0/32+cuda:0/32`), NCCL is left out then. Plans come from a quick profile where OR-Tools is
installed, else from the devices' SMs. NVLink multicast stays off.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import torch
from gpu_decode import PROMPT, Rig, check, copy_bytes_per_s, split_by, weight_bytes

from tpplan.executor.gpu.devices import GpuDevices, open_devices
from tpplan.hwprofiles.device_names import gpu_of, numbered
from tpplan.kernels.gpu.bulk import Bulk, new_bulk_slots
from tpplan.kernels.gpu.exchange import Exchange
from tpplan.kernels.gpu.handover import advance
from tpplan.kernels.gpu.host_memory import HostMemory, Layout, Rank
from tpplan.kernels.gpu.slots import new_site
from tpplan.planner.hf_config import spec_from_config
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Split, Workload

CALLS, SITES = 800, 8
SIZES_KIB = (8, 64, 16 * 1024)
NCCL_OFF = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}


def on_all(devices: GpuDevices, job: Callable[[int], object]) -> None:
    """`job(place)` on every device's own thread and stream, all at once, to its end."""

    def ended(d: int) -> None:
        job(d)
        devices[d].compute.synchronize()

    jobs = [device.worker.submit(partial(ended, d)) for d, device in enumerate(devices)]
    for done in jobs:
        done.result()


def links(devices: GpuDevices, mib: int = 64, copies: int = 12) -> list[str]:
    """GB/s of plain copies each way: every GPU alone, all together, and both ways at once."""
    size = mib * 2**20
    gpus = sorted({device.index for device in devices})
    host = {g: [torch.zeros(size, dtype=torch.uint8).pin_memory() for _ in "io"] for g in gpus}
    card = {g: [torch.zeros(size, dtype=torch.uint8, device=f"cuda:{g}") for _ in "io"] for g in gpus}
    lanes = {g: [torch.cuda.Stream(g) for _ in "io"] for g in gpus}

    def rate(which: Sequence[int], ways: Sequence[int]) -> float:
        for _warm in range(2):
            started = time.perf_counter()
            for _ in range(copies):
                for g in which:
                    for way in ways:
                        source, target = (card, host) if way else (host, card)
                        with torch.cuda.stream(lanes[g][way]):
                            target[g][way].copy_(source[g][way], non_blocking=True)
            for g in which:
                torch.cuda.synchronize(g)
        return copies * size / (time.perf_counter() - started) / 1e9

    lines = []
    for which in [*([g] for g in gpus), *([gpus] if len(gpus) > 1 else [])]:
        to_gpu, to_host, both = (rate(which, ways) for ways in ((0,), (1,), (0, 1)))
        name = f"GPU {which[0]} alone" if len(which) == 1 else f"GPUs {which} together, each"
        lines.append(
            f"links {name}: to GPU {to_gpu:.1f}, to host {to_host:.1f}, both ways at once {both:.1f} GB/s each"
        )
    return lines


def one_shot(devices: GpuDevices, kib: int) -> float:
    """Microseconds of an all-reduce of `kib` KiB in bfloat16 with residual and norm, in a graph; sums are checked."""
    n, width = len(devices), kib * 512
    layout = Layout(n)
    sites = [new_site(layout, k, dict.fromkeys(range(n), width), range(n), "sum", torch.bfloat16) for k in range(SITES)]
    memory = HostMemory(layout, [device.index for device in devices])
    held, graphs = {}, {}

    def prepare(d: int) -> None:
        place, rank = devices[d].place, Rank(memory, d, devices[d].index, 2000)
        bound = [Exchange(site, rank) for site in sites]
        part = torch.full((1, width), float(d + 1), device=place)
        out, weight = torch.zeros(1, width, device=place), torch.ones(width, device=place)
        scaled = torch.zeros(1, width, device=place, dtype=torch.bfloat16)
        squares = torch.zeros(1, bound[0].programs, device=place)
        control = torch.tensor([0, 1, 0, 0], dtype=torch.int32, device=place)
        held[d] = control, out

        def body() -> None:
            for call in range(CALLS):
                bound[call % SITES](control, part, out, out, None, weight, scaled, squares)
                if call % SITES == SITES - 1:
                    advance(control)

        body()
        devices[d].compute.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=devices[d].compute, capture_error_mode="thread_local"):
            body()
        graphs[d] = graph, (part, weight, scaled, squares, bound)

    memory.abort()
    for d, device in enumerate(devices):
        device.worker.submit(lambda d=d: prepare(d)).result()
    memory.reset()
    start = torch.tensor([0, 1, 0, 0], dtype=torch.int32)
    on_all(devices, lambda d: (held[d][0].copy_(start), held[d][1].zero_()))
    times = []
    for _ in range(12):
        started = time.perf_counter()
        on_all(devices, lambda d: graphs[d][0].replay())
        times.append((time.perf_counter() - started) / CALLS * 1e6)
    assert not memory.aborted, memory.troubles()
    expected = 12 * CALLS * n * (n + 1) / 2
    for d in range(n):
        assert torch.equal(held[d][1].cpu(), held[0][1].cpu()), "ranks differ"
        assert float(held[d][1][0, 0]) == expected, (float(held[d][1][0, 0]), expected)
    graphs.clear()
    memory.close()
    return statistics.median(times)


def bulk(devices: GpuDevices, mib: int, rows: int = 256) -> float:
    """Microseconds of a sum of `mib` MiB in bfloat16 among all devices by the exchange of prefill."""
    n, width = len(devices), mib * 2**19 // rows
    layout = Layout(n)
    slots = new_bulk_slots(layout, rows, width)
    memory = HostMemory(layout, [device.index for device in devices])
    bulks = [Bulk(slots, Rank(memory, d, device.index, 2000)) for d, device in enumerate(devices)]
    parts = [torch.full((rows, width), float(d + 1), device=device.place) for d, device in enumerate(devices)]
    outs = [torch.zeros(rows, width, device=device.place) for device in devices]
    widths, number = dict.fromkeys(range(n), width), 0

    def call(d: int, first: int, count: int) -> None:
        for k in range(count):
            bulks[d](first + k, widths, tuple(range(n)), "sum", torch.bfloat16, rows, parts[d], outs[d])

    memory.abort()
    on_all(devices, lambda d: call(d, 1, 4))
    on_all(devices, lambda d: bulks[d].reset())
    memory.reset()
    times, number = [], 1
    for _ in range(6):
        started = time.perf_counter()
        on_all(devices, partial(call, first=number, count=10))
        times.append((time.perf_counter() - started) / 10 * 1e6)
        number += 10
    assert not memory.aborted, memory.troubles()
    assert all(float(out.sum()) == rows * width * n * (n + 1) / 2 for out in outs)
    memory.close()
    return statistics.median(times)


def nccl_rank(rank: int, world: int, port: int) -> None:
    """One process of NCCL's column: medians in microseconds by size, from graphs, where each holds 40 all-reduces."""
    import torch.distributed as dist

    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = []
    for kib in SIZES_KIB:
        x = torch.ones(kib * 512, dtype=torch.bfloat16, device="cuda")
        for _ in range(3):
            dist.all_reduce(x)
        torch.cuda.synchronize()
        graph, calls = torch.cuda.CUDAGraph(), 40 if kib < 1024 else 8
        with torch.cuda.graph(graph):
            for _ in range(calls):
                dist.all_reduce(x)
        times = []
        for _ in range(12):
            torch.cuda.synchronize()
            started = time.perf_counter()
            graph.replay()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - started) / calls * 1e6)
        found.append(f"{statistics.median(times):.1f}")
    if rank == 0:
        print("NCCL", *found, flush=True)
    os._exit(0)  # graphs that hold NCCL calls hang its own ending


def nccl(world: int, peer_access: bool) -> str:
    """Medians in microseconds for SIZES_KIB, or why there are none."""
    env = os.environ | NCCL_OFF | {"NCCL_P2P_DISABLE": "0" if peer_access else "1"}
    port = 29500 + 2 * world + peer_access
    command = [sys.executable, __file__, "--nccl-world", str(world), "--nccl-port", str(port), "--nccl-rank"]
    ranks = [
        subprocess.Popen([*command, str(rank)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    try:
        out, err = ranks[0].communicate(timeout=90)
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        for rank in ranks:
            rank.kill()
    lines = [line for line in out.splitlines() if line.startswith("NCCL")]
    return lines[0][5:] if lines else f"failed: {err.strip().splitlines()[-1:]}"


def collectives(devices: GpuDevices) -> list[str]:
    """The table of all-reduces."""
    world = len({device.index for device in devices})
    lines = [f"all-reduce among {len(devices)}, us at {', '.join(f'{kib} KiB' for kib in SIZES_KIB)}"]
    small = [f"{one_shot(devices, kib):.1f}" for kib in SIZES_KIB[:2]]
    lines.append(f"  through host memory {' '.join(small)} {bulk(devices, SIZES_KIB[2] // 1024):.0f}")
    if world == len(devices) > 1:
        lines += [f"  NCCL {'with' if peer else 'without'} peer access {nccl(world, peer)}" for peer in (True, False)]
    return lines


def layer_split(model: ModelSpec, weights: Sequence[float]) -> Split:
    """Whole layers on one device after the other, in proportion to `weights`; embedding first, head last."""
    n = len(weights)
    ends = [round(model.layers * sum(weights[: d + 1]) / sum(weights)) for d in range(n)]
    owner = [next(d for d in range(n) if layer < ends[d]) for layer in range(model.layers)]

    def alone(total: int, d: int) -> tuple[tuple[int, int], ...]:
        return tuple((0, 0) if e < d else (0, total) if e == d else (total, total) for e in range(n))

    layers = tuple(
        LayerPlan(BlockPlan("row", alone(model.heads, d)), BlockPlan("row", alone(model.mlp, d))) for d in owner
    )
    return Split(alone(model.vocab, owner[0]), layers, alone(model.vocab, owner[-1]))


def sms(name: str) -> float:
    gpu = gpu_of(name)
    return float(gpu.sms or torch.cuda.get_device_properties(gpu.index).multi_processor_count)


def plans(model: ModelSpec, names: Sequence[str], context: int) -> dict[str, tuple[Split, float]]:
    """Splits by name, with the seconds a token that the planner expects; 0 where there is no planner."""
    speeds = [sms(name) for name in names]
    made = {"even": split_by(model, [1.0] * len(names)), "layers": layer_split(model, speeds)}
    try:
        import ortools  # noqa: F401  what solve will want

        from tpplan.hwprofiles.measure import measure
        from tpplan.planner.price import Pricer
        from tpplan.planner.request import Request
        from tpplan.planner.solve import solve
    except ImportError as error:
        print(f"splits by SMs: {error}", flush=True)
        return {"by SMs": (split_by(model, speeds), 0.0)} | {name: (split, 0.0) for name, split in made.items()}
    profile = measure(names, True, lambda what, share: None, lambda line: print("  note:", line, flush=True))
    work = Workload(PROMPT, 64, 1, context)
    plan = solve(model, "random", profile, Request(work, dtype="bfloat16", cache_dtype="bfloat16", time_limit_s=20))
    pricer = Pricer(model, profile, "bfloat16", plan.workload, "bfloat16")
    found = {"planned": (plan.split, plan.predicted.decode_s_per_token)}
    return found | {name: (split, pricer.predict(split).decode_s_per_token) for name, split in made.items()}


def decode(model: ModelSpec, rig: str, context: int, copy: float) -> list[str]:
    """Correctness, then decode and prefill of every split on a rig."""
    names = numbered(rig.split("+"))
    small = msgspec.structs.replace(model, layers=2, windows=model.windows[:2])
    splits, lines = {"alone": (split_by(model, [1.0]), 0.0)}, []
    if len(names) > 1:
        try:
            splits = plans(model, names, context)
        except Exception:
            traceback.print_exc(limit=8)
            splits = {"by SMs": (split_by(model, [sms(name) for name in names]), 0.0)}
            splits["even"] = split_by(model, [1.0] * len(names)), 0.0
    if len(names) > 1:
        lines.append(f"{rig} {check(small, names, split_by(small, [sms(name) for name in names]))}")
    for label, (split, predicted_s) in splits.items():
        try:
            measured = Rig(model, names, split, context)
        except (RuntimeError, ValueError) as error:
            lines.append(f"{rig:30} {label:8} {str(error).splitlines()[0][:100]}")
            continue
        prefill_s = statistics.median(measured.prefill([i % 1000 for i in range(PROMPT)]) for _ in range(3))
        token_s = statistics.median(measured.decode_s(PROMPT, 72) for _ in range(3))
        measured.close()
        told = f"predicted {1 / predicted_s:6.1f} ({token_s / predicted_s - 1:+.0%} time)" if predicted_s else ""
        share = weight_bytes(model) / token_s / copy
        lines.append(
            f"{rig:30} {label:8} decode {1 / token_s:6.1f} tok/s {told}, {share:4.0%} of one GPU's copy; prefill "
            f"{PROMPT / prefill_s:6.0f} tok/s"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", action="append", default=[], help="devices joined by +")
    parser.add_argument("--rig", action="append", default=[], help="devices joined by +, as often as wanted")
    parser.add_argument("--model", default=str(Path(__file__).parent.parent / "examples" / "llama-3.1-8b.json"))
    parser.add_argument("--layers", type=int, default=0, help="fewer than the model has")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--nccl-rank", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--nccl-world", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--nccl-port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.nccl_rank >= 0:
        nccl_rank(arguments.nccl_rank, arguments.nccl_world, arguments.nccl_port)
    model = spec_from_config(msgspec.json.decode(Path(arguments.model).read_bytes()))
    if arguments.layers:
        model = msgspec.structs.replace(model, layers=arguments.layers, windows=model.windows[: arguments.layers])
    copy = copy_bytes_per_s()
    lines = [f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}: copy {copy / 1e12:.2f} TB/s"]
    for pair in arguments.pair:
        with open_devices(numbered(pair.split("+"))) as devices:
            for section in (links, collectives):
                try:
                    lines += [f"-- {pair}", *section(devices)]
                except Exception:
                    traceback.print_exc(limit=8)
        print("\n".join(lines), flush=True)
    for rig in arguments.rig:
        lines += decode(model, rig, arguments.context, copy)
    print("\n".join(["", "== results", *lines]))


if __name__ == "__main__":
    main()
