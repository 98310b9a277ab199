"""Predicted against measured: `python benchmarks/truth.py MODEL.gguf [--dtype bfloat16]`.

Profiles cpu:0 and cpu:1, solves, runs the plan several times, prints each run's error and the medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

PROMPT = "Why is the sky blue? Explain in a few sentences to a ten year old child who likes the sea."


def tpplan(*arguments: str) -> str:
    command = [sys.executable, "-m", "tpplan", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def errors(plan: Path, profile: Path) -> tuple[float, float, float]:
    """Of one run: measured over predicted, less 1, of prefill and of decode per token; share of bandwidth."""
    result = json.loads(tpplan("run", "--plan", str(plan), "--hardware", str(profile), "--prompt", PROMPT, "--json"))
    measured, predicted = result["measured"], result["predicted"]
    prefill, decode = (measured[key] / predicted[key] - 1 for key in ("prefill_s", "decode_s_per_token"))
    return prefill, decode, result["bandwidth_share"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        profile, plan = Path(folder) / "profile.json", Path(folder) / "plan.json"
        tpplan("profile", "--device", "cpu:0", "--device", "cpu:1", "-o", str(profile))
        solve = ("solve", options.model, "--hardware", str(profile), "--dtype", options.dtype, "-o", str(plan))
        solved = json.loads(tpplan(*solve, "--json"))
        print(f"{options.dtype}: {solved['status']}, gap {solved['gap']:.2%}, solved in {solved['solve_s']:.2f} s")
        runs = [errors(plan, profile) for _ in range(options.runs)]
    for run in [*runs, tuple(median(column) for column in zip(*runs, strict=True))]:
        print("prefill {:+.0%}  decode {:+.0%}  bandwidth {:.0%}".format(*run))
    print("(the last line holds the medians)")


if __name__ == "__main__":
    main()
