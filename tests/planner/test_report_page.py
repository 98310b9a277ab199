"""The report page is whole, needs nothing from outside, believes no name, and says all that the plan says."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from pages import Page, pictures
from plans import plan_by_hand
from profiles import make_model, make_profile
from timelines import make_timeline

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.drawing import COLOURS
from tpplan.planner.explain import explain
from tpplan.planner.explain_tables import end_words, explanation_tables
from tpplan.planner.explanation import End
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import Baseline, Plan
from tpplan.planner.price import Pricer
from tpplan.planner.report_page import page, write_report
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.timeline import Timeline

HOSTILE = "<script>alert(1)</script>\"'>&amp;{{ 7*7 }}${\\frac$ #1d2328 --></style><img src=x onerror=alert(1)>"
Inputs = tuple[Plan, ModelSpec, HardwareProfile, list[Timeline]]


def timelines_of(plan: Plan, model: ModelSpec, profile: HardwareProfile) -> list[Timeline]:
    pricer = Pricer(model, profile, plan.dtype, plan.workload, plan.cache_dtype)
    return [make_timeline(pricer, plan, "decode"), make_timeline(pricer, plan, "prefill")]


@pytest.fixture(scope="module")
def solved() -> Inputs:
    """A solved plan over three devices, one of them too slow to use, with a baseline that does not fit."""
    model, profile = make_model(layers=6), make_profile([2.0, 1.5, 0.01])
    plan = solve(model, "/models/small/model.json", profile, Request(time_limit_s=10))
    plan = msgspec.structs.replace(plan, baselines=plan.baselines | {"single_device": Baseline(False, None, None)})
    return plan, model, profile, timelines_of(plan, model, profile)


@pytest.fixture(scope="module")
def html(solved: Inputs) -> str:
    return page(*solved, "2026-01-02")


def renamed(plan: Plan, profile: HardwareProfile, name: str) -> tuple[Plan, HardwareProfile]:
    """The same with `name` wherever a name or sentence can stand."""
    names = [f"{name}{d}" for d in range(len(plan.devices))]
    devices = [msgspec.structs.replace(d, name=n, export_only=name) for d, n in zip(profile.devices, names)]
    host = msgspec.structs.replace(profile.host, description=name)
    plan = msgspec.structs.replace(
        plan,
        model=name,
        devices=tuple(names),
        device_use=tuple(msgspec.structs.replace(use, name=n) for use, n in zip(plan.device_use, names)),
        baselines={f"{name}{i}": baseline for i, baseline in enumerate(plan.baselines.values())},
        reasons=(name,),
        space=name,
        status=name,
        tpplan_version=name,
    )
    return plan, msgspec.structs.replace(profile, host=host, devices=tuple(devices), created=name)


def test_whole_and_alone(html: str) -> None:
    """Tags balance; nothing is loaded, linked to or run: no script, no handler, no address."""
    read = Page(html)
    assert read.open == []
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "a"}
    for _, attributes in read.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href", "xlink:href") or value.startswith("#")
            assert name.startswith("xmlns") or "//" not in (value or "")
    assert "url(" not in read.styles
    assert "@import" not in read.styles
    assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_says_what_the_plan_says(solved: Inputs, html: str) -> None:
    """Model, machine, every device, baseline, reason and input, the scope of the proof, who made it and when."""
    plan, _, profile, _ = solved
    texts = "\n".join(Page(html).texts)
    wanted = [
        *plan.devices,
        *(name.replace("_", " ") for name in plan.baselines),
        *plan.reasons,
        plan.space,
        "does not fit",
        "cpu:2: not used",
        "takes no part",
        f"{plan.predicted.decode_tokens_per_s:.1f} tok/s",
        "prefill of 512 tokens",
        profile.host.description,
        profile.fingerprint,
        f"2026-01-02, plan by tpplan {plan.tpplan_version}",
        "4,096 tokens a sequence",
        "float32, float32",
    ]
    assert [words for words in wanted if words not in texts] == []
    assert next(text for text in Page(html).texts if "tpplan" not in text) == "small"


def test_explanation_is_shown_where_given(solved: Inputs, html: str) -> None:
    """Each cell of each table of the explanation, what holds the plan back and both ends; without one, no heading."""
    plan, model, profile, timelines = solved
    found = explain(plan, model, profile, Request(), limit_s=0.0)
    end = End("decode", found.plan, "2:1:0 by row", "all on cpu:0")
    found = msgspec.structs.replace(found, ends=(End("prefill", None), end), tight=("<b>memory</b> & links",))
    explained = Page(page(plan, model, profile, timelines, "2026-01-02", found))
    assert explained.open == []
    assert "What holds the plan back" in explained.texts
    wanted = [cell for title, columns, rows in explanation_tables(found) for row in (columns, *rows) for cell in row]
    wanted += [title for title, _, _ in explanation_tables(found)] + [end_words(end), *found.tight]
    assert len(wanted) > 50
    assert [words for words in wanted if words and words not in explained.texts] == []
    assert "What holds the plan back" not in Page(html).texts


def test_names_are_only_text(solved: Inputs, html: str) -> None:
    """A page full of hostile names has the tags of an ordinary one, and shows the names as they are."""
    plan, model, profile, _ = solved
    plan, profile = renamed(plan, profile, HOSTILE)
    hostile = Page(page(plan, model, profile, timelines_of(plan, model, profile), "2026-01-02"))
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in Page(html).tags}
    assert {name for _, attributes in hostile.tags for name in attributes} == {
        name for _, attributes in Page(html).tags for name in attributes
    }
    assert hostile.open == []
    texts = "\n".join(hostile.texts)
    assert texts.count(HOSTILE) >= 2 + 2 * len(plan.devices)


@pytest.mark.parametrize("name", ["\x07bell\u202ertl\ud800half\nline", "", " ", "名前" * 200, "$x^{$", "%s%(x)d{0}"])
def test_unusual_names_draw(name: str, tmp_path: Path) -> None:
    """Characters that XML or fonts lack, empty and endless names give a page all the same, in UTF-8."""
    model, profile = make_model(layers=2), make_profile([1.0, 1.0])
    plan, profile = renamed(plan_by_hand(model, ["a", "b"], [2, 1], [1024, 512], [49152, 0]), profile, name)
    write_report(tmp_path / "p.html", plan, model, profile, timelines_of(plan, model, profile))
    text = (tmp_path / "p.html").read_bytes().decode()
    assert Page(text).open == []
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", text)
    assert [picture.get("role") for picture in pictures(text)] == ["img"] * 7


def test_same_input_same_bytes(solved: Inputs, html: str) -> None:
    """Nothing of the moment, of earlier drawings or of the user's own settings gets into the page."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "xtick.labelsize": 20, "patch.linewidth": 9}):
        assert page(*solved, "2026-01-02") == html


def test_colours_follow_the_page(html: str) -> None:
    """Each colour is defined for light and for dark; pictures use no other, and every id once."""
    styles = Page(html).styles
    light, dark = styles.split("@media (prefers-color-scheme: dark)", 1)
    for name, (on_light, on_dark) in COLOURS.items():
        assert f"--{name}: {on_light};" in light
        assert f"--{name}: {on_dark};" in dark
    assert set(re.findall(r"var\(--(\w+)\)", html)) <= COLOURS.keys()
    drawn = [element for picture in pictures(html) for element in picture.iter()]
    assert not any(re.search("#[0-9a-fA-F]{3}", element.get("style", "")) for element in drawn)
    ids = [element.get("id") for element in drawn if element.get("id")]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', html)) <= set(ids)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read(scheme: int) -> None:
    """Contrast (WCAG 2): 4.5 for text on the page and for ink on every colour that carries text."""
    for text, grounds in {
        "ink": ("paper", "track", "attention", "mlp", "vocabulary", "push", "pull"),
        "faint": ("paper",),
    }.items():
        for ground in grounds:
            assert contrast(COLOURS[text][scheme], COLOURS[ground][scheme]) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    """By the definition of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_large_plans_stay_small() -> None:
    """Eighty layers over eight devices in both phases: below 1 MB."""
    model, profile = make_model(layers=80, heads=8, kv_heads=8), make_profile([1.0] * 8)
    plan = plan_by_hand(model, [d.name for d in profile.devices], [1] * 8, [192] * 8, [6144] * 8, attention="column")
    text = page(plan, model, profile, timelines_of(plan, model, profile), "2026-01-02")
    assert 50_000 < len(text) < 1_000_000


def test_layers_that_differ_have_a_page() -> None:
    """The tables of a plan whose layers are cut in two ways are all on its page."""
    model, profile = make_model(layers=3), make_profile([1.0, 1.0])
    both, alone = (
        plan_by_hand(model, ["a", "b"], *cut, [49152, 0]) for cut in (([2, 1], [512, 1024]), ([3, 0], [1536, 0]))
    )
    plan = msgspec.structs.replace(both, layers=both.layers[:1] + alone.layers[1:])
    texts = Page(page(plan, model, profile, (), "2026-01-02")).texts
    assert {"Split of 3 layers", "Vocabulary and memory", "Cuts in full"} <= set(texts)


def test_without_timelines_says_so() -> None:
    """A plan that was not simulated has a page without timelines."""
    model, profile = make_model(layers=1), make_profile([1.0])
    plan = plan_by_hand(model, ["cpu:0"], [3], [1536], [49152])
    text = page(plan, model, profile, (), "2026-01-02")
    assert "No pass was simulated" in text
    assert len(pictures(text)) == 3
