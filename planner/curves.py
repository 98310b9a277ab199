"""Step costs as functions of a device's share, fitted from above by few straight pieces in integer ticks.

Knows the cost of one stage of one block on one device. Knows nothing of constraints or of what the others do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

from .layer_graph import StepBuilder, attention_inputs, mlp_inputs
from .plan import HIDDEN_UNIT, VOCAB_UNIT, Strategy
from .price import Chunk, Pricer
from .steps import Block, Kind
from .units import Units
from .weight_formats import mlp_unit

TOLERANCE = 1e-3
MOST_PIECES = 40  # of all devices together
MOST_SAMPLES = 48

# What a stage costs: compute in decode and prefill; pushes in decode, in all chunks of prefill, in its last chunk.
Costs = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Piece:
    """For `lo <= units <= hi` every cost is at most `slopes * units + bases`, in ticks."""

    lo: int
    hi: int
    slopes: tuple[int, ...]
    bases: tuple[int, ...]


@dataclass(frozen=True)
class Curve:
    """Costs of a device that shares a block (`pieces`) or holds all of it (`whole`); `unit`: the least a unit adds."""

    pieces: tuple[Piece, ...]
    whole: Piece
    unit: tuple[int, ...]


class StageCosts:
    """Prices stages on single devices, both phases at once, in seconds; prefill sums all chunks of a prompt."""

    def __init__(self, pricer: Pricer) -> None:
        m = pricer.model
        self.pricer, self.model = pricer, m
        batch = pricer.workload.batch
        self.phases = ([Chunk(batch, pricer.decode_context, 1, batch)], pricer.chunks)
        self.heads, self.columns = Units(m.heads, m.group), Units(m.mlp, mlp_unit(m, pricer.dtype))
        self.hidden, self.vocabulary = Units(m.hidden, HIDDEN_UNIT), Units(m.vocab, VOCAB_UNIT)
        self.inputs = {"attention": m.heads * m.head_dim, "mlp": m.mlp}

    def units(self, block: Block) -> Units:
        return self.heads if block == "attention" else self.columns

    def share(self, layer: int, block: Block, strategy: Strategy, d: int, units: int, alone: bool) -> Costs:
        """A block's first stage with `units` units, the output projection included under row, without the residual."""
        span = (0, self.units(block).of(units))
        build = attention_inputs if block == "attention" else mlp_inputs

        def steps(b: StepBuilder) -> int:
            width = build(b, d, span)
            if strategy == "column":
                return 0 if alone else width
            b.add(d, Kind.LINEAR, "out", width, self.model.hidden)
            return self.model.hidden

        return self._costs(layer, block, d, alone, steps)

    def outputs(self, layer: int, block: Block, d: int, units: int, alone: bool) -> Costs:
        """The second stage of a column block with `units` hidden units."""
        width = self.hidden.of(units)

        def steps(b: StepBuilder) -> int:
            b.add(d, Kind.LINEAR, "out", self.inputs[block], width)
            b.add(d, Kind.RESIDUAL, "residual", width, width)
            return width

        return self._costs(layer, block, d, alone, steps)

    def residual(self, block: Block, d: int, alone: bool) -> Costs:
        hidden = self.model.hidden

        def steps(b: StepBuilder) -> int:
            b.add(d, Kind.RESIDUAL, "residual", hidden, hidden)
            return 0

        return self._costs(0, block, d, alone, steps)

    def embedding(self, d: int, alone: bool) -> Costs:
        hidden = self.model.hidden

        def steps(b: StepBuilder) -> int:
            b.add(d, Kind.EMBED, "embed", hidden, hidden)
            return hidden

        return self._costs(-1, "embed", d, alone, steps)

    def head(self, d: int, units: int, alone: bool) -> Costs:
        hidden, tokens = self.model.hidden, self.vocabulary.of(units)

        def steps(b: StepBuilder) -> int:
            b.rows = b.logits
            b.add(d, Kind.NORM, "norm", hidden, hidden)
            b.add(d, Kind.LINEAR, "lm_head", hidden, tokens)
            b.add(d, Kind.ARGMAX, "argmax", tokens, 1)
            return 0

        return self._costs(-1, "head", d, alone, steps, last_only=True)

    def pull(self, d: int, width: int, producers: int, combine: str, alone: bool) -> Costs:
        """Pulls of one slice from each of `producers`; in decode, prefill, and as last cost in prefill's last chunk."""

        def steps(b: StepBuilder) -> int:
            peers = tuple(range(producers))
            b.add(d, Kind.PULL, "pull", width, width, peers=peers, combine=combine)
            return 0

        every = self._costs(0, "mlp", d, alone, steps)
        last = self._costs(0, "mlp", d, alone, steps, last_only=True)
        return every[:4] + (last[1],)

    def _costs(self, layer, block, d, alone, steps, last_only=False) -> Costs:  # type: ignore[no-untyped-def]
        """Runs `steps`, which adds compute and returns the width it pushes, for every chunk of both phases."""
        compute, push, last = [0.0, 0.0], [0.0, 0.0], 0.0
        for phase, chunks in enumerate(self.phases):
            for chunk in chunks[-1:] if last_only else chunks:
                b = StepBuilder(self.model, chunk.rows, chunk.context, chunk.logits)
                b.enter(layer, block, (d,) if alone else (d, d))
                width = steps(b)
                compute[phase] += chunk.count * sum(map(self.pricer.cost.step_s, b.steps))
                if width:
                    b.add(d, Kind.PUSH, "push", width, width)
                    last = self.pricer.cost.step_s(b.steps[-1])
                    push[phase] += chunk.count * last
        return compute[0], compute[1], push[0], push[1], last


def floors(wholes: list[Costs]) -> tuple[float, float]:
    """Decode and prefill seconds below which no sharing brings a stage, from what each device needs for all of it."""
    decode, prefill = (1 / sum(1 / (w[phase] + w[phase + 2]) for w in wholes) for phase in (0, 1))
    return decode, prefill


def fit(  # type: ignore[no-untyped-def]
    costs, units: int, tick_s: float, floor: tuple[float, float], most: int
) -> tuple[Curve, float]:
    """The curve of `costs(units, alone)` on 1..units in `most` pieces, and how far it lies above them at worst.

    Errors are relative to the cost, or to `floor` where that is larger: a stage lasts no less.
    """
    whole = _constant(units, costs(units, True), tick_s)
    if units == 1:
        return Curve((), whole, whole.slopes), 0.0
    at = sorted({max(1, round((units - 1) * i / MOST_SAMPLES)) for i in range(MOST_SAMPLES + 1)})
    points = [(u, costs(u, False)) for u in at]
    tolerance, cuts = TOLERANCE, _cuts(points, TOLERANCE, floor)
    while len(cuts) > most:
        tolerance *= 2
        cuts = _cuts(points, tolerance, floor)
    pieces, error = [], 0.0
    for begin, end in cuts:
        lo = points[begin - 1][0] + 1 if begin else 1
        piece, worst = _piece(
            lo, points[max(begin - 1, 0) if lo < points[begin][0] else begin : end + 1], tick_s, floor
        )
        pieces.append(piece)
        error = max(error, worst)
    return Curve(tuple(pieces), whole, _least_steps(points, tick_s)), error


def _least_steps(points: list[tuple[int, Costs]], tick_s: float) -> tuple[int, ...]:
    """Ticks that every further unit adds at least, by component; 0 where one point says nothing."""
    if len(points) == 1:
        return (0,) * len(points[0][1])
    steps = (
        [(after - before) / (u1 - u0) for before, after in zip(first, last)]
        for (u0, first), (u1, last) in pairwise(points)
    )
    return tuple(max(0, floor(min(each) / tick_s)) for each in zip(*steps))


def free_curve(units: int) -> Curve:
    """A curve for questions in which time plays no part."""
    free = (0,) * 5
    return Curve((Piece(1, units - 1, free, free),) if units > 1 else (), Piece(units, units, free, free), free)


def _constant(units: int, costs: Costs, tick_s: float) -> Piece:
    return Piece(units, units, (0,) * len(costs), tuple(ceil(c / tick_s) for c in costs))


def _cuts(points: list[tuple[int, Costs]], tolerance: float, floor: tuple[float, float]) -> list[tuple[int, int]]:
    """Index ranges (inclusive) of points that one line each describes; cut where the line is worst."""
    done, todo = [], [(0, len(points) - 1)]
    while todo:
        begin, end = todo.pop()
        worst, where = max(
            ((_miss(points[begin], points[end], points[i], floor), i) for i in range(begin + 1, end)),
            default=(0.0, begin),
        )
        if worst <= tolerance:
            done.append((begin, end))
        else:
            todo += [(begin, where), (min(where + 1, end), end)]
    return sorted(done)


def _miss(
    first: tuple[int, Costs], last: tuple[int, Costs], point: tuple[int, Costs], floor: tuple[float, float]
) -> float:
    """Distance of a point from a line through two others, relative to the phase's cost."""
    share = (point[0] - first[0]) / (last[0] - first[0])
    gaps = [abs(a + (b - a) * share - c) for a, b, c in zip(first[1], last[1], point[1])]
    decode, prefill = (max(point[1][phase] + point[1][phase + 2], floor[phase]) for phase in (0, 1))
    return max(max(gaps[0], gaps[2]) / decode, max(gaps[1], gaps[3]) / prefill)


def _piece(lo: int, points: list[tuple[int, Costs]], tick_s: float, floor: tuple[float, float]) -> tuple[Piece, float]:
    """A line above all points for `lo` up to the last one, and how far above it is at worst."""
    (u0, first), (u1, last) = points[0], points[-1]
    slopes = tuple(round((b - a) / tick_s / max(u1 - u0, 1)) for a, b in zip(first, last))
    bases = tuple(max(ceil(c[i] / tick_s - slopes[i] * u) for u, c in points) for i in range(len(first)))
    over = max(
        max((slopes[i] * u + bases[i]) * tick_s - c[i] for i in (phase, phase + 2))
        / max(c[phase] + c[phase + 2], floor[phase])
        for u, c in points
        for phase in (0, 1)
    )
    return Piece(lo, u1, slopes, bases), over
