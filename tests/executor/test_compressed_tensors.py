"""Checkpoints of compressed-tensors mean what its own package makes of them: that judges reader and test packer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from checkpoints import tiny_model
from packers import Format, packed_checkpoint
from safetensors.torch import load_file

from tpplan.executor.weight_files import open_weights
from tpplan.planner.model_files import load_model

FORMATS = {
    "groups": Format("compressed-tensors"),
    "symmetric": Format("compressed-tensors", symmetric=True),
    "8 bits": Format("compressed-tensors", bits=8),
    "channels": Format("compressed-tensors", group_size=-1, symmetric=True),
}
"""Act-order by group is not among them: the package has given it up, files from before hold it."""


@pytest.mark.parametrize("form", FORMATS)
def test_weights_are_those_of_the_package(tmp_path: Path, form: str) -> None:
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    shape: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    path = packed_checkpoint(tiny_model("llama", num_hidden_layers=1, **shape), tmp_path, FORMATS[form])
    config = msgspec.json.decode((path / "config.json").read_bytes())["quantization_config"]
    scheme = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    tensors = load_file(path / "model.safetensors")
    names = [name.removesuffix("_packed") for name in tensors if name.endswith(".weight_packed")]
    assert len(names) == 7
    with open_weights(path, load_model(path)) as files:
        for name in names:
            own = {key.rsplit(".", 1)[1]: value for key, value in tensors.items() if key.startswith(name)}
            theirs = PackedQuantizationCompressor.decompress(own, scheme)["weight"].float()
            torch.testing.assert_close(files.read(name), theirs, rtol=1e-3, atol=0, msg=f"{name} as {form}")
