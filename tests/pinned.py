"""The CP-SAT model with all shares given, which leaves it the price and the memory of that one split."""

from __future__ import annotations

from ortools.sat.python import cp_model

from tpplan.planner.plan import Range, Split, members
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.search import new_model
from tpplan.planner.split_model import SplitModel
from tpplan.planner.units import Units
from tpplan.planner.variables import Shares

TICKS = 10**9


def pinned_price(pricer: Pricer, request: Request, caps: tuple[int, ...], split: Split) -> tuple[float | None, float]:
    """Least seconds of a split whose layers of one window are alike, None where the model says that it does not fit;
    and by how much, relatively, fitted costs may be above true ones.
    """
    model = new_model(pricer, request, caps, pricer.split_s(split) / TICKS)
    solver = _solved(model, split)
    return solver.objective_value * model.tick_s if solver else None, model.error


def pinned_fits(pricer: Pricer, request: Request, caps: tuple[int, ...], split: Split) -> bool:
    """Whether the model says that a split whose layers of one window are alike fits."""
    return _solved(new_model(pricer, request, caps, 1.0, timed=False), split) is not None


def _solved(model: SplitModel, split: Split) -> cp_model.CpSolver | None:
    _pin(model, split)
    model.cp.minimize(model.objective)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.status_name(solver.solve(model.cp))
    assert status in ("OPTIMAL", "INFEASIBLE"), status
    return solver if status == "OPTIMAL" else None


def _pin(model: SplitModel, split: Split) -> None:
    for (name, layer), block in model.blocks.items():
        if layer < 0:
            _give(model, block.variants[0].inputs, split.head if name == "head" else split.embedding)
            continue
        plan = getattr(split.layers[layer], name)
        for variant in block.variants:
            here = variant.strategy == plan.strategy
            model.cp.add(variant.inputs.present == here)
            _give(model, variant.inputs, plan.units if here else ())
            if variant.outputs:
                _give(model, variant.outputs, plan.outputs if here and len(members(plan.units)) > 1 else ())


def _give(model: SplitModel, shares: Shares, spans: tuple[Range, ...]) -> None:
    dimension: Units = shares.by_device[0].dimension
    for d, share in enumerate(shares.by_device):
        begin, end = spans[d] if spans else (0, 0)
        model.cp.add(share.units == -(-end // dimension.unit) - -(-begin // dimension.unit))
