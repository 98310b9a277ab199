"""What one box can do, as measured: the frozen types behind `profile.json`.

Knows names, figures and units. Knows nothing of models, plans or torch.
Every timing is kept twice: with one device active (`alone_s`) and with all of them (`together_s`), since devices share
host memory and links.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

SCHEMA_VERSION = 2

Op = Literal["embed", "norm", "linear", "rope", "attention", "swiglu", "residual", "argmax", "push", "pull"]
Format = Literal["float32", "bfloat16", "int8", "int4"]


class OpPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One timed call of one step kind on one device, with cold weights.

    `linear`: [rows, in_features] @ [out_features, in_features]^T. `swiglu`: `out_features` columns of twice as many.
    `norm`, `residual`, `embed`, `argmax`: `in_features` wide. `rope`: (query heads + 2 KV heads) * head_dim wide.
    `attention`: `out_features` = query heads * head_dim, `in_features` = KV heads * head_dim, `context` cached tokens
    in `format`.
    `push`, `pull`: `in_features` float32 values a row through the host slots; `peers` = slices read by a pull.
    """

    op: Op
    rows: int
    in_features: int
    out_features: int
    alone_s: float
    together_s: float
    format: Format = "float32"
    context: int = 0
    peers: int = 0


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device's path to host memory, each direction apart, in bytes/s. `port`: the root port or switch it hangs on,
    by name; devices of one port share it.
    """

    name: str
    push_bytes_per_s: float
    pull_bytes_per_s: float
    port: str = ""


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A root port or switch whose bytes/s in each direction all links on it share."""

    name: str
    push_bytes_per_s: float
    pull_bytes_per_s: float


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device: memory in bytes, bandwidth in bytes/s, matrix rate in operations/s (2 per multiply-add).

    `link`: None where figures of pushes and pulls say all (a CPU's own memory). `export_only`: why `run` cannot use the
    device, "" where it can.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    description: str
    cores: tuple[int, ...]
    free_bytes: int
    read_bytes_per_s_alone: float
    read_bytes_per_s: float
    matmul_flops_per_s: float
    step_overhead_s: float
    ops: tuple[OpPoint, ...]
    link: Link | None = None
    export_only: str = ""


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine the figures were taken on. `memory_bytes` is what was available to all CPU devices together.

    `bytes_per_s`: of host memory, which all pushes and pulls share; 0 where the figures include it.
    """

    description: str
    cores: int
    memory_bytes: int
    bytes_per_s: float = 0.0
    ports: tuple[Port, ...] = ()


class HardwareProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All devices of one box, in the order that splits are given in.

    `rendezvous_s` is the one-way time of a flag between two devices through host memory, all devices active.
    """

    schema_version: int
    tpplan_version: str
    created: str
    quick: bool
    host: Host
    rendezvous_s: float
    devices: tuple[DeviceProfile, ...]

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]

    def device(self, name: str) -> DeviceProfile:
        """The device called `name`; ValueError names those that exist."""
        for device in self.devices:
            if device.name == name:
                return device
        raise ValueError(f"no device {name!r} in this profile; it has {', '.join(d.name for d in self.devices)}")
