"""One pass of a split model as steps, and those steps as a networkx graph.

Knows the order of steps, who takes part in which collective, and every width. Knows neither times nor tensors.
Every member of a block holds the whole hidden state; the residual is folded into the first producer's part (row) or
into each producer's slice (column), so a device outside a block pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import networkx as nx

from .model_spec import ModelSpec
from .plan import BlockPlan, Phase, Range, Split, kv_span, members, size
from .steps import Block, Kind, Step
from .strategy import OUTPUT_PROJECTION


@dataclass
class StepBuilder:
    """Makes the steps of one block at a time; `rows` tokens, `context` cached positions."""

    model: ModelSpec
    rows: int
    context: int
    logits: int = 1
    phase: Phase = "decode"
    collectives: int = 0
    layer: int = -1
    block: Block = "embed"
    contended: bool = False
    exact: bool = False
    steps: list[Step] = field(default_factory=list)

    def enter(self, layer: int, block: Block, devices: tuple[int, ...]) -> None:
        self.layer, self.block, self.contended, self.exact = layer, block, len(devices) > 1, False

    def add(self, device: int, kind: Kind, role: str, wide_in: int, wide_out: int, **more: object) -> None:
        where = self.block if self.layer < 0 else f"layer{self.layer}.{self.block}"
        step = Step(
            name=f"{where}.d{device}.{role}",
            kind=kind,
            device=device,
            layer=self.layer,
            block=self.block,
            role=role,
            rows=self.rows,
            in_features=wide_in,
            out_features=wide_out,
            contended=self.contended,
            **more,  # type: ignore[arg-type]
        )
        self.steps.append(step)

    def exchange(self, role: str, widths: dict[int, int], consumers: tuple[int, ...], combine: str) -> None:
        """Pushes of the producers (`widths` by device), pulls of the consumers; nothing where one device is both."""
        producers = tuple(sorted(widths))
        if not consumers or (producers == consumers and len(producers) == 1):
            return
        self._push(role, widths, consumers)
        wide_in = tuple(widths[p] for p in producers)
        total = sum(wide_in) if combine == "concat" else wide_in[0]
        for c in consumers:
            self._pull(c, role, producers, wide_in, total, consumers, combine=combine)
        self.collectives += 1

    def reduced_exchange(self, producers: tuple[int, ...], consumers: tuple[int, ...], sums: tuple[Range, ...]) -> None:
        """Partial sums of `producers` added up by the reducers, each its columns `sums[d]`, then gathered."""
        if not consumers or len(producers) == 1:
            self.exchange("hidden", dict.fromkeys(producers, self.model.hidden), consumers, "sum")
            return
        reducers = members(sums)
        self._push("parts", dict.fromkeys(producers, self.model.hidden), reducers)
        for d in reducers:
            width = size(sums[d])
            self._pull(d, "parts", producers, (width,) * len(producers), width, reducers, combine="sum", span=sums[d])
        self.collectives += 1
        self.exchange("hidden", {d: size(sums[d]) for d in reducers}, consumers, "concat")

    def _push(self, role: str, widths: dict[int, int], consumers: tuple[int, ...]) -> None:
        producers = tuple(sorted(widths))
        movers = tuple(p for p in producers if consumers != (p,))
        for p in movers:
            more = {"collective": self.collectives, "peers": consumers, "movers": movers, "exact": self._exact(role)}
            self.add(p, Kind.PUSH, f"push_{role}", widths[p], widths[p], **more)

    def _pull(
        self,
        device: int,
        role: str,
        producers: tuple[int, ...],
        widths: tuple[int, ...],
        total: int,
        consumers: tuple[int, ...],
        **more: object,
    ) -> None:
        movers = tuple(c for c in consumers if producers != (c,))
        more |= {"collective": self.collectives, "peers": producers, "widths": widths, "movers": movers}
        self.add(device, Kind.PULL, f"pull_{role}", total, total, exact=self._exact(role), **more)

    def _exact(self, role: str) -> bool:
        return self.exact and role != "inputs"


def embedding_steps(b: StepBuilder, spans: tuple[Range, ...], consumers: tuple[int, ...]) -> None:
    """Rows of the table that each device has in `spans`, to the hidden state of `consumers`."""
    holders, hidden = members(spans), b.model.hidden
    b.enter(-1, "embed", holders)
    for d in holders:
        b.add(d, Kind.EMBED, "embed", hidden, hidden, span=spans[d])
    b.exchange("hidden", dict.fromkeys(holders, hidden), consumers, "sum")


def attention_inputs(b: StepBuilder, d: int, span: Range) -> int:
    """Norm to attention on device `d` with query heads `span`; returns the width of its attention output."""
    m = b.model
    q, kv = size(span) * m.head_dim, size(kv_span(span, m.group)) * m.head_dim
    window = m.windows[b.layer]
    context = min(b.context, window) if window else b.context
    b.add(d, Kind.NORM, "norm", m.hidden, m.hidden)
    b.add(d, Kind.LINEAR, "qkv", m.hidden, q + 2 * kv, span=span)
    b.add(d, Kind.ROPE, "rope", q + 2 * kv, q + 2 * kv, span=span)
    b.add(d, Kind.ATTENTION, "attention", kv, q, span=span, context=context)
    return q


def scale_table_bytes(model: ModelSpec, block: Block, inputs: int) -> int:
    """Bytes that the attention output projection split by row reads under act-order beyond its own share's scales.

    Its `inputs` rows belong to any group, so a device keeps the scales of all groups, and a 32-bit group of each row.
    The MLP needs none: its permutation is folded into the order of gate and up columns.
    """
    quant, width = model.quant, model.heads * model.head_dim
    if quant is None or not quant.act_order or block != "attention" or inputs == width:
        return 0
    others = width // quant.group_size - inputs // quant.group_size
    return 4 * others * model.hidden + 4 * inputs


def mlp_inputs(b: StepBuilder, d: int, span: Range) -> int:
    """Norm to SwiGLU on device `d` with MLP columns `span`; returns how many columns."""
    columns, hidden = size(span), b.model.hidden
    b.add(d, Kind.NORM, "norm", hidden, hidden)
    b.add(d, Kind.LINEAR, "gate_up", hidden, 2 * columns, span=span)
    b.add(d, Kind.SWIGLU, "swiglu", 2 * columns, columns, span=span)
    return columns


def block_steps(b: StepBuilder, layer: int, block: Block, plan: BlockPlan, consumers: tuple[int, ...]) -> None:
    """One attention or MLP block, from the hidden state of its members to that of `consumers`."""
    holders, hidden, rule = members(plan.units), b.model.hidden, OUTPUT_PROJECTION[plan.strategy]
    inputs, role = (attention_inputs, "o_proj") if block == "attention" else (mlp_inputs, "down_proj")
    b.enter(layer, block, holders)
    b.exact = not set(consumers) <= set(holders)
    widths = {d: inputs(b, d, plan.units[d]) for d in holders}
    if not rule.gathers_input:
        for d in holders:
            more = {"span": plan.units[d], "extra_bytes": scale_table_bytes(b.model, block, widths[d])}
            b.add(d, Kind.LINEAR, role, widths[d], hidden, **more)
        b.add(holders[0], Kind.RESIDUAL, "residual", hidden, hidden, span=(0, hidden))
        if plan.sums(b.phase):
            b.reduced_exchange(holders, consumers, plan.sums(b.phase))
        else:
            b.exchange("hidden", dict.fromkeys(holders, hidden), consumers, rule.combine)
        return
    writers = members(plan.outputs)
    b.exchange("inputs", widths, writers, "concat")
    for d in writers:
        span = plan.outputs[d]
        b.add(d, Kind.LINEAR, role, sum(widths.values()), size(span), span=span)
        b.add(d, Kind.RESIDUAL, "residual", size(span), size(span), span=span)
    b.exchange("hidden", {d: size(plan.outputs[d]) for d in writers}, consumers, rule.combine)


def head_steps(b: StepBuilder, spans: tuple[Range, ...]) -> None:
    """Logits of the vocabulary rows that each device has in `spans`."""
    holders, hidden = members(spans), b.model.hidden
    b.enter(-1, "head", holders)
    b.rows = b.logits
    for d in holders:
        span = spans[d]
        b.add(d, Kind.NORM, "norm", hidden, hidden)
        b.add(d, Kind.LINEAR, "lm_head", hidden, size(span), span=span)
        b.add(d, Kind.ARGMAX, "argmax", size(span), 1, span=span)


def pass_steps(
    model: ModelSpec, split: Split, rows: int, context: int, logits: int = 1, phase: Phase = "decode"
) -> list[Step]:
    """All steps of one pass over `rows` tokens, in an order that every device can follow.

    `context`: cached positions that a row attends to, itself included. `logits`: last rows that the head takes, or 0.
    `phase`: whose way of summing counts.
    """
    b = StepBuilder(model, rows, context, logits, phase)
    blocks: list[tuple[int, Block, BlockPlan]] = []
    for i, layer in enumerate(split.layers):
        blocks += [(i, "attention", layer.attention), (i, "mlp", layer.mlp)]
    takers = [members(plan.units) for _, _, plan in blocks] + [members(split.head) if logits else ()]
    embedding_steps(b, split.embedding, takers[0])
    for (index, block, plan), consumers in zip(blocks, takers[1:], strict=True):
        block_steps(b, index, block, plan, consumers)
    if logits:
        head_steps(b, split.head)
    return b.steps


def device_steps(steps: Iterable[Step], device: int) -> Iterator[Step]:
    """The program of one device."""
    return (step for step in steps if step.device == device)


def step_edges(steps: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """Pairs of positions in `steps`, the second after the first: each device's steps in order, and every push before
    the pulls of the same collective.
    """
    last: dict[int, int] = {}
    pushed: dict[tuple[int, int], int] = {}
    for at, step in enumerate(steps):
        if step.device in last:
            yield last[step.device], at
        if step.kind is Kind.PUSH:
            pushed[step.collective, step.device] = at
        for peer in step.peers if step.kind is Kind.PULL else ():
            if peer != step.device:
                yield pushed[step.collective, peer], at
        last[step.device] = at


def layer_graph(steps: Iterable[Step]) -> nx.DiGraph:
    """The steps, in an order that they can run in, with `step_edges` between them."""
    each = list(steps)
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_nodes_from(each)
    graph.add_edges_from((each[before], each[after]) for before, after in step_edges(each))
    return graph
