"""The plan as one HTML page that needs nothing else: no network, no script, no file beside it.

Knows what is told where. Knows nothing of words (`report_words`), drawing (`*_figure`) or layout (`report.html`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from ..hwprofiles.files import write_atomically
from ..hwprofiles.profile import HardwareProfile
from ..hwprofiles.table import profile_tables
from ..hwprofiles.units import Table, binary_bytes, duration
from .bar_figures import baselines_svg, memory_svg, usage_svg
from .drawing import COLOURS, printable
from .explain_tables import end_words, explanation_tables
from .explanation import Explanation
from .model_spec import ModelSpec
from .plan import BlockPlan, Phase, Plan, Range, members
from .report import memory_table, plan_tables
from .report_words import against_baselines, contention, headline, name, proof, shape
from .split_figure import runs, split_svg, strategy_words
from .timeline import Timeline
from .timeline_figure import stretches, timeline_svg


def write_report(
    path: str | Path,
    plan: Plan,
    model: ModelSpec,
    profile: HardwareProfile,
    timelines: Sequence[Timeline],
    explanation: Explanation | None = None,
) -> None:
    """Writes the page about `plan`; `timelines`: its passes, as far as they were simulated; `explanation`: what
    `explain` found, where it was asked. OSError if that fails.
    """
    today = datetime.now(UTC).date().isoformat()
    write_atomically(path, page(plan, model, profile, timelines, today, explanation).encode("utf-8", "replace"))


def page(
    plan: Plan,
    model: ModelSpec,
    profile: HardwareProfile,
    timelines: Sequence[Timeline],
    date: str,
    explanation: Explanation | None = None,
) -> str:
    """The page as text; the same for the same input."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(str(value)),
    )
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    *split, baselines = plan_tables(plan)
    return template.render(
        plan=plan,
        name=name(plan.model),
        shape=shape(model),
        machine=profile.host.description,
        headline=headline(plan),
        proof=proof(plan),
        best=against_baselines(plan),
        colours=COLOURS,
        split=split_svg(plan),
        baselines=baselines_svg(plan),
        memory=memory_svg(plan),
        passes=[_pass(timeline) for timeline in timelines],
        tables={
            "split": [*split, _cuts_table(plan)],
            "baselines": [baselines],
            "memory": [memory_table(plan)],
            "explanation": explanation_tables(explanation) if explanation else [],
            "inputs": [_inputs_table(plan, profile, date)],
            "hardware": profile_tables(profile),
        },
        limits=_limits(explanation) if explanation else [],
        unusable=[(device.name, device.export_only) for device in profile.devices if device.export_only],
    )


def _pass(timeline: Timeline) -> dict[str, object]:
    """One timeline, drawn and in words."""
    rows = max((span.step.rows for span in timeline.spans), default=1)
    what = "One decode step" if timeline.phase == "decode" else f"One prefill chunk of {rows:,} tokens"
    return {
        "title": f"{what}: {duration(timeline.length_s)}",
        "timeline": timeline_svg(timeline),
        "usage": usage_svg(timeline),
        "partial": len(stretches(timeline)) > 1,
        "overhead": duration(timeline.overhead_s) if timeline.overhead_s else "",
        "contention": contention(timeline),
    }


def _limits(found: Explanation) -> list[str]:
    """What holds the plan back, and what would be best for one phase alone."""
    return [*found.tight, *(end_words(end) for end in found.ends if end.figures), *found.weights]


def _cuts_table(plan: Plan) -> Table:
    """Every run of layers that are cut alike: ranges, and who adds up."""
    rows = []
    for block in ("attention", "mlp"):
        for begin, end, cut in runs(plan, block):
            layers = str(begin) if end == begin + 1 else f"{begin} to {end - 1}"
            what = "MLP" if block == "mlp" else block
            rows.append((f"{what} {layers}", strategy_words(cut), _spans(plan, cut.units), *_sums(plan, cut)))
    return "Cuts in full", ("layers", "strategy", "query heads or MLP columns", "outputs", "sums"), rows


def _spans(plan: Plan, spans: tuple[Range, ...]) -> str:
    return ", ".join(f"{plan.devices[d]} {spans[d][0]}-{spans[d][1] - 1}" for d in members(spans)) or "-"


def _sums(plan: Plan, cut: BlockPlan) -> tuple[str, str]:
    """Output columns under the column strategy; who adds up partial sums, by phase, under row."""
    phases: tuple[Phase, Phase] = ("decode", "prefill")
    told = [f"{phase}: {_spans(plan, cut.sums(phase))}" for phase in phases if cut.sums(phase)]
    every = "each receiver adds up" if cut.strategy == "row" and len(members(cut.units)) > 1 else "-"
    return _spans(plan, cut.outputs), "; ".join(told) or every


def _inputs_table(plan: Plan, profile: HardwareProfile, date: str) -> Table:
    work = plan.workload
    rows = [
        ("model", plan.model),
        ("prompt, new tokens", f"{work.prompt_tokens:,}, {work.new_tokens:,} a sequence"),
        ("sequences at once", f"{work.batch:,}"),
        ("context the KV cache holds", f"{work.context:,} tokens a sequence"),
        ("weights, KV cache", f"{plan.dtype}, {plan.cache_dtype}"),
        *((f"memory limit of {use.name}", binary_bytes(use.cap_bytes)) for use in plan.device_use),
        ("split found in", duration(plan.solve_s)),
        ("hardware profile", f"{plan.profile_fingerprint}, made {profile.created} by tpplan {profile.tpplan_version}"),
        ("this page", f"{date}, plan by tpplan {plan.tpplan_version}"),
    ]
    return "", ("input", "value"), rows
