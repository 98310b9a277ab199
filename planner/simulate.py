"""A plan played through step by step: one decode step, one prefill chunk, or a whole prefill, contention included.

Knows which paths to host memory devices share. Pushes and pulls under way at the same time share them fairly, where the
solver charges all of an exchange at once (`cost.shared_path_s`); where nothing is shared both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..hwprofiles.profile import HardwareProfile
from .cost import CostModel
from .layer_graph import pass_steps, step_edges
from .model_spec import ModelSpec
from .plan import Phase, Plan, Split
from .price import Chunk, Pricer, shortened
from .schedule import Job, Ran, schedule
from .sharing import Path
from .steps import Kind, Step, moved_bytes
from .timeline import Span, Timeline

ROUNDING = 1e-12


def simulate(split: Split, pricer: Pricer, phase: Phase) -> Timeline:
    """One decode step at the workload's mean context, or the last full chunk of its prompt (the only one of a short
    prompt). ValueError where the profile lacks an operation.
    """
    return simulate_pass(split, pricer, shown_chunk(pricer, phase), phase)


def simulate_pass(split: Split, pricer: Pricer, chunk: Chunk, phase: Phase) -> Timeline:
    """One pass over the rows of `chunk`."""
    steps = pass_steps(pricer.model, split, chunk.rows, chunk.context, chunk.logits, phase)
    jobs, overhead_s = _jobs(steps, pricer.cost), pricer.overhead_s(split)
    return Timeline(
        phase=phase,
        devices=tuple(device.name for device in pricer.profile.devices),
        spans=_play(steps, jobs),
        overhead_s=overhead_s,
        uncontended_s=overhead_s + _uncontended_s(steps, jobs),
    )


def predicted_pass_s(split: Split, pricer: Pricer, phase: Phase) -> float:
    """Seconds of the pass that `simulate` plays, by stage sums, as the solver has it: all that push or pull in one
    exchange share ports and host memory from its first byte to its last.
    """
    chunk = shown_chunk(pricer, phase)
    return pricer.pass_s(split, chunk.rows, chunk.context, chunk.logits, phase)


def pricer_of_plan(plan: Plan, model: ModelSpec, profile: HardwareProfile) -> Pricer:
    """Prices the passes of `plan` for its own workload, on a machine with its devices in its order."""
    return Pricer(model, profile, plan.dtype, plan.workload, plan.cache_dtype)


def simulated_prefill_s(split: Split, pricer: Pricer) -> float:
    """All chunks of a prompt, for each sequence of the batch: what `pricer.prefill_s` predicts."""
    model, short, weights = shortened(pricer.model, split)
    total_s = 0.0
    for chunk in pricer.chunks:
        steps = pass_steps(model, short, chunk.rows, chunk.context, chunk.logits, "prefill")
        spans = _play(steps, _jobs(steps, pricer.cost))
        total_s += chunk.count * (pricer.overhead_s(split) + _weighted_s(spans, weights))
    return pricer.workload.batch * total_s


def shown_chunk(pricer: Pricer, phase: Phase) -> Chunk:
    """The pass that `simulate` plays."""
    if phase == "decode":
        return Chunk(pricer.workload.batch, pricer.decode_context, 1, pricer.workload.batch)
    return next((c for c in reversed(pricer.chunks) if c.rows == pricer.workload.prefill_chunk), pricer.chunks[-1])


def shared_paths(profile: HardwareProfile, step: Step) -> tuple[Path, ...]:
    """What a push or pull shares with those of other devices: its link's port in its direction, and host memory."""
    link, host = profile.devices[step.device].link, profile.host
    if link is None:
        return ()
    paths = [
        (f"{port.name} {step.kind}", port.push_bytes_per_s if step.kind is Kind.PUSH else port.pull_bytes_per_s)
        for port in host.ports
        if link.port and port.name == link.port
    ]
    return (*paths, ("host memory", host.bytes_per_s)) if host.bytes_per_s else tuple(paths)


def _job(step: Step, cost: CostModel) -> Job:
    """What its device cannot share first (latency, the sum), then bytes at its link's rate or less."""
    moves = step.kind in (Kind.PUSH, Kind.PULL)
    paths = shared_paths(cost.profile, step) if moves else ()
    wire_s = cost.wire_s(step) if paths else 0.0
    if not wire_s:
        return Job(cost.step_s(step))
    size_bytes = moved_bytes(step)
    own = (f"link of {step.device} {step.kind}", size_bytes / wire_s)
    return Job(cost.own_path_s(step) - wire_s, size_bytes, (own, *paths))


def _jobs(steps: Sequence[Step], cost: CostModel) -> list[Job]:
    """Of all `steps`; those that move alike are priced once."""
    known: dict[tuple[object, ...], Job] = {}
    jobs = []
    for s in steps:
        key = (s.device, s.kind, s.rows, s.in_features, s.peers, s.widths, s.combine, s.contended, s.exact)
        job = known.get(key) if s.movers else _job(s, cost)
        if job is None:
            job = known[key] = _job(s, cost)
        jobs.append(job)
    return jobs


def _play(steps: Sequence[Step], jobs: Sequence[Job]) -> tuple[Span, ...]:
    ran = schedule(jobs, step_edges(steps))
    critical = _critical(ran)
    free_s: dict[int, float] = {}
    spans = []
    for i, (step, job, r) in enumerate(zip(steps, jobs, ran)):
        spans.append(Span(step, free_s.get(step.device, 0.0), r.begin_s, r.end_s, i in critical, _contention_s(job, r)))
        free_s[step.device] = r.end_s
    return tuple(spans)


def _contention_s(job: Job, ran: Ran) -> float:
    """How much longer it took than alone; 0 for what rounding makes of it."""
    more_s = ran.end_s - ran.begin_s - job.alone_s
    return more_s if more_s > ROUNDING * ran.end_s else 0.0


def _critical(ran: Sequence[Ran]) -> set[int]:
    """Those on the way back from the one that ends last, through what let each begin."""
    at = max(range(len(ran)), key=lambda i: ran[i].end_s)
    path = set()
    while at >= 0:
        path.add(at)
        at = ran[at].cause
    return path


def _uncontended_s(steps: Sequence[Step], jobs: Sequence[Job]) -> float:
    return max(r.end_s for r in schedule([Job(job.alone_s) for job in jobs], step_edges(steps)))


def _weighted_s(spans: Sequence[Span], weights: dict[tuple[int, str], int]) -> float:
    """Length of a pass of which some blocks count several times. Nothing is under way while a block's last push ends:
    whoever pulls it waits for all of its producers. So blocks add up, contention or not.
    """
    ends_s: dict[tuple[int, str], float] = {}
    for span in spans:
        if span.step.kind is not Kind.PULL:
            where = span.step.layer, span.step.block
            ends_s[where] = max(ends_s.get(where, 0.0), span.end_s)
    begins_s = [0.0, *ends_s.values()]
    return sum(weights.get(where, 1) * (end_s - begin_s) for (where, end_s), begin_s in zip(ends_s.items(), begins_s))
