"""A plan run on this machine's cores, and the numbers it gives: for tests of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tpplan.executor.sampling import Sampler
from tpplan.executor.session import Session
from tpplan.hwprofiles.device_names import available_cores
from tpplan.planner.check import check
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import Plan

CORES = available_cores()
PAIR = [f"cpu:{CORES[0]}", f"cpu:{CORES[-1]}" if len(CORES) > 1 else "cpu"]
TRIO = [*PAIR, "cpu" if "cpu" not in PAIR else "cpu:0-0"]
ALL_LOGITS = {"temperature": 1.0, "seed": 0}  # of a sampler, so that logits come to the host


def logits_of(plan: Plan, path: Path, ids: Sequence[int], prompt: int) -> torch.Tensor:
    """[1 + later tokens, vocab]: logits of the last of `prompt` ids, and of each later one as it is decoded."""
    model = load_model(path)
    check(plan, model)
    rows, sampler = [], Sampler(**ALL_LOGITS)  # type: ignore[arg-type]
    with Session.open(plan, model, path) as session:
        session._prefill(ids[:prompt], sampler)
        rows.append(session.logits.clone())
        for position in range(prompt, len(ids)):
            session.step([ids[position]], position, sampler)
            rows.append(session.logits.clone())
    return torch.stack(rows)
