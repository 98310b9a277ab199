"""Weights that disagree with the config are refused when a session opens, in one line that names the tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_checkpoint
from plans import plan_by_hand
from safetensors.torch import load_file, save_file

from tpplan.executor.session import Session
from tpplan.hwprofiles.device_names import available_cores
from tpplan.planner.model_files import load_model

Tensors = dict[str, torch.Tensor]
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with untied embeddings."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny"))


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def weights(edit: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(num_hidden_layers=3), r"model\.layers\.2\."),
        (config(num_hidden_layers=1), r"model\.layers\.1\."),
        (config(intermediate_size=256), "mlp"),
        (config(tie_word_embeddings=True), "lm_head"),
        (weights(lambda t: t.pop(NORM)), NORM),
        (weights(lambda t: t.update({NORM: t[NORM].view(48, 2)})), NORM),
        (weights(lambda t: t.update({NORM: t[NORM][:48].clone()})), NORM),
        (weights(lambda t: t[NORM].fill_(float("inf"))), NORM),
    ],
)
def test_files_that_disagree(checkpoint: Path, tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    """A missing, extra or misshapen tensor, or one that is not finite, never reaches a kernel."""
    folder = tmp_path / "changed"
    shutil.copytree(checkpoint, folder)
    change(folder)
    model = load_model(folder)
    plan = plan_by_hand(model, [f"cpu:{available_cores()[0]}"], (3,), (model.mlp,), (2304,))
    with pytest.raises(ValueError, match=message) as error:
        Session.open(plan, model, folder)
    assert "\n" not in str(error.value)
