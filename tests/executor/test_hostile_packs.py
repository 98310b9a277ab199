"""Packed checkpoints that lie are refused in one line that names tensor, field and fix, before or while loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_model
from packers import Format, Tensors, packed_checkpoint
from plans import plan_by_hand
from runs import PAIR
from safetensors.torch import load_file, save_file

from tpplan.executor.session import Session
from tpplan.planner.model_files import load_model

NAME = "model.layers.1.mlp.down_proj"
GPTQ, AWQ = Format("gptq", order=True), Format("awq")
COMPRESSED = Format("compressed-tensors")
Change = Callable[[Tensors], Any]


def put(part: str, at: tuple[int, ...], value: Any) -> Change:
    def change(tensors: Tensors) -> None:
        tensors[f"{NAME}.{part}"][at] = value

    return change


def cut(part: str, dim: int = 0) -> Change:
    def change(tensors: Tensors) -> None:
        tensor = tensors[f"{NAME}.{part}"]
        tensors[f"{NAME}.{part}"] = tensor.narrow(dim, 0, tensor.shape[dim] - 1).contiguous()

    return change


def cast(part: str, dtype: torch.dtype) -> Change:
    def change(tensors: Tensors) -> None:
        tensors[f"{NAME}.{part}"] = tensors[f"{NAME}.{part}"].to(dtype)

    return change


def without(part: str) -> Change:
    return lambda tensors: tensors.pop(f"{NAME}.{part}")


LIES: dict[str, tuple[Format, Change, str]] = {
    "index beyond the groups": (GPTQ, put("g_idx", (3,), 6), "down_proj.g_idx' names group 6 of 6"),
    "index below the groups": (GPTQ, put("g_idx", (3,), -1), "down_proj.g_idx' names group -1 of 6"),
    "short index": (GPTQ, cut("g_idx"), r"down_proj.g_idx' has shape \[191\], \[192\] is expected"),
    "index of floats": (GPTQ, cast("g_idx", torch.float32), "down_proj.g_idx' is of type F32, not I32"),
    "zero point out of range": (GPTQ, put("qzeros", (0, 0), -1), "down_proj.qzeros' has zero points of 16.*gptq_v2"),
    "no zero points": (GPTQ, without("qzeros"), "down_proj.qzeros' is missing"),
    "short zero points": (GPTQ, cut("qzeros"), "down_proj.qzeros' has shape"),
    "infinite scale": (GPTQ, put("scales", (0, 0), float("inf")), "down_proj.scales' holds NaN or infinite"),
    "scale that is no number": (AWQ, put("scales", (1, 7), float("nan")), "down_proj.scales' holds NaN or infinite"),
    "bfloat16 scale": (COMPRESSED, put("weight_scale", (2, 1), float("nan")), "down_proj.weight_scale' holds NaN"),
    "too few scales": (GPTQ, cut("scales"), "down_proj.scales' has 5 groups of 192 inputs.*groups of 32"),
    "scales of integers": (GPTQ, cast("scales", torch.int32), "down_proj.scales' is of type I32"),
    "short codes": (GPTQ, cut("qweight"), "down_proj.qweight' packs 192 numbers into 23 words.*4 bits"),
    "codes of other bits": (AWQ, cut("qweight", 1), "down_proj.qweight' packs 96 numbers into 11 words"),
    "codes as floats": (COMPRESSED, cast("weight_packed", torch.float32), "down_proj.weight_packed' is of type F32"),
    "no scales": (COMPRESSED, without("weight_scale"), "down_proj.weight_scale' is missing"),
    "codes of 8 bits": (GPTQ, lambda t: t.update({f"{NAME}.qweight": t[f"{NAME}.qweight"].repeat(2, 1)}), "4 bits"),
}


def opened(path: Path) -> None:
    """Opens the checkpoint on two devices."""
    model = load_model(path)
    with Session.open(plan_by_hand(model, PAIR, (2, 1), (64, 128), (1024, 1280), dtype="native"), model, path):
        pass


@pytest.mark.parametrize("lie", LIES)
def test_lies(tmp_path: Path, lie: str) -> None:
    """Each lie in one tensor of one matrix."""
    form, change, message = LIES[lie]
    path = packed_checkpoint(tiny_model("llama"), tmp_path, form)
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        opened(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert "again" in text or "convert" in text


def test_truncated(tmp_path: Path) -> None:
    """A file that ends early."""
    path = packed_checkpoint(tiny_model("llama"), tmp_path, GPTQ)
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="download it again"):
        opened(path)


def test_dense_weights_of_integers(tmp_path: Path) -> None:
    """A plain matrix of integers is no quantised one."""
    path = packed_checkpoint(tiny_model("llama"), tmp_path, AWQ)
    tensors = load_file(path / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].to(torch.int32)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"'model\.embed_tokens\.weight' holds integers; convert"):
        opened(path)


def test_a_config_that_says_other_groups(tmp_path: Path) -> None:
    """Groups of the files count; a config that contradicts them is named."""
    path = packed_checkpoint(tiny_model("llama"), tmp_path, Format("gptq"))
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["group_size"] = 48
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"groups of 48: correct 'quantization_config.group_size'"):
        opened(path)


def test_biases_of_zeros_are_let_pass_others_are_not(tmp_path: Path) -> None:
    """AutoGPTQ writes a bias of zeros beside every matrix; a bias that says something is refused."""
    path = packed_checkpoint(tiny_model("llama"), tmp_path, GPTQ)
    tensors = load_file(path / "model.safetensors")
    tensors[f"{NAME}.bias"] = torch.zeros(96, dtype=torch.float16)
    save_file(tensors, path / "model.safetensors")
    opened(path)
    tensors[f"{NAME}.bias"][5] = 0.25
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"down_proj\.bias' is not part of the model"):
        opened(path)
