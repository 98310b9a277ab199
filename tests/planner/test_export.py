"""Each engine gets the nearest flags that it has, in the plan's device order, and everything it cannot do is said."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from itertools import accumulate

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import block, outputs_like, plan_by_hand, ranges
from profiles import make_model

from tpplan.planner.export import ENGINES, export
from tpplan.planner.memory import device_bytes
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import LayerPlan, Plan, Split

MODEL = make_model(layers=8, hidden=512, heads=16, kv_heads=8, head_dim=32, mlp=2048, vocab=8192, tied_embeddings=False)
GPUS = ("cuda:0", "cuda:1")


def even(names: Sequence[str] = GPUS, **changes: object) -> Plan:
    n = len(names)
    return plan_by_hand(MODEL, names, [8 // n] * n, [2048 // n] * n, [8192 // n] * n, **changes)  # type: ignore[arg-type]


def uneven(names: Sequence[str] = GPUS, **changes: object) -> Plan:
    return plan_by_hand(MODEL, names, [6, 2], [1536, 512], [6144, 2048], **changes)  # type: ignore[arg-type]


def whole(owner: int, devices: int) -> LayerPlan:
    def one(total: int) -> list[int]:
        return [total * (d == owner) for d in range(devices)]

    return LayerPlan(block("row", one(16), []), block("row", one(2048), []))


def with_layers(plan: Plan, layers: Sequence[LayerPlan], head: Sequence[int]) -> Plan:
    """The plan with other layers and head, its memory counted again."""
    split = Split(ranges(head), tuple(layers), ranges(head))
    held = device_bytes(MODEL, split, plan.workload, plan.dtype, plan.cache_dtype)
    uses = [
        msgspec.structs.replace(
            use, bytes=h.total, cap_bytes=h.total, weight_bytes=h.weights, cache_bytes=h.cache, workspace_bytes=0
        )
        for use, h in zip(plan.device_use, held, strict=True)
    ]
    return msgspec.structs.replace(
        plan, layers=split.layers, head=split.head, embedding=split.embedding, device_use=tuple(uses)
    )


def by_layers(owners: Sequence[int], names: Sequence[str], head: Sequence[int]) -> Plan:
    return with_layers(even(names), [whole(d, len(names)) for d in owners], head)


def room(plan: Plan) -> Plan:
    """The plan with 16 GiB to spare on each device."""
    uses = tuple(msgspec.structs.replace(use, cap_bytes=use.bytes + 2**34) for use in plan.device_use)
    return msgspec.structs.replace(plan, device_use=uses)


def replaced(field: str, spans: tuple[tuple[int, int], ...]) -> LayerPlan:
    """A layer of the uneven plan with other ranges of its attention."""
    layer = uneven().layers[0]
    return msgspec.structs.replace(layer, attention=msgspec.structs.replace(layer.attention, **{field: spans}))


def flag(plan: Plan, engine: str, name: str) -> str | None:
    """The value of a flag, None where it is not given."""
    command = export(plan, engine, "m.gguf").command
    return command[command.index(name) + 1] if name in command else None


def lost(plan: Plan, engine: str) -> str:
    return "\n".join(export(plan, engine, "m").cannot_express)


@pytest.mark.parametrize(
    ("engine", "command"),
    [
        ("llama.cpp", "llama-server -m m.gguf -sm none -mg 0 -ngl 999"),
        ("ik_llama.cpp", "llama-server -m m.gguf -sm none -mg 0 -ngl 999"),
        ("exllamav3", "python examples/chat.py -mode raw -m m.gguf -cs 256"),
        ("vllm", "vllm serve m.gguf --dtype float32 --max-model-len 256"),
    ],
)
def test_single_device(engine: str, command: str) -> None:
    """One device of two: the other is hidden from the engine, so the one left is its number 0, and nothing is lost."""
    plan = plan_by_hand(MODEL, GPUS, [0, 8], [0, 2048], [0, 8192])
    exported = export(plan, engine, "m.gguf")
    assert exported.shell.startswith(f"CUDA_VISIBLE_DEVICES=1 {command}")
    assert all("float32" in line for line in exported.cannot_express)


def test_layers_in_turn() -> None:
    """Whole layers are said exactly: llama.cpp counts the output layer with the last device's, the others do not."""
    plan = by_layers([0, 0, 0, 0, 0, 1, 1, 1], GPUS, [0, 8192])
    for engine in ("llama.cpp", "ik_llama.cpp"):
        assert (flag(plan, engine, "-sm"), flag(plan, engine, "-ts")) == ("layer", "5,4")
    assert flag(plan, "exllamav3", "-lpd") == "5,3"
    vllm = export(plan, "vllm")
    assert vllm.environment == {"CUDA_VISIBLE_DEVICES": "0,1", "VLLM_PP_LAYER_PARTITION": "5,3"}
    assert flag(plan, "vllm", "--pipeline-parallel-size") == "2"
    assert lost(plan, "llama.cpp") == ""


def test_layers_order_the_devices() -> None:
    """The device of the first layers comes first for the engine, wherever it stands in the plan."""
    plan = by_layers([1, 1, 1, 1, 1, 0, 0, 0], GPUS, [8192, 0])
    for engine in ENGINES:
        assert export(plan, engine).environment["CUDA_VISIBLE_DEVICES"] == "1,0"
    assert flag(plan, "llama.cpp", "-ts") == "5,4"


def test_layers_that_alternate_and_a_head_elsewhere() -> None:
    """No engine deals out layers in turns or has the head before the end; both are told, the counts kept."""
    plan = by_layers([0, 1, 0, 1, 0, 1, 1, 1], GPUS, [8192, 0])
    for engine, counts in (("exllamav3", "3,5"), ("vllm", "3,5")):
        said = export(plan, engine)
        assert counts in (*said.command, *said.environment.values())
        assert "do not follow each other" in lost(plan, engine)
        assert "head on cuda:0" in lost(plan, engine)


def test_head_on_a_device_of_its_own() -> None:
    """A GPU with the head alone: llama.cpp deals it the output layer and no other; vLLM leaves it out and says so."""
    plan = by_layers([0] * 5 + [1] * 3, ("cuda:0", "cuda:1", "cuda:2"), [0, 0, 8192])
    assert flag(plan, "llama.cpp", "-ts") == "5,3,1"
    assert export(plan, "vllm").environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "cuda:2" in lost(plan, "vllm")


def test_uneven_shares() -> None:
    """3:1 of every layer: llama.cpp and ik_llama.cpp take the shares, exllamav3 budgets in their proportion."""
    plan = uneven()
    assert (flag(plan, "llama.cpp", "-sm"), flag(plan, "llama.cpp", "-ts")) == ("tensor", "75,25")
    assert (flag(plan, "ik_llama.cpp", "-sm"), flag(plan, "ik_llama.cpp", "-ts")) == ("graph", "75,25")
    roomy = room(plan)
    big, small = map(float, flag(roomy, "exllamav3", "-gs").split(","))
    assert big / small == pytest.approx(3, rel=0.01)
    assert big * 2**30 <= roomy.device_use[0].cap_bytes


@pytest.mark.parametrize(
    ("shares", "roomy", "gpus", "layers", "said"),
    [
        ((5, 3), True, "0,1", None, "shares are even"),
        ((7, 1), True, "0", None, "cuda:0 does all"),
        ((7, 1), False, "0,1", "7,1", "whole layers"),
    ],
)
def test_vllm_has_even_shares_one_gpu_or_whole_layers(
    shares: tuple[int, int], roomy: bool, gpus: str, layers: str | None, said: str
) -> None:
    """For a balanced 5:3 even shares take 4/3 of the time, cuda:0 alone 8/5; for 7:1 it is 4 against 8/7, and
    twice for whole layers, where cuda:0 has no room for all.
    """
    mlp = [2048 * s // 8 for s in shares]
    plan = plan_by_hand(MODEL, GPUS, shares, mlp, [8192 * s // 8 for s in shares])
    exported = export(room(plan) if roomy else plan, "vllm")
    assert exported.environment["CUDA_VISIBLE_DEVICES"] == gpus
    assert exported.environment.get("VLLM_PP_LAYER_PARTITION") == layers
    assert said in exported.cannot_express[0]


def test_vllm_refuses_uneven_heads_and_small_caps() -> None:
    """Where heads do not divide, or the smaller card cannot hold an even part, even shares are no answer."""
    three = plan_by_hand(MODEL, ("cuda:0", "cuda:1", "cuda:2"), [3, 3, 2], [768, 768, 512], [4096, 2048, 2048])
    assert "16 query heads cannot be shared evenly by 3" in lost(three, "vllm")
    assert flag(three, "vllm", "--pipeline-parallel-size") == "3"
    tight = plan_by_hand(MODEL, GPUS, [5, 3], [1280, 768], [5120, 3072])
    assert "cap of cuda:1 is less than an even part" in lost(tight, "vllm")


def test_even_shares_are_exact_for_vllm() -> None:
    """Even shares on every device, and stages of two even pairs, are what vLLM does: nothing of the split is lost."""
    assert flag(even(), "vllm", "--tensor-parallel-size") == "2"
    names = ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    pair = [
        LayerPlan(
            block("row", [8 * (d // 2 == s) for d in range(4)], []),
            block("row", [1024 * (d // 2 == s) for d in range(4)], []),
        )
        for s in (0, 1)
    ]
    plan = with_layers(even(names), [pair[0]] * 5 + [pair[1]] * 3, [0, 0, 4096, 4096])
    assert (flag(plan, "vllm", "--tensor-parallel-size"), flag(plan, "vllm", "--pipeline-parallel-size")) == ("2", "2")
    assert export(plan, "vllm").environment["VLLM_PP_LAYER_PARTITION"] == "5,3"
    assert all("memory" in line for line in export(plan, "vllm").cannot_express)


def test_two_of_three_gpus_in_each_layer() -> None:
    """No layer uses all three: ik_llama.cpp bounds the number, llama.cpp cannot, and says that splits differ."""
    names = ("cuda:0", "cuda:1", "cuda:2")
    kinds = [
        LayerPlan(
            block("row", [8 * (d != out) for d in range(3)], []),
            block("row", [1024 * (d != out) for d in range(3)], []),
        )
        for out in range(3)
    ]
    plan = with_layers(even(GPUS[:1] * 1 + names[1:]), [kinds[layer % 3] for layer in range(8)], [2048, 2048, 4096])
    assert flag(plan, "ik_llama.cpp", "--max-gpu") == "2"
    assert flag(plan, "llama.cpp", "--max-gpu") is None
    assert "3 different splits of layers" in lost(plan, "llama.cpp")


def test_sets_by_block() -> None:
    """Attention on one device, MLP on both: exllamav3 bounds each block's devices, llama.cpp has one list for all."""
    layer = LayerPlan(block("row", [16, 0], []), block("row", [1024, 1024], []))
    plan = with_layers(even(), [layer] * 8, [4096, 4096])
    assert (flag(plan, "exllamav3", "-tp_attn"), flag(plan, "exllamav3", "-tp_mlp")) == ("1", None)
    assert "different shares or device sets for attention and MLP" in lost(plan, "llama.cpp")
    assert "different shares" not in lost(plan, "exllamav3")


@pytest.mark.parametrize("engine", ENGINES)
def test_column_copies_and_sums(engine: str) -> None:
    """Column strategy, a KV head on two devices and chosen adders are beyond every engine, and each says so."""
    queries = [9, 7]
    attention = msgspec.structs.replace(block("row", queries, []), decode_sums=ranges([256, 256]))
    layer = LayerPlan(attention, block("column", [1024, 1024], outputs_like([1, 1], 512)))
    said = lost(room(with_layers(even(), [layer] * 8, [4096, 4096])), engine)
    for words in ("MLP by column", "one KV head on two devices", "adds up which columns"):
        assert words in said


def test_cpu_layers_come_first() -> None:
    """A CPU with the first layers is exact in llama.cpp: -ngl counts the 5 others and the output layer."""
    plan = by_layers([1, 1, 1, 0, 0, 0, 0, 0], ("cuda:0", "cpu"), [8192, 0])
    assert (flag(plan, "llama.cpp", "-sm"), flag(plan, "llama.cpp", "-ngl")) == ("none", "6")
    assert lost(plan, "llama.cpp") == ""
    last = by_layers([0, 0, 0, 0, 0, 1, 1, 1], ("cuda:0", "cpu"), [8192, 0])
    assert "it gets the first ones" in lost(last, "llama.cpp")


def test_cpu_in_a_tensor_split() -> None:
    """A CPU with a quarter of every layer: where caps have room the GPU takes it, else the CPU gets whole layers."""
    plan = uneven(("cuda:0", "cpu"))
    assert flag(plan, "llama.cpp", "-ngl") == "7"  # 8 layers and the output layer, less two
    assert "2 whole layers" in lost(plan, "llama.cpp")
    assert float(flag(plan, "vllm", "--cpu-offload-gb")) > 0
    assert flag(room(plan), "llama.cpp", "-ngl") == "999"
    assert flag(room(plan), "vllm", "--cpu-offload-gb") is None
    with pytest.raises(ValueError, match="export to llama"):
        export(plan, "exllamav3")


def test_cpus_alone() -> None:
    """llama.cpp runs one pool of threads on all cores; vLLM binds an even rank to each device; exllamav3 refuses."""
    plan = even(("cpu:0-3", "cpu:4"))
    llama = export(plan, "llama.cpp", "m.gguf")
    assert llama.shell.startswith("taskset -c 0-3,4 llama-server -m m.gguf -t 5 -dev none -ngl 0")
    vllm = export(plan, "vllm")
    assert vllm.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-3|4"
    assert "VLLM_CPU_OMP_THREADS_BIND='0-3|4'" in vllm.shell
    with pytest.raises(ValueError, match="GPUs alone"):
        export(plan, "exllamav3")


def test_catalogue_names_and_other_makers() -> None:
    """Catalogue names are numbered in the order of the plan, which is told; other makers' GPUs go by backend names."""
    plan = even(("rtx3060", "rtx3090"))
    assert export(plan, "llama.cpp").environment == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert any("rtx3090 for CUDA device 1" in note for note in export(plan, "llama.cpp").notes)
    mixed = even(("rtx3060", "rx7900xtx"))
    assert flag(mixed, "llama.cpp", "-dev") == "CUDA0,ROCm0"
    for engine in ("ik_llama.cpp", "exllamav3", "vllm"):
        with pytest.raises(ValueError, match="rx7900xtx"):
            export(mixed, engine)
    for engine in ("exllamav3", "vllm"):
        with pytest.raises(ValueError, match="p40"):
            export(even(("rtx3060", "p40")), engine)
    assert export(even(("cuda:1", "rtx3060")), "llama.cpp").environment == {"CUDA_VISIBLE_DEVICES": "1,0"}


def test_parts_of_a_gpu_are_one_gpu() -> None:
    """Two parts of GPU 0 beside GPU 1: engines see two GPUs, and the first has what its parts had together."""
    plan = plan_by_hand(MODEL, ("cuda:0/16", "cuda:0/48", "cuda:1"), [2, 2, 4], [512, 512, 1024], [2048, 2048, 4096])
    assert export(plan, "llama.cpp").environment == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert flag(plan, "llama.cpp", "-ts") == "50,50"
    assert "cuda:0/16 and cuda:0/48" in lost(plan, "llama.cpp")


@pytest.mark.parametrize(
    ("dtype", "cache", "flags"),
    [
        ("bfloat16", "bfloat16", ["--dtype", "bfloat16"]),
        ("int4", "bfloat16", []),
        ("float32", "float32", ["--dtype", "float32"]),
    ],
)
def test_number_formats(dtype: str, cache: str, flags: list[str]) -> None:
    """Weights follow the checkpoint unless plain; llama.cpp takes the plan's cache format, ik_llama.cpp f16."""
    plan = msgspec.structs.replace(even(), dtype=dtype, cache_dtype=cache)
    command = export(plan, "vllm").command
    assert [a for i, a in enumerate(command) if "--dtype" in command[max(0, i - 1) : i + 1]] == flags
    assert flag(plan, "llama.cpp", "-ctk") == {"bfloat16": "bf16", "float32": "f32"}[cache]
    assert flag(plan, "ik_llama.cpp", "-ctk") == "f16"


def test_batch_and_context() -> None:
    """llama-server and exllamav3 count the cache of all sequences together, vLLM one sequence's."""
    plan = even()
    plan = msgspec.structs.replace(plan, workload=msgspec.structs.replace(plan.workload, batch=3, context=1000))
    assert (flag(plan, "llama.cpp", "-c"), flag(plan, "llama.cpp", "-np")) == ("3000", "3")
    assert flag(plan, "exllamav3", "-cs") == "3072"
    assert (flag(plan, "vllm", "--max-model-len"), flag(plan, "vllm", "--max-num-seqs")) == ("1000", "3")


@pytest.mark.parametrize("path", ["a b/c'd.gguf", '$(touch x) `y` "z"; & |.gguf', "-rf", "é ü.gguf"])
@pytest.mark.parametrize("engine", ENGINES)
def test_shells_see_one_path(engine: str, path: str) -> None:
    """A real shell splits the line into exactly the command's words, and none of them is an option it was not."""
    exported = export(uneven(), engine, path)
    line = exported.shell.replace("python ", "printf '%s\\n' python ", 1) if engine == "exllamav3" else exported.shell
    line = re.sub(r"(^|\s)(llama-server|vllm) ", r"\1printf '%s\\n' \2 ", line, count=1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.splitlines()) == exported.command
    assert (path if path[0] != "-" else f"./{path}") in exported.command
    assert shlex.split(exported.shell)[-len(exported.command) :] == list(exported.command)


@pytest.mark.parametrize(
    ("engine", "stands"),
    [("llama.cpp", "MODEL.gguf"), ("ik_llama.cpp", "MODEL.gguf"), ("exllamav3", "MODEL_DIR"), ("vllm", "MODEL_DIR")],
)
def test_descriptions_are_no_weights(engine: str, stands: str) -> None:
    """Where the plan names a bare description, a placeholder stands for the weights and a note says so."""
    plan = msgspec.structs.replace(uneven(), model="/models/llama.json")
    said = export(plan, engine)
    assert stands in said.command
    assert "llama.json" not in said.shell
    assert said.notes[0].startswith(f"{stands} stands for the weights")
    assert "a.gguf" in export(plan, engine, "a.gguf").command
    assert not any("stands for" in note for note in export(plan, engine, "a.gguf").notes)


@pytest.mark.parametrize("path", ["", "a\nb", "\x1b[31m", "\udc80"])
def test_paths_that_no_terminal_should_see(path: str) -> None:
    """Control characters and broken encodings are refused with the way out."""
    with pytest.raises(ValueError, match="--model"):
        export(uneven(), "llama.cpp", path)


@pytest.mark.parametrize("name", ["", "cuda:0\n", "\x1b]0;x\x07"])
def test_hostile_device_names(name: str) -> None:
    """Names that cannot be printed are refused; others are only ever data."""
    with pytest.raises(ValueError, match="device name"):
        export(uneven((name, "cuda:1")), "llama.cpp")
    said = export(uneven(("$(reboot); '", "cuda:1")), "llama.cpp", "m.gguf")
    assert said.environment == {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"layers": ()}, "layers"),
        ({"devices": ("cuda:0",)}, "device_use"),
        ({"devices": ("cuda:0", "cuda:0")}, "devices"),
        ({"head": ((0, 0), (0, 0))}, "head"),
        ({"head": ((0, 10), (5, 20))}, "head"),
        ({"head": ((0, 6144), (6144, 9000))}, "head"),
        ({"embedding": ((0, 10),)}, "embedding"),
        ({"device_use": ()}, "device_use"),
        ({"layers": (*uneven().layers[:3], replaced("units", ((0, 12), (12, 99))))}, "layer 3 attention"),
        ({"layers": (*uneven().layers[:3], replaced("decode_sums", ((0, 512),)))}, "layer 3 attention sums"),
    ],
)
def test_plans_that_contradict_themselves(changes: dict[str, object], place: str) -> None:
    """A plan file that was tampered with ends in one line that names the place, not in a traceback."""
    for engine in ENGINES:
        with pytest.raises(ValueError, match=f"contradicts itself in its {place};"):
            export(msgspec.structs.replace(uneven(), **changes), engine)


@given(
    shares=st.lists(st.integers(0, 8), min_size=2, max_size=5).filter(lambda s: sum(s) > 0),
    order=st.permutations(range(5)),
    context=st.integers(1, 4096),
)
@settings(max_examples=60, deadline=None)
def test_shares_add_up_in_plan_order(shares: list[int], order: list[int], context: int) -> None:
    """Whatever the split: visible GPUs are those with a share, in plan order; -ts adds up to 100 and follows the shares
    within rounding and vocabulary; every engine that answers places all layers.
    """
    model: ModelSpec = msgspec.structs.replace(
        MODEL, heads=2 * sum(shares), kv_heads=sum(shares), mlp=256 * sum(shares)
    )
    names = [f"cuda:{i}" for i in order[: len(shares)]]
    plan = plan_by_hand(model, names, shares, [256 * s for s in shares], [1024 * s for s in shares], context=context)
    used = [name[5:] for name, share in zip(names, shares, strict=True) if share]
    said = export(plan, "llama.cpp")
    assert said.environment["CUDA_VISIBLE_DEVICES"].split(",") == used
    if len(used) > 1:
        parts = list(map(float, flag(plan, "llama.cpp", "-ts").split(",")))
        assert sum(parts) == pytest.approx(100, abs=1e-9)
        assert parts == pytest.approx([100 * s / sum(shares) for s in shares if s], abs=2)
    vllm = export(plan, "vllm")
    width, depth = (int(flag(plan, "vllm", f"--{kind}-parallel-size")) for kind in ("tensor", "pipeline"))
    assert width * depth == len(vllm.environment["CUDA_VISIBLE_DEVICES"].split(","))
    if depth > 1:
        assert sum(map(int, vllm.environment["VLLM_PP_LAYER_PARTITION"].split(","))) == model.layers


@given(owners=st.lists(st.integers(0, 3), min_size=8, max_size=8).map(sorted), head=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_llama_cpp_deals_out_what_the_plan_holds(owners: list[int], head: int) -> None:
    """llama.cpp's own rule, written out: slot i of the layers and the output layer goes to the first device whose
    running share exceeds i / 9; that gives each layer the plan's device, and the head its own where it is the last.
    """
    names = [f"cuda:{d}" for d in range(4)]
    plan = by_layers(owners, names, [8192 * (d == head) for d in range(4)])
    exported = export(plan, "llama.cpp")
    seen = [int(i) for i in exported.environment["CUDA_VISIBLE_DEVICES"].split(",")]
    shares = list(map(float, (flag(plan, "llama.cpp", "-ts") or "1").split(",")))
    ends = [end / sum(shares) for end in accumulate(shares)]
    dealt = [seen[next(d for d, end in enumerate(ends) if end > slot / 9)] for slot in range(9)]
    assert dealt[:8] == owners
    assert dealt[8] == head or any(f"head on cuda:{head}" in line for line in exported.cannot_express)
