"""Plans with GPUs that cannot be opened: one line with the fix before anything is loaded, and all is given back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plans import plan_of
from random_checkpoints import random_checkpoint
from splits import random_split

from tpplan.executor.gpu import opening
from tpplan.executor.weight_files import open_weights
from tpplan.planner.memory import device_bytes
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import Plan

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 192, "vocab_size": 2048,
    "max_position_embeddings": 512, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip


class Box:
    """GPUs that are only names with free memory; says what was opened and closed."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes, self.opened, self.closed = free_bytes, list[str](), False

    @contextmanager
    def open_devices(self, names: Sequence[str]) -> Iterator[list[SimpleNamespace]]:
        self.opened = list(names)
        try:
            yield [SimpleNamespace(name=name, index=0, free_bytes=self.free_bytes) for name in names]
        finally:
            self.closed = True


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("llama"), CONFIG)


def plan(checkpoint: Path, names: Sequence[str], dtype: str = "float32", cache_dtype: str = "float32") -> Plan:
    model = load_model(checkpoint)
    return plan_of(model, names, random_split(model, len(names), 2), dtype, cache_dtype)


def refusal(checkpoint: Path, refused: Plan) -> str:
    """What opening says; nothing may be held afterwards."""
    model = load_model(checkpoint)
    with ExitStack() as held, open_weights(checkpoint, model) as files, pytest.raises(ValueError) as caught:  # noqa: PT011
        opening.open_with_gpus(refused, model, files, torch.zeros(model.vocab), lambda loaded_bytes: None, held)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_full_gpu_is_refused_with_both_figures(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one GPU share its memory: their bytes are added before they are compared with what is free."""
    box, names = Box(free_bytes=2**20), ["cuda:0/8", "cuda:0/16"]
    monkeypatch.setattr(opening, "open_devices", box.open_devices)
    full, model = plan(checkpoint, names), load_model(checkpoint)
    needed = sum(held.total for held in device_bytes(model, full.split, full.workload, "float32", "float32"))
    text = refusal(checkpoint, full)
    assert f"needs {needed / 2**20:.0f} MiB of GPU 0, 1 MiB are free" in text
    assert box.opened == names
    assert box.closed


def test_cpu_devices_must_fit_the_host(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a GPU with room, a CPU device without: the host's figures."""
    box = Box(free_bytes=2**40)
    monkeypatch.setattr(opening, "open_devices", box.open_devices)
    monkeypatch.setattr("tpplan.executor.opening.available_bytes", lambda: 1024)
    assert "MiB of host memory, 0 MiB are free" in refusal(checkpoint, plan(checkpoint, ["cuda:0", "cpu"]))
    assert box.opened == ["cuda:0"]
    assert box.closed


def test_a_cache_in_another_format_than_the_weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before a device is opened."""
    box = Box(free_bytes=2**40)
    monkeypatch.setattr(opening, "open_devices", box.open_devices)
    wrong = plan(checkpoint, ["cuda:0"], "bfloat16", "float32")
    assert "solve with --cache-dtype bfloat16" in refusal(checkpoint, wrong)
    assert not box.opened


def test_memory_that_runs_out_while_loading(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's error becomes one line with the ways out, and the devices are closed."""

    class Loader:
        def __init__(self, *_: object) -> None:
            pass

        def load(self) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    box = Box(free_bytes=2**40)
    monkeypatch.setattr(opening, "open_devices", box.open_devices)
    monkeypatch.setattr(opening, "GpuLoader", Loader)
    text = refusal(checkpoint, plan(checkpoint, ["cuda:0"]))
    assert "ran out of memory while loading" in text
    assert "--context" in text
    assert box.closed
