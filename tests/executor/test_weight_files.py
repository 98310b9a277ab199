"""Weight reading against the gguf library, safetensors and transformers: values, slices, names, permutation, limits."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES, random_rows, small_gguf, tiny_checkpoint, tiny_gguf, tiny_model
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file, save_file

from tpplan.executor.dequantise import READABLE, decode
from tpplan.executor.weight_files import check_weights, open_weights
from tpplan.planner.model_files import load_model

PLAIN = (Q.F32, Q.F16, Q.BF16)
SLICES = (((0, 96), (0, 256)), ((16, 48), (0, 256)), ((0, 96), (32, 160)), ((32, 64), (7, 201)), ((48, 48), (0, 0)))


@pytest.mark.parametrize("kind", READABLE)
def test_decoding_equals_the_gguf_library(kind: Q) -> None:
    """Random blocks of each type decode to exactly what gguf.quants makes of them."""
    raw = random_rows(kind, 6, 512)
    out = np.empty((6, 512), np.float32)
    decode(raw, kind, out)
    expected = gguf.quants.dequantize(raw, kind)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("kind", READABLE)
def test_slices_equal_slices_of_the_whole(kind: Q, tmp_path: Path) -> None:
    """Any rows and columns, on block borders or not, are those of the tensor decoded whole."""
    raw = random_rows(kind, 96, 256)
    if kind in (Q.F32, Q.F16):
        raw = raw.view({Q.F32: np.float32, Q.F16: np.float16}[kind])
    path = small_gguf(tmp_path / "m.gguf", tensors={"extra": (raw, kind)})
    whole = gguf.quants.dequantize(raw, kind)
    spec = load_model(small_gguf(tmp_path / "plain.gguf"))
    with open_weights(path, spec) as files:
        for rows, columns in SLICES:
            read = files.read("extra", rows, columns)
            assert read.is_contiguous()
            np.testing.assert_array_equal(read.numpy(), whole[slice(*rows), slice(*columns)])
        np.testing.assert_array_equal(files.read("extra").numpy(), whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gguf_gives_back_the_checkpoint(architecture: str, tmp_path: Path) -> None:
    """Through llama.cpp's names and its q/k permutation, every float32 tensor returns bit for bit; heads too."""
    own = {"attention_bias": True, "mlp_bias": True} if architecture == "llama" else {}
    model = tiny_model(architecture, **({"head_dim": 16, "sliding_window": None} | own))
    path = tiny_gguf(model, tmp_path / "model.gguf")
    spec = load_model(path)
    with open_weights(path, spec) as files:
        check_weights(files, spec)
        state = model.state_dict()
        assert set(files.names) == set(state)
        for name in files.names:
            assert torch.equal(files.read(name), state[name]), name
        q = "model.layers.1.self_attn.q_proj.weight"
        for rows in ((0, 32), (32, 96), (64, 64)):
            assert torch.equal(files.read(q, rows), state[q][slice(*rows)])
            assert torch.equal(files.read(q, rows, (5, 50)), state[q][slice(*rows), 5:50])
        if spec.qkv_bias:
            bias = "model.layers.0.self_attn.k_proj.bias"
            assert torch.equal(files.read(bias, (16, 48)), state[bias][16:48])


def test_quantised_gguf_reads_as_transformers_reads_it(tmp_path: Path) -> None:
    """A Q4_1 llama, rows un-permuted by transformers' own GGUF loader, is the same tensor by tensor."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = tiny_model("llama", hidden_size=192, num_attention_heads=6, head_dim=32)
    path = tiny_gguf(model, tmp_path / "model.gguf", Q.Q4_1)
    theirs = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    with open_weights(path, load_model(path)) as files:
        assert set(theirs) <= set(files.names)
        for name, expected in theirs.items():
            assert torch.equal(files.read(name), expected), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sharded", [False, True])
def test_safetensors_read_as_saved(architecture: str, sharded: bool, tmp_path: Path) -> None:
    """A saved checkpoint, in one file or several, returns bit for bit, whole and in slices."""
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path, max_shard_size="300KB" if sharded else "1GB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or not sharded
    spec = load_model(tmp_path)
    state = model.state_dict()
    with open_weights(tmp_path, spec) as files:
        check_weights(files, spec)
        for name in files.names:
            assert files.shape(name) == tuple(state[name].shape)
            assert torch.equal(files.read(name), state[name])
        down = "model.layers.0.mlp.down_proj.weight"
        assert torch.equal(files.read(down, (3, 90), (17, 150)), state[down][3:90, 17:150])
        assert torch.equal(files.read("model.norm.weight", (10, 20)), state["model.norm.weight"][10:20])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_safetensors_dtypes_widen_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    """Half precision checkpoints read as the float32 values that torch widens them to."""
    tensors = {"a": torch.randn(40, 24).to(dtype), "b": torch.randn(24).to(dtype)}
    save_file(tensors, tmp_path / "model.safetensors")
    with open_weights(tmp_path, load_model(small_gguf(tmp_path / "m.gguf"))) as files:
        for name, tensor in tensors.items():
            assert torch.equal(files.read(name), tensor.float())
        assert torch.equal(files.read("a", (3, 9), (5, 20)), tensors["a"][3:9, 5:20].float())


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path / "llama")


def resave(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors: dict[str, Any] = load_file(folder / "model.safetensors") | changes
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / "model.safetensors")


NORM, Q_PROJ = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({NORM: None}, "model.norm.weight"),
        ({Q_PROJ: torch.zeros(96, 95)}, "q_proj"),
        ({Q_PROJ: torch.zeros(96, 96, 1)}, "q_proj"),
        ({"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}, "q_norm"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.ones(96)}, "q_proj.bias"),
        ({"model.layers.2.mlp.up_proj.weight": torch.ones(192, 96)}, "layers.2"),
        ({"score.weight": torch.ones(2, 96)}, "score.weight"),
    ],
)
def test_weights_that_disagree_with_the_config_are_refused(changes: Any, named: str, llama_folder: Path) -> None:
    """A missing, misshapen or unknown tensor is named, before any data is read."""
    resave(llama_folder, **changes)
    spec = load_model(llama_folder)
    with open_weights(llama_folder, spec) as files, pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
        check_weights(files, spec)
    assert named in str(refused.value)


def test_old_rotary_buffers_are_ignored(llama_folder: Path) -> None:
    """`rotary_emb.inv_freq`, which follows from the config, does not stop a checkpoint."""
    resave(llama_folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    spec = load_model(llama_folder)
    with open_weights(llama_folder, spec) as files:
        check_weights(files, spec)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_values_are_reported_with_their_tensor(bad: float, llama_folder: Path) -> None:
    """A single NaN or infinity is found by the slice that holds it, and by no other."""
    weight = torch.randn(96, 96)
    weight[40, 50] = bad
    resave(llama_folder, **{Q_PROJ: weight})
    with open_weights(llama_folder, load_model(llama_folder)) as files:
        with pytest.raises(ValueError, match=r"^[^\n]*q_proj[^\n]*NaN[^\n]*$"):
            files.read(Q_PROJ)
        assert torch.equal(files.read(Q_PROJ, columns=(0, 50)), weight[:, :50])


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q8_0, Q.Q4_K, Q.Q6_K])
def test_bad_scales_are_reported(kind: Q, tmp_path: Path) -> None:
    """A NaN in one block's scale names the tensor, whatever the type."""
    raw = random_rows(kind, 4, 256)
    raw[2, {Q.Q6_K: 208}.get(kind, 0) : {Q.Q6_K: 210}.get(kind, 2)] = 0xFF
    path = small_gguf(tmp_path / "m.gguf", tensors={"extra": (raw, kind)})
    with (
        open_weights(path, load_model(small_gguf(tmp_path / "plain.gguf"))) as files,
        pytest.raises(ValueError, match="'extra' holds NaN"),
    ):
        files.read("extra")


def test_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    """An exotic GGUF type is refused when the file is opened."""
    path = small_gguf(tmp_path / "m.gguf", tensors={"extra": (np.zeros((1, 66), np.uint8), Q.IQ2_XXS)})
    with pytest.raises(ValueError, match="IQ2_XXS"):
        open_weights(path, load_model(small_gguf(tmp_path / "plain.gguf")))


def test_file_that_shrinks_is_reported(llama_folder: Path) -> None:
    """Truncation after opening ends in a line, not in a killed process."""
    file = llama_folder / "model.safetensors"
    with open_weights(llama_folder, load_model(llama_folder)) as files:
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(ValueError, match="truncated"):
            files.read("model.embed_tokens.weight")


def test_places_without_weights_are_refused(tmp_path: Path, llama_folder: Path) -> None:
    """A config alone, an empty directory and a missing file each get a line with the fix."""
    spec = load_model(llama_folder)
    for path in (llama_folder / "config.json", tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(ValueError, match=r"^[^\n]*$"):
            open_weights(path, spec)


@pytest.fixture
def demo(demo_gguf: Path) -> Iterator[Any]:
    with open_weights(demo_gguf, load_model(demo_gguf)) as files:
        yield files


def test_demo_model_equals_the_gguf_library(demo: Any) -> None:
    """Real Q8_0 and Q4_1 tensors of the demo model decode to the library's values."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(demo.path).tensors}
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
    ):
        expected = gguf.quants.dequantize(tensors[theirs].data[:576], tensors[theirs].tensor_type)
        np.testing.assert_array_equal(demo.read(ours, (0, 576)).numpy(), expected)


def test_demo_model_reads_fast_and_in_little_memory(demo: Any) -> None:
    """All 135 M weights in under 3 s, and 16 MB at most beyond the largest tensor, on a busy machine."""
    tracemalloc.start()
    began = time.perf_counter()
    for name in demo.names:
        demo.read(name)
    elapsed_s = time.perf_counter() - began
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed_s < 3
    assert peak_bytes < 49152 * 576 * 4 + (16 << 20)


def test_threads_read_at_once(demo: Any) -> None:
    """Eight threads reading interleaved slices of one file get what one thread gets."""
    name = "model.layers.3.mlp.gate_proj.weight"
    whole = demo.read(name)
    spans = [(begin, begin + 96) for begin in range(0, 1536, 96)] * 8
    with ThreadPoolExecutor(8) as pool:
        for span, read in zip(spans, pool.map(lambda span: demo.read(name, span), spans)):
            assert torch.equal(read, whole[slice(*span)])
