"""Decode speed beside transformers', on this machine, in one run: `python benchmarks/decode.py MODEL.gguf`.

Every contender runs in a process of its own, all of them in turn, several rounds; medians are printed. transformers
gets two threads, tpplan the devices cpu:0 and cpu:1, and llama.cpp two threads where `llama-cpp-python` is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

PROMPT = "Explain in a few sentences why the sky is blue."
NEW_TOKENS = 64
PLANS = {
    "tpplan cpu:0+cpu:1 native": ("both.json", ["--dtype", "native"]),
    "tpplan cpu:0 native": ("one.json", ["--dtype", "native"]),
    "tpplan cpu:0+cpu:1 float32": ("both.json", ["--dtype", "float32"]),
    "tpplan cpu:0+cpu:1 bfloat16": ("both.json", ["--dtype", "bfloat16"]),
    "tpplan cpu:0 float32": ("one.json", ["--dtype", "float32"]),
    "tpplan cpu:0 bfloat16": ("one.json", ["--dtype", "bfloat16"]),
}
THEIRS = {"transformers float32": "float32", "transformers bfloat16": "bfloat16"}
LLAMA_CPP = "llama.cpp 2 threads"


def one_transformers(model: str, dtype: str) -> dict[str, Any]:
    """Greedy text by transformers on two threads: seconds of prefill and per token."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    path = Path(model)
    unsplit = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=getattr(torch, dtype))
    ids = torch.tensor([prompt_ids(model)])
    with torch.inference_mode():
        unsplit(ids)
        started = time.perf_counter()
        out = unsplit(ids, use_cache=True)
        token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        first = time.perf_counter()
        first_token_s = time.time() - float(os.environ["STARTED"])
        for _ in range(NEW_TOKENS):
            out = unsplit(token, past_key_values=cache, use_cache=True)
            token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        decode_s = (time.perf_counter() - first) / NEW_TOKENS
    return {"prefill_s": first - started, "decode_s": decode_s, "first_token_s": first_token_s}


def one_llama_cpp(model: str, _: str) -> dict[str, Any]:
    """Greedy decoding by llama.cpp on two threads, through its Python binding's low level."""
    from llama_cpp import Llama

    ids = prompt_ids(model)
    llama = Llama(model, n_ctx=1024, n_threads=2, n_threads_batch=2, n_batch=512, verbose=False)
    llama.eval(ids)
    llama.reset()
    started = time.perf_counter()
    llama.eval(ids)
    token = llama.sample(temp=0.0)
    first, first_token_s = time.perf_counter(), time.time() - float(os.environ["STARTED"])
    for _ in range(NEW_TOKENS):
        llama.eval([token])
        token = llama.sample(temp=0.0)
    decode_s = (time.perf_counter() - first) / NEW_TOKENS
    return {"prefill_s": first - started, "decode_s": decode_s, "first_token_s": first_token_s}


def one_tpplan(model: str, plan_path: str) -> dict[str, Any]:
    """Greedy text by tpplan, as `tpplan run` does it."""
    from tpplan.executor.sampling import Sampler
    from tpplan.executor.session import Session
    from tpplan.planner.model_files import load_model
    from tpplan.planner.storage import load_plan

    spec, plan, ids = load_model(model), load_plan(plan_path), prompt_ids(model)
    arrivals: list[float] = []
    with Session.open(plan, spec, model) as session:
        result = session.generate(ids, NEW_TOKENS + 1, Sampler(), on_token=lambda token: arrivals.append(time.time()))
    return {
        "prefill_s": result.prefill_s,
        "decode_s": result.decode_s_per_token,
        "first_token_s": arrivals[0] - float(os.environ["STARTED"]),
        "weight_bytes": sum(use.weight_bytes for use in plan.device_use),
    }


def prompt_ids(model: str) -> list[int]:
    from tpplan.executor.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    return tokenizer.encode(tokenizer.chat([{"role": "user", "content": PROMPT}]), add_special=False)


def tpplan(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tpplan", *arguments], check=True, stdout=subprocess.DEVNULL)


def contender(name: str, model: str, folder: Path) -> dict[str, Any]:
    """One contender in a process of its own, with its peak memory."""
    target = name.replace(" ", "_").replace(":", "") + ".plan.json"
    kind = "llama.cpp" if name == LLAMA_CPP else "theirs" if name in THEIRS else "ours"
    argument = THEIRS.get(name) or str(folder / target)
    environment = os.environ | {"STARTED": repr(time.time())}
    command = [sys.executable, __file__, model, "--one", kind, argument]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare(model: str, folder: Path) -> None:
    """Profiles of the pair and of one device, and the plans made from them."""
    tpplan("profile", "--device", "cpu:0", "--device", "cpu:1", "-o", str(folder / "both.json"))
    tpplan("profile", "--device", "cpu:0", "-o", str(folder / "one.json"))
    for name, (profile, options) in PLANS.items():
        target = folder / (name.replace(" ", "_").replace(":", "") + ".plan.json")
        work = ["--prompt-tokens", "64", "--new-tokens", str(NEW_TOKENS), "--context", "1024"]
        tpplan("solve", model, "--hardware", str(folder / profile), *options, *work, "-o", str(target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, argument = options.one
        run = {"theirs": one_transformers, "llama.cpp": one_llama_cpp, "ours": one_tpplan}[kind]
        figures = run(options.model, argument)
        figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(options.model, Path(folder))
        names = [*THEIRS, *([LLAMA_CPP] if find_spec("llama_cpp") else []), *PLANS]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                runs[name].append(contender(name, options.model, Path(folder)))
    report(runs)


def report(runs: dict[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("contender", "decode tok/s", "min-max", "prefill ms", "first token s", "peak MB", "weights MB")
    for name, results in runs.items():
        speeds = sorted(1 / r["decode_s"] for r in results)
        weights = results[0].get("weight_bytes")
        table.add_row(
            name,
            f"{median(speeds):.1f}",
            f"{speeds[0]:.1f}-{speeds[-1]:.1f}",
            f"{1000 * median(r['prefill_s'] for r in results):.0f}",
            f"{median(r['first_token_s'] for r in results):.2f}",
            f"{median(r['peak_bytes'] for r in results) / 1e6:.0f}",
            f"{weights / 1e6:.0f}" if weights else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
