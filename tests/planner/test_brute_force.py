"""The solver against all splits of small instances: its plan is one of the best, and its proof is never wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import pytest
from every import best_split, every_split
from linked import with_links
from profiles import make_model, make_profile, with_format

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.baselines import split_bytes
from tpplan.planner.check import check
from tpplan.planner.memory import device_caps
from tpplan.planner.model_spec import ModelSpec, Quant
from tpplan.planner.plan import Plan, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

EQUAL = 1.005 * 1.001  # plans that count as equal, and the gap at which a search ends
SHORT = Workload(prompt_tokens=64, new_tokens=32, context=256)
FREE, SLOW = {"overhead_s": 1e-8, "link_s": 1e-8}, {"overhead_s": 2e-7, "link_s": 2e-6}


def tiny(**changes: Any) -> ModelSpec:
    shape = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 128, "vocab": 2048}
    return make_model(**shape | changes)


def cards(speeds: list[float], rates: list[float], ports: str = "", host: float = 0.0) -> HardwareProfile:
    """GPUs with links of `rates` bytes/s, each on the port of its letter, " " for its own; ports carry 1e9 bytes/s."""
    names = [port.strip() for port in ports or " " * len(speeds)]
    shared = {name: 1e9 for name in names if name}
    return with_links(make_profile(speeds, kind="cuda", **FREE), rates, names, shared, host)


@dataclass(frozen=True)
class Case:
    model: ModelSpec
    profile: HardwareProfile
    wishes: dict[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> Request:
        return Request(**{"workload": SHORT, "dtype": "float32", "cache_dtype": "float32"} | self.wishes)

    @property
    def pricer(self) -> Pricer:
        return Pricer(self.model, self.profile, self.request.dtype, self.request.workload, self.request.cache_dtype)

    @property
    def contended(self) -> bool:
        return bool(self.profile.host.ports or self.profile.host.bytes_per_s)

    @property
    def heads(self) -> int:
        """Query heads that are not cut apart."""
        return 1 if self.request.replicate_kv else self.model.group

    def best_s(self) -> float:
        return best_split(self.pricer, device_caps(self.profile, self.request.caps), self.heads)[0]

    def capped(self, seed: int) -> Case:
        """The same with room for exactly what some split holds."""
        split = Random(seed).choice(list(every_split(self.pricer, self.heads)))
        caps = {d.name: b.total for d, b in zip(self.profile.devices, split_bytes(self.pricer, split))}
        return Case(self.model, self.profile, self.wishes | {"caps": caps})


TWO, THREE = make_profile([1.0, 0.6], **FREE), make_profile([1.0, 0.7, 0.5], **FREE)
MQA, SMALL = tiny(kv_heads=1), tiny(heads=2, mlp=64, vocab=1024)
INT4 = {"dtype": "int4"}
CASES = {
    "two devices": Case(tiny(), make_profile([1.0, 0.6], overhead_s=2e-7, link_s=2e-7)),
    "slow exchanges": Case(tiny(), make_profile([1.0, 0.6], **SLOW)),
    "whole KV heads": Case(tiny(), TWO, {"replicate_kv": False}),
    "one KV head": Case(MQA, TWO),
    "one KV head, long context": Case(MQA, TWO, {"workload": Workload(1500, 32, 1, 2048)}),
    "one layer": Case(tiny(layers=1), TWO),
    "ragged": Case(tiny(mlp=100, vocab=1500), make_profile([1.0, 0.9], **FREE)),
    "long prompt": Case(tiny(), make_profile([1.0, 0.8], **FREE), {"workload": Workload(700, 8, 1, 1024)}),
    "batch": Case(tiny(), TWO, {"workload": Workload(64, 32, 4, 256)}),
    "untied": Case(tiny(tied_embeddings=False), TWO),
    "untied, slow exchanges": Case(tiny(tied_embeddings=False), make_profile([1.0, 0.9], **SLOW)),
    "two windows": Case(tiny(heads=2, mlp=64, windows=(0, 64, 0)), cards([1.0, 0.8], [4e9, 4e9])),
    "a slow pass": Case(tiny(), msgspec.structs.replace(TWO, rendezvous_s=1e-6)),
    "three devices": Case(SMALL, THREE),
    "three devices, one KV head": Case(tiny(kv_heads=1, heads=3, mlp=32, vocab=1024), THREE),
    "sums in parts": Case(tiny(hidden=128, mlp=96, vocab=1024), cards([1.0] * 3, [3e8] * 3)),
    "fast links": Case(tiny(), cards([1.0, 0.5], [3e10, 3e10])),
    "a slow link": Case(tiny(), cards([1.0, 0.9], [3e10, 1e8])),
    "shared port": Case(tiny(vocab=1024), cards([1.0, 0.9, 0.8], [4e9, 4e9, 4e9], " aa")),
    "host memory": Case(tiny(vocab=1024), cards([1.0, 1.0, 0.8], [4e9] * 3, host=2e9)),
    "memory binds": Case(tiny(layers=2), make_profile([1.0, 0.6], free_bytes=1_200_000, overhead_s=1e-8)),
    "4 bits": Case(tiny(quant=Quant(4, 32)), with_format(TWO, "int4", 0.3), INT4),
    "4 bits, act-order": Case(tiny(quant=Quant(4, 32, True)), with_format(TWO, "int4", 0.3), INT4),
    "8 bits on request": Case(tiny(hidden=80, mlp=256), with_format(TWO, "int8", 0.6), {"dtype": "int8"}),
}
CAPPED = {
    f"{name}, to the byte": CASES[name].capped(seed)
    for seed, name in enumerate(CASES)
    if name not in ("two windows", "memory binds", "three devices", "three devices, one KV head", "sums in parts")
}


@pytest.mark.parametrize("case", [*CASES.values(), *CAPPED.values()], ids=[*CASES, *CAPPED])
def test_equals_brute_force(case: Case) -> None:
    """Of all sets, shares, strategies and ways of summing none that fits is below the bound, and none is faster than
    the plan by more than plans that count as equal; where devices contend, which the solver does not see, by a tenth.
    """
    best_s, plan = case.best_s(), solved(case)
    assert plan.bound_s <= best_s * (1 + 1e-9)
    assert plan.gap == pytest.approx(1 - plan.bound_s / plan.objective_s, abs=1e-9)
    if case.contended:
        assert plan.objective_s <= best_s * (EQUAL if plan.status == "optimal" else 1.1)
    else:
        assert plan.objective_s <= best_s * EQUAL
        assert plan.status == ("feasible" if is_mixed(plan, case.model) else "optimal")


def solved(case: Case) -> Plan:
    plan = solve(case.model, "m", case.profile, case.request)
    check(plan, case.model, case.profile)
    return plan


def is_mixed(plan: Plan, model: ModelSpec) -> bool:
    return len(set(zip(plan.layers, model.windows))) > len(set(model.windows))
