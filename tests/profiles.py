"""Synthetic hardware profiles from a roofline with overheads, and model shapes, for the planner's tests."""

from __future__ import annotations

import msgspec

from tpplan.hwprofiles.profile import SCHEMA_VERSION, DeviceProfile, HardwareProfile, Host, OpPoint
from tpplan.planner.model_spec import ModelSpec, Rope

WIDTHS = (64, 576, 2048, 8192, 32768)


def make_model(**changes: object) -> ModelSpec:
    """SmolLM2-135M's shape unless changed."""
    shape: dict[str, object] = {
        "architecture": "llama",
        "layers": 30,
        "hidden": 576,
        "heads": 9,
        "kv_heads": 3,
        "head_dim": 64,
        "mlp": 1536,
        "vocab": 49152,
        "context": 8192,
        "norm_eps": 1e-5,
        "rope": Rope(),
        "tied_embeddings": True,
        "qkv_bias": False,
        "o_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
    } | changes
    return ModelSpec(windows=shape.pop("windows", (0,) * shape["layers"]), **shape)


def make_profile(
    speeds: list[float],
    free_bytes: list[int] | int = 8 * 2**30,
    overhead_s: float = 1e-6,
    link_s: float = 1e-6,
    kind: str = "cpu",
    host_bytes: int = 2**40,
) -> HardwareProfile:
    """One device per speed: 1.0 reads 10 GB/s and multiplies at 50 Gflop/s; together a tenth slower than alone."""
    memory = free_bytes if isinstance(free_bytes, list) else [free_bytes] * len(speeds)
    devices = tuple(
        _device(f"{kind}:{d}", kind, d, speed, memory[d], overhead_s, link_s) for d, speed in enumerate(speeds)
    )
    return HardwareProfile(
        schema_version=SCHEMA_VERSION,
        tpplan_version="0",
        created="2026-01-01T00:00:00Z",
        quick=True,
        host=Host(description="synthetic", cores=len(speeds), memory_bytes=host_bytes),
        rendezvous_s=link_s / 10,
        devices=devices,
    )


def with_format(profile: HardwareProfile, form: str, share: float) -> HardwareProfile:
    """Matrix products in one more format, in `share` of bfloat16's time."""

    def added(device: DeviceProfile) -> DeviceProfile:
        times = [(p, share * p.alone_s, share * p.together_s) for p in device.ops if p.format == "bfloat16"]
        more = (msgspec.structs.replace(p, format=form, alone_s=a, together_s=t) for p, a, t in times)
        return msgspec.structs.replace(device, ops=(*device.ops, *more))

    return msgspec.structs.replace(profile, devices=tuple(map(added, profile.devices)))


def _device(name: str, kind: str, d: int, speed: float, memory: int, overhead_s: float, link_s: float) -> DeviceProfile:
    read, flops = 10e9 * speed, 50e9 * speed
    return DeviceProfile(
        name=name,
        kind=kind,
        description="synthetic",
        cores=(d,),
        free_bytes=memory,
        read_bytes_per_s_alone=read * 1.1,
        read_bytes_per_s=read,
        matmul_flops_per_s=flops,
        step_overhead_s=20e-6,
        ops=tuple(_points(read, flops, overhead_s, link_s)),
    )


def _points(read: float, flops: float, overhead_s: float, link_s: float) -> list[OpPoint]:
    points = []

    def add(op: str, rows: int, wide_in: int, wide_out: int, work_s: float, fixed_s: float, **more: object) -> None:
        seconds = fixed_s + work_s
        points.append(OpPoint(op, rows, wide_in, wide_out, seconds / 1.1, seconds, **more))

    for rows in (1, 8, 32, 128, 256):
        for wide_in in (64, 576, 1536, 8192, 28672):
            for wide_out in (32, 192, 576, 3072, 16384):
                for form, size in (("float32", 4), ("bfloat16", 2)):
                    bytes_s = (size * wide_in * wide_out + 4 * rows * (wide_in + wide_out)) / read
                    work_s = max(bytes_s, 2 * rows * wide_in * wide_out / flops)
                    add("linear", rows, wide_in, wide_out, work_s, overhead_s, format=form)
    for rows in (1, 256):
        for width in WIDTHS:
            for op in ("norm", "residual", "embed", "argmax", "swiglu", "rope"):
                wide_in = 2 * width if op == "swiglu" else width
                add(op, rows, wide_in, 1 if op == "argmax" else width, rows * width * 8 / read, overhead_s / 2)
        for heads in (1, 3, 8):
            for context in (64, 512, 4096):
                kv, q = heads * 64, heads * 192
                work_s = max(8 * kv * context / read, 4 * rows * q * context / flops)
                add("attention", rows, kv, q, work_s, overhead_s, context=context)
    for floats in (64, 576, 8192, 147456, 2097152):
        add("push", 1, floats, floats, floats * 4 / read, link_s)
        for peers in (1, 2):
            add("pull", 1, floats, floats, floats * 4 * peers / read, link_s, peers=peers)
    return points
