"""`load_model` against transformers' reading of the same config, and GGUF against the checkpoint it was made from."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from checkpoints import ARCHITECTURES, TINY, small_gguf, tiny_gguf, tiny_model

from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import Quant

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ROPES = (
    {},
    {"rope_theta": 500_000.0},
    {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 20_000.0},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}},
    {"rope_scaling": LLAMA3, "rope_theta": 500_000.0},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.5, "beta_fast": 16, "truncate": False}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0}},
)
SHAPES = (
    {},
    {"head_dim": 32},
    {"tie_word_embeddings": True},
    {"rms_norm_eps": 1e-5, "architectures": None, "torch_dtype": "bfloat16"},
)
OWN = {
    "llama": ({"attention_bias": True}, {"mlp_bias": True}, {"num_key_value_heads": None}, {"head_dim": None}),
    "mistral": ({"sliding_window": None}, {"sliding_window": 64}),
    "qwen2": (
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen3": ({"attention_bias": True}, {"use_sliding_window": True, "max_window_layers": 0}),
}
CASES = [(name, case) for name in ARCHITECTURES for case in (*ROPES, *SHAPES, *OWN[name])]


def write_config(folder: Path, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(fields))
    return path


def from_transformers(path: Path) -> dict[str, Any]:
    """What transformers understands of a config, in our words."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path.parent)
    qwen = config.model_type.startswith("qwen")
    kinds = config.layer_types if qwen else ["sliding_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or 0
    bias = getattr(config, "attention_bias", False)
    heads = config.num_attention_heads
    return {
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "mlp": config.intermediate_size,
        "vocab": config.vocab_size,
        "context": config.max_position_embeddings,
        "norm_eps": config.rms_norm_eps,
        "tied_embeddings": config.tie_word_embeddings,
        "qkv_bias": bias or config.model_type == "qwen2",
        "o_bias": bias,
        "mlp_bias": getattr(config, "mlp_bias", False),
        "windows": tuple(window if kind == "sliding_attention" else 0 for kind in kinds),
    }


@pytest.mark.parametrize(("architecture", "changes"), CASES)
def test_config_means_what_transformers_reads(architecture: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Every dimension, bias, window and rope number equals what transformers makes of the same file."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    path = write_config(tmp_path, model_type=architecture, **(TINY | changes))
    spec = load_model(path)
    assert spec.architecture == architecture
    assert {name: getattr(spec, name) for name in from_transformers(path)} == from_transformers(path)
    config = AutoConfig.from_pretrained(tmp_path)
    rope = config.rope_parameters
    assert spec.rope.theta == rope["rope_theta"]
    assert spec.rope.scaling == rope["rope_type"].replace("default", "none")
    assert spec.rope.factor == rope.get("factor", 1.0)
    if spec.rope.scaling in ("llama3", "yarn"):
        assert spec.rope.original_context == rope["original_max_position_embeddings"]
    if spec.rope.scaling == "yarn" and spec.head_dim:
        config.head_dim = spec.head_dim
        assert spec.rope.attention_factor == pytest.approx(ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")[1])
        assert spec.rope.truncate == rope.get("truncate", True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_defaults_are_read(architecture: str, tmp_path: Path) -> None:
    """A config class's defaults, saved by transformers, load; a bare file of required fields means the same."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(architecture)
    config.save_pretrained(tmp_path)
    spec = load_model(tmp_path)
    assert {name: getattr(spec, name) for name in from_transformers(tmp_path / "config.json")} == from_transformers(
        tmp_path / "config.json"
    )
    required = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    bare = {name: getattr(config, name) for name in (*required, "max_position_embeddings", "model_type")}
    assert load_model(write_config(tmp_path / "bare", **bare)) == spec


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "actorder": "group"},
        }
    },
}
GPTQ_V2, AWQ_4 = Quant(4, 32, method="gptq_v2"), Quant(4, 32, method="awq")
QUANTISED = (
    (GPTQ, Quant(4, 32)),
    (GPTQ | {"bits": 8, "desc_act": True}, Quant(8, 32, act_order=True)),
    (GPTQ | {"desc_act": True, "static_groups": True}, Quant(4, 32)),
    (GPTQ | {"lm_head": False, "dynamic": None, "checkpoint_format": "gptq_v2", "true_sequential": True}, GPTQ_V2),
    (GPTQ | {"bits": 3, "group_size": -1}, Quant(3, -1)),
    (GPTQ | {"dynamic": {"-:.*down.*": {}}}, Quant(4, 32, mixed=True)),
    (AWQ, AWQ_4),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 16, "version": "gemm"}, Quant(4, 16, method="awq")),
    (AWQ | {"modules_to_not_convert": ["lm_head"]}, AWQ_4),
    (AWQ | {"modules_to_not_convert": ["mlp.down_proj"]}, Quant(4, 32, method="awq", mixed=True)),
    (COMPRESSED, Quant(4, 32, True, "compressed-tensors")),
    (None, None),
)


@pytest.mark.parametrize(("stored", "quant"), QUANTISED)
def test_quantised_checkpoints(stored: Any, quant: Quant | None, tmp_path: Path) -> None:
    """Methods in bits and groups; order counts only where it scatters groups; all else is as without."""
    plain = load_model(write_config(tmp_path / "plain", model_type="llama", **TINY))
    path = write_config(tmp_path / "quantised", model_type="llama", **TINY, quantization_config=stored)
    loaded = load_model(path)
    assert loaded == msgspec.structs.replace(plain, quant=quant, stored=loaded.stored)
    assert bool(loaded.stored) == bool(quant and quant.mixed)


@pytest.mark.parametrize(("method", "act_order"), [("gptq", True), ("gptq", False), ("awq", False)])
def test_what_transformers_saves_is_understood(method: str, act_order: bool, tmp_path: Path) -> None:
    """Every field that transformers' own classes write for the two methods."""
    from transformers import AwqConfig, GPTQConfig

    own = AwqConfig(group_size=32) if method == "awq" else GPTQConfig(bits=4, group_size=32, desc_act=act_order)
    path = write_config(tmp_path, model_type="llama", **TINY, quantization_config=own.to_dict())
    assert load_model(path).quant == Quant(4, 32, act_order, method)  # type: ignore[arg-type]


REFUSED = (
    ({"hidden_size": 1 << 24, "intermediate_size": 1 << 24, "num_hidden_layers": 4096}, "weights"),
    ({"model_type": "gemma2"}, "model_type"),
    ({"model_type": None}, "model_type"),
    ({"model_type": ["llama"]}, "model_type"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type"),
    ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "short_factor"),
    ({"rope_scaling": {"type": "linear"}}, "factor"),
    ({"rope_scaling": {"type": "linear", "factor": -2}}, "rope_scaling.factor"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"num_experts": 8}, "num_experts"),
    ({"num_local_experts": 8}, "num_local_experts"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
    ({"auto_map": {"AutoModelForCausalLM": "modeling.X"}}, "auto_map"),
    ({"quantization_config": True}, "quantization_config"),
    ({"quantization_config": ""}, "quantization_config"),
    ({"quantization_config": []}, "quantization_config"),
    ({"quantization_config": GPTQ | {"group_size": 0}}, "group_size"),
    ({"quantization_config": GPTQ | {"quant_method": "bitsandbytes"}}, "'bitsandbytes'"),
    ({"quantization_config": {"bits": 4, "group_size": 32}}, "quant_method"),
    ({"quantization_config": {"quant_method": "gptq", "group_size": 32}}, "bits"),
    ({"quantization_config": GPTQ | {"bits": 5}}, "bits"),
    ({"quantization_config": GPTQ | {"checkpoint_format": "marlin"}}, "checkpoint_format"),
    ({"quantization_config": AWQ | {"version": "gemv"}}, "version"),
    ({"quantization_config": COMPRESSED | {"format": "float-quantized"}}, "pack-quantized"),
    ({"quantization_config": COMPRESSED | {"config_groups": {}}}, "config_groups"),
    ({"quantization_config": AWQ | {"bits": 8}}, "bits"),
    ({"quantization_config": GPTQ | {"bits": "4"}}, "quantization_config.bits"),
    ({"quantization_config": GPTQ | {"group_size": 12}}, "group_size"),
    ({"quantization_config": GPTQ | {"group_size": 64}}, "hidden width 96"),
    ({"quantization_config": GPTQ | {"group_size": 10**30}}, "group_size"),
    ({"quantization_config": GPTQ | {"rotation": "hadamard"}}, "quantization_config.rotation"),
    ({"sliding_window": 4096}, "sliding_window"),
    ({"num_key_value_heads": 4}, "key/value heads"),
    ({"head_dim": 15}, "odd"),
    ({"num_attention_heads": 7, "num_key_value_heads": 7, "head_dim": None}, "multiple"),
    ({"hidden_size": 0}, "hidden_size"),
    ({"hidden_size": -96}, "hidden_size"),
    ({"hidden_size": "96"}, "hidden_size"),
    ({"hidden_size": True}, "hidden_size"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ({"num_hidden_layers": 10**30}, "num_hidden_layers"),
    ({"vocab_size": 1.5}, "vocab_size"),
    ({"vocab_size": None}, "vocab_size"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rms_norm_eps": float("nan")}, "JSON"),
    ({"rope_theta": float("inf")}, "JSON"),
    ({"rope_theta": 10**400}, "rope_theta"),
    ({"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": -14.4}}, "mscale_all_dim"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
)


@pytest.mark.parametrize(("changes", "named"), REFUSED)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    """One line that names the file and the field."""
    path = write_config(tmp_path, **({"model_type": "llama"} | TINY | changes))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
        load_model(path)
    assert str(path) in str(refused.value)
    assert named in str(refused.value)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_missing_fields_are_named(missing: str, tmp_path: Path) -> None:
    """A config without a required field is refused by that field's name."""
    fields = {"model_type": "llama"} | TINY
    del fields[missing]
    with pytest.raises(ValueError, match=missing):
        load_model(write_config(tmp_path, **fields))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\xfe{}", b'{"a":' * 100_000, b"[" * 10_000_000, b"GGUF\0\0"]
)
def test_files_that_are_no_config_are_refused(content: bytes, tmp_path: Path) -> None:
    """Empty, cut, binary and deeply nested files end in one line, not a crash."""
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*model\.json[^\n]*$"):
        load_model(path)


def test_absent_files_are_refused(tmp_path: Path) -> None:
    """A missing file, an empty directory, a device and a directory called .gguf each get one line."""
    (tmp_path / "folder.gguf").mkdir()
    for path in (tmp_path, tmp_path / "a.json", tmp_path / "a.gguf", tmp_path / "folder.gguf", Path("/dev/zero")):
        with pytest.raises(ValueError, match=r"^[^\n]*$"):
            load_model(path)


GGUF_CASES = (
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5}),
    ("llama", {"head_dim": 32, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e4}}),
    ("llama", {"head_dim": 64, "rope_parameters": LLAMA3 | {"rope_theta": 500_000.0, "factor": 32.0}}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"head_dim": 16}),
    ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}}),
)


@pytest.mark.parametrize(("architecture", "changes"), GGUF_CASES)
def test_gguf_means_what_its_checkpoint_means(architecture: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """A GGUF written from a checkpoint gives the very spec of that checkpoint's config (Mistral is llama there)."""
    model = tiny_model(architecture, **changes)
    model.config.save_pretrained(tmp_path)
    spec = load_model(tmp_path)
    if architecture == "mistral":
        spec = msgspec.structs.replace(spec, architecture="llama")
    assert load_model(tiny_gguf(model, tmp_path / "model.gguf")) == spec


def test_demo_gguf_is_smollm2(demo_gguf: Path) -> None:
    """SmolLM2-135M's published dimensions, read in well under a second (gguf.GGUFReader takes 2 s)."""
    began = time.perf_counter()
    spec = load_model(demo_gguf)
    assert time.perf_counter() - began < 1.0
    assert (spec.layers, spec.hidden, spec.heads, spec.kv_heads, spec.head_dim) == (30, 576, 9, 3, 64)
    assert (spec.mlp, spec.vocab, spec.context, spec.norm_eps) == (1536, 49152, 8192, 1e-5)
    assert spec.tied_embeddings
    assert spec.rope.theta == 100_000
    assert spec.weights == pytest.approx(134.5e6, rel=1e-3)


def test_small_gguf_loads(tmp_path: Path) -> None:
    """The file that the refusals below start from is itself good."""
    assert load_model(small_gguf(tmp_path / "m.gguf")).head_dim == 16


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "gemma2"}, "general.architecture"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.attention.sliding_window": 4096}, "sliding_window"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "rope.scaling.type"),
        ({"llama.rope.scaling.yarn_attn_factor": 1.2}, "yarn_attn_factor"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count"),
        ({"llama.rope.freq_base": float("nan")}, "freq_base"),
        ({"llama.attention.layer_norm_rms_epsilon": float("inf")}, "epsilon"),
        ({"llama.block_count": 2}, "model.layers.1"),
        ({"llama.block_count": 4_000_000_000}, "block_count"),
        ({"llama.attention.head_count": 0}, "head_count"),
        ({"llama.attention.head_count_kv": [1, 2]}, "head_count_kv"),
        ({"llama.embedding_length": 64}, "embed_tokens"),
        ({"llama.vocab_size": 65}, "embed_tokens"),
        ({"llama.context_length": "long"}, "context_length"),
        ({"split.count": 3}, "split"),
        ({"tensors": {"token_embd.weight": None}}, "token_embd"),
        ({"tensors": {"blk.0.ffn_up.weight": None}}, "up_proj"),
    ],
)
def test_lying_gguf_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Metadata that is not understood, out of range or at odds with the tensors is refused by name, in one line."""
    with pytest.raises(ValueError, match=r"^[^\n]*m\.gguf[^\n]*$") as refused:
        load_model(small_gguf(tmp_path / "m.gguf", **changes))
    assert named in str(refused.value)


def test_reading_models_needs_no_torch(tmp_path: Path) -> None:
    """Loading a GGUF model in a fresh interpreter imports neither torch nor transformers."""
    path = small_gguf(tmp_path / "m.gguf")
    code = f"import sys; from tpplan.planner.model_files import load_model; load_model({str(path)!r})"
    code += "; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
