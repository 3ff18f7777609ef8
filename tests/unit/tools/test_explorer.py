"""The explorer's page, in headless Chromium: it opens, draws the graph, folds layers, finds, shows kernels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import warploom
from tests.unit.frontend.tiny_checkpoints import tiny_config
from warploom.errors import InvalidRequestError
from warploom.tools.bench_times import kernel_times
from warploom.tools.cli import main

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")
LAYERS = 32  # as many ops as a model of 8B parameters


@pytest.fixture(scope="module")
def deep_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow model as deep as Llama-3.1-8B, with dummy weights."""
    folder = tmp_path_factory.mktemp("deep")
    (folder / "config.json").write_text(json.dumps({**tiny_config(), "num_hidden_layers": LAYERS}))
    return warploom.compile(folder, quantization="bf16", dummy_weights=True, out=folder / "artifact").path


@pytest.fixture(scope="module")
def page(deep_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "out.html"
    assert (
        main(["inspect", str(deep_artifact), "--html", str(out), "--times", str(bench_json(deep_artifact, out))]) == 0
    )
    return out


def bench_json(artifact: Path, out: Path) -> Path:
    """What `bench step --json` would print if every kernel took 7 microseconds."""
    rows = [{"kernel": name, "each": 7e-6} for name in warploom.load(artifact).plan("cpu").kernels]
    path = out.with_suffix(".json")
    path.write_text(json.dumps({"kernels": {"decode 1 at 256": rows}}))
    return path


def opened(page: Path, script: str = "") -> str:
    """The document after `script` has run in it."""
    copy = page.with_name("copy.html")
    copy.write_text(page.read_text() + f"<script>{script}</script>")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{copy}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def number_of(dom: str, pattern: str) -> int:
    return len(re.findall(pattern, dom))


@needs_chromium
def test_opens_a_model_of_the_depth_of_8b_within_three_seconds(page: Path) -> None:
    ready = re.search(r'data-ready="(\d+)"', opened(page))
    assert ready is not None, "the page failed before it was drawn"
    assert int(ready[1]) <= 3000  # milliseconds since navigation began


@needs_chromium
def test_like_layers_fold_and_unfold(page: Path) -> None:
    folded = opened(page)
    assert f"×{LAYERS}" in folded
    unfolded = opened(page, 'document.querySelector("[data-run]").dispatchEvent(new Event("click", {bubbles: true}))')
    nodes = [number_of(dom, r'class="node ') for dom in (folded, unfolded)]
    assert nodes[1] > 5 * LAYERS > nodes[0] > 5


@needs_chromium
def test_search_finds_and_a_click_shows_kernel_source_fusion_and_stages(page: Path) -> None:
    dom = opened(
        page,
        'document.getElementById("search").value = "swiglu"; document.getElementById("search").oninput();'
        'document.querySelector(".found rect").dispatchEvent(new Event("click", {bubbles: true}))',
    )
    side = dom[dom.index("<aside") :]
    assert "model.layers.0.mlp" in side
    assert re.search(r"fused .*linear \+ slice.* \+ swiglu", side)
    assert "00-trace" in side
    assert "source of linear_" in side
    assert "func.func" in side


@needs_chromium
def test_every_pass_shows_what_it_changed(page: Path) -> None:
    chosen = 'stage.selectedIndex = [...stage.options].findIndex(one => one.text.endsWith("merge_linears"))'
    select = f'const stage = document.getElementById("stage"); {chosen};'
    before = opened(page, f'{select} document.getElementById("before").click()')
    assert number_of(before, r'class="node gone') > 0
    after = opened(page, f"{select} stage.onchange()")
    assert number_of(after, r'class="node new') > 0
    assert "ops are new; gone: linear" in after


@needs_chromium
def test_measured_times_colour_the_graph(page: Path) -> None:
    dom = opened(
        page,
        'const at = document.getElementById("at"); at.value = "decode 1 at 256, measured"; at.onchange()',
    )
    assert number_of(dom, r'class="time"[^>]*>7\.0 us') > 5
    side = dom[dom.index("<aside") : dom.index("</aside>")]
    assert "<th>predicted</th>" in side
    assert number_of(side, r"us \([+−]\d+ %\)") > 5, "predictions stand beside them"


@needs_chromium
def test_a_click_on_a_kernel_shows_where_it_runs_and_what_it_is(page: Path) -> None:
    dom = opened(page, 'document.querySelector("tr[data-kernel]").dispatchEvent(new Event("click", {bubbles: true}))')
    side = dom[dom.index("<aside") : dom.index("</aside>")]
    name = re.search(r'data-kernel="([^"]+)"', side)
    assert name is not None
    assert f"source of {name[1]}" in side
    assert number_of(dom, r'class="node[^"]* found') > 0


@needs_chromium
def test_what_layers_share_stands_above_them(page: Path) -> None:
    rows = "document.body.dataset.rows = JSON.stringify(layout(nodesOf(0), fold(nodesOf(0)).stands).map(p => p && p.y))"
    dom = opened(page, f"{rows}; document.body.dataset.paths = nodesOf(0).map(n => n[PATH]).join()")
    places = json.loads(unescape(re.search(r'data-rows="([^"]*)"', dom)[1]))  # type: ignore[index]
    paths = re.search(r'data-paths="([^"]*)"', dom)[1].split(",")  # type: ignore[index]
    layers = [y for path, y in zip(paths, places, strict=True) if ".layers." in path and y is not None]
    rotations = [y for path, y in zip(paths, places, strict=True) if "rotary" in path and y is not None]
    assert layers
    assert max(rotations) < min(layers)


@needs_chromium
def test_weights_and_memory_have_tables(page: Path, deep_artifact: Path) -> None:
    weights = opened(page, 'document.getElementById("weights").click()')
    side = weights[weights.index("<aside") :]
    assert f"model.layers.{LAYERS - 1}.mlp" in side
    assert number_of(side.split("</aside>")[0], "<tr>") == 1 + len(warploom.load(deep_artifact).params)
    memory = opened(page, 'document.getElementById("memory").click()')
    assert "arena of @step" in memory[memory.index("<aside") : memory.index("</aside>")]


def test_the_page_is_complete_in_itself(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']|@import|https?://""", text.split("<script>")[0])
    data: dict[str, Any] = json.loads(re.search(r"const D = (\{.*\});\n", text)[1])  # type: ignore[index]
    launched = [launches for nodes in data["work"]["decode 1"].values() for node in nodes for launches in node]
    assert len(launched) == sum(data["summary"]["num_launches"].values()), "every launch has its node"


def test_times_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InvalidRequestError, match="holds no kernel times"):
        kernel_times(tmp_path / "x.json")
