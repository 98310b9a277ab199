"""What `tpplan run` says about speed: expected against measured, and the share of the memory bandwidth that was used.

Knows the plan, the model, and the profile if it is the one the plan was made from. Knows nothing of generating.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..hwprofiles.profile import HardwareProfile
from ..hwprofiles.storage import load_profile
from ..hwprofiles.units import Table, duration
from ..planner.memory import device_bytes
from ..planner.model_spec import ModelSpec
from ..planner.plan import Plan, Predicted, devices_used
from ..planner.price import Pricer

if TYPE_CHECKING:
    from ..executor.session import Generation


class Figures:
    """Prices what was really asked if the profile is at hand; else quotes the plan. `profile_note` says so."""

    def __init__(self, plan: Plan, model: ModelSpec, profile_path: str | Path) -> None:
        self.plan, self.model = plan, model
        self.profile: HardwareProfile | None = None
        self.profile_note = ""
        work = f"expected is the plan's own workload of {plan.workload.prompt_tokens} prompt tokens"
        try:
            profile = load_profile(profile_path)
        except (OSError, ValueError) as error:
            self.profile_note = f"{error}; {work}"
            return
        if profile.fingerprint == plan.profile_fingerprint:
            self.profile = profile
        else:
            self.profile_note = f"{profile_path} is not the profile that the plan was made from; {work}"

    @property
    def weight_bytes(self) -> int:
        """Of all devices together."""
        held = device_bytes(self.model, self.plan.split, self.plan.workload, self.plan.dtype, self.plan.cache_dtype)
        return sum(each.weights for each in held)

    def predicted(self, prompt_tokens: int, new_tokens: int) -> Predicted:
        """For one sequence of this very length, or the plan's workload where the profile is missing."""
        if self.profile is None:
            return self.plan.predicted
        work = msgspec.structs.replace(self.plan.workload, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=1)
        return Pricer(self.model, self.profile, self.plan.dtype, work, self.plan.cache_dtype).predict(self.plan.split)

    def measured(self, result: Generation) -> Predicted:
        """The same figures as they were."""
        return self.of(result.prefill_s, result.decode_s_per_token)

    @staticmethod
    def of(prefill_s: float, decode_s_per_token: float) -> Predicted:
        """What was measured; no decode step gives no speed."""
        return Predicted(prefill_s, decode_s_per_token, 1 / decode_s_per_token if decode_s_per_token else 0.0)

    def bandwidth_share(self, result: Generation) -> float | None:
        """Bytes read a second over what the plan's devices can read together; None without profile or decode step."""
        if self.profile is None or not result.decode_s_per_token:
            return None
        limit = sum(self.profile.devices[d].read_bytes_per_s for d in devices_used(self.plan.split))
        return result.read_bytes_per_token / result.decode_s_per_token / limit

    def table(self, predicted: Predicted, measured: Predicted, prompt_tokens: int) -> Table:
        """Expected beside measured; prompts of another length than was expected are not compared."""
        same = self.profile is not None or prompt_tokens == self.plan.workload.prompt_tokens
        speeds = (
            f"{speed:.1f}" if speed else "-" for speed in (predicted.decode_tokens_per_s, measured.decode_tokens_per_s)
        )
        rows = [
            ("prefill", *_compared(predicted.prefill_s, measured.prefill_s, same)),
            ("decode, per token", *_compared(predicted.decode_s_per_token, measured.decode_s_per_token)),
            ("decode, tok/s", *speeds, ""),
        ]
        return "", ("", "predicted", "measured", "difference"), rows

    def notes(self, result: Generation) -> list[str]:
        """Lines below the table."""
        share = self.bandwidth_share(result)
        lines = [f"{share:.0%} of the measured memory bandwidth of the plan's devices"] if share is not None else []
        return [*lines, self.profile_note] if self.profile_note else lines


def _compared(predicted_s: float, measured_s: float, same: bool = True) -> tuple[str, str, str]:
    difference = f"{measured_s / predicted_s - 1:+.0%}" if predicted_s and measured_s and same else "-"
    return duration(predicted_s), duration(measured_s) if measured_s else "-", difference
