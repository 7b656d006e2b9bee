"""`spd-profile --kernels` as a person runs it, with the real compiler and no GPU."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rtx_support import needs_rtx

from engines.kernels import Kernel
from engines.layers import Tensor
from engines.profile.blocks import BLOCKS
from engines.profile.cli import COMPUTE, main
from engines.profile.cost import CostedGraph
from engines.profile.tensorrt import layer_blocks
from engines.rtx import DEFAULT_COMPUTE_CAPABILITY


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def compiled(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of one call, and what was printed."""
    out = tmp_path_factory.mktemp("compiled") / "k.json"
    places = ["--out", out, "--picture", out.with_suffix(".png")]
    done = run(exported, "--kernels", "--points", "100", "--compute", "12.0", *places)
    assert done.exit_code == 0, done.stderr
    said = [line.split(" s  ")[1].partition(":")[0] for line in done.stderr.splitlines()]
    assert list(dict.fromkeys(said)) == [
        f"compiling {graph} fp16 for compute capability 12.0" for graph in ("encoder", "decoder")
    ]
    document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return {**document, "printed": done.stdout, "picture": out.with_suffix(".png").read_bytes()}


@needs_rtx
def test_blocks_add_up_to_the_whole(compiled: dict[str, Any], exported: Path) -> None:
    assert (compiled["precision"], compiled["compute_capability"], compiled["run"]) == ("fp16", "12.0", False)
    assert [(graph["graph"], graph["points"]) for graph in compiled["graphs"]] == [("encoder", 0), ("decoder", 100)]
    for graph in compiled["graphs"]:
        blocks, kernels = graph["blocks"], graph["list"]
        # TensorRT fuses the normalisation with the first convolution's layout.
        names = [block["block"] for block in blocks]
        assert set(BLOCKS[graph["graph"]]) - {"other", "normalisation"} == set(names) - {"normalisation"}
        assert names == [block for block in BLOCKS[graph["graph"]] if block in names]
        for key in ("kernels", "bytes", "moving_kernels", "moving_bytes"):
            assert sum(block[key] for block in blocks) == graph[key] > 0
        assert len(kernels) == graph["kernels"]
        assert sum(kernel["bytes"] for kernel in kernels) == graph["bytes"]
        assert sum(kernel["bytes"] for kernel in kernels if kernel["only_moves"]) == graph["moving_bytes"]
        assert Counter(kernel["block"] for kernel in kernels) == {b["block"]: b["kernels"] for b in blocks}
        costs = CostedGraph(exported / f"{graph['graph']}.fp16.onnx", graph["graph"], 100).costs()
        assert graph["macs"] == sum(cost.macs for cost in costs.values())
        for block in blocks:
            assert (block["macs"], block["least_bytes"]) == (costs[block["block"]].macs, costs[block["block"]].bytes)
        assert sum(kernel["macs"] for kernel in kernels) == graph["macs"], "every product counts once"
        assert all(kernel["outputs"] for kernel in kernels)
        assert 1e6 < graph["scratch_bytes"] < 1e8


@needs_rtx
def test_times_are_predicted_for_every_card(compiled: dict[str, Any]) -> None:
    assert compiled["picture"].startswith(b"\x89PNG")
    sheets, launch = compiled["predicted_for"]["gpus"], compiled["predicted_for"]["launch_us"] * 1e-3
    table = compiled["printed"].partition("Predicted, not measured, from data sheets")[2]
    for sheet in sheets:
        row = next(line for line in table.splitlines() if f"│ {sheet['name']} " in line)
        cells = [cell.strip() for cell in row.strip("│").split("│")][1:]
        expected = []
        for graph in compiled["graphs"]:
            ms = 0.0
            for kernel in graph["list"]:
                half = any(t["dtype"] == "Half" for key in ("inputs", "constants", "outputs") for t in kernel[key])
                tflops = sheet["half_tflops" if half else "fp32_tflops"]
                ms += max(launch, kernel["bytes"] / sheet["bandwidth_gb"] / 1e6, kernel["macs"] / tflops / 5e8)
            assert graph["predicted_ms"][sheet["name"]] == pytest.approx(ms, abs=1e-4)
            expected.append(f"{ms:.3f}")
        assert cells == [
            sheet["compute_capability"],
            f"{sheet['bandwidth_gb']:g}",
            f"{sheet['half_tflops']:.1f}",
            *expected,
        ]


@needs_rtx
def test_what_is_printed(compiled: dict[str, Any]) -> None:
    printed = compiled["printed"]
    for graph in compiled["graphs"]:
        at = ", K = 100" if graph["points"] else ""
        title = f"{graph['graph']} fp16{at}: compiled, not run, for compute capability 12.0 by TensorRT for RTX 1."
        part = printed[printed.index(title) :]
        for block in [*graph["blocks"], {**graph, "block": "total"}]:
            row = re.search(rf"^│ {re.escape(block['block'])} .*$", part, re.MULTILINE)
            assert row is not None
            cells = [cell.strip() for cell in row[0].strip("│").split("│")]
            assert cells[1:3] == [str(block["kernels"]), f"{block['bytes'] / 1e6:.2f}"]
            assert cells[5:] == [
                f"{block['macs'] / 1e6:.1f}", str(block["moving_kernels"]), f"{block['moving_bytes'] / 1e6:.2f}"
            ]  # fmt: skip
        largest = part[part.index("The 10 largest kernels") :].split("└")[0]
        shown = [line.split("│")[1].strip() for line in largest.splitlines() if line.startswith("│")]
        sizes = sorted((kernel["bytes"] for kernel in graph["list"]), reverse=True)
        assert shown == [f"{size / 1e6:.2f}" for size in sizes[:10]]
        assert f"{graph['moving_kernels']} of {graph['kernels']} kernels only copy" in part
        assert f"Scratch memory: {graph['scratch_bytes'] / 1e6:.1f} MB" in part
    assert max(map(len, printed.splitlines())) < 200


def kernel(name: str, reads: str, writes: str, *nodes: str) -> Kernel:
    """A kernel from one tensor to another."""
    inputs, outputs = ((Tensor(text, (1,), "Half"),) for text in (reads, writes))
    return Kernel(name, "kgen", "", nodes, inputs, (), outputs)


def test_a_kernel_without_nodes_goes_with_its_reader() -> None:
    kernels = [
        kernel("__myl_Move_myl0_0", "l3_keys_1", "a"),
        kernel("__myl_Tran_myl0_1", "a", "b"),
        kernel("_gemm_mha_v2_myl0_2", "b", "c", "b3a/layers/0/MatMul", "b2/layers/1/Add"),
        kernel("__myl_Tran_myl0_3", "c", "d"),
        kernel("__myl_Topk_myl0_4", "x", "routes", "TopK"),
    ]
    nodes = {"b3a/layers/0/MatMul": ("B3a", 7), "b2/layers/1/Add": ("B2", 0), "TopK": ("TopK", 0)}
    assert layer_blocks("decoder", kernels, nodes) == ["B3a", "B3a", "B3a", "B3a", "TopK"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "--runs", "3"], "--kernels compiles the graphs and runs nothing: leave out --runs"),
        (["--kernels", "--peak-gflops", "3"], "leave out --peak-gflops"),
        (["--kernels", "--backend", "onnxruntime-cpu"], "leave out --backend"),
        (["--kernels", "--trtexec"], "leave out --trtexec and --polygraphy"),
        (["--compute", "8.9"], "--compute is for --kernels"),
        (["--kernels", "--out", "k.txt"], "k.txt must end in .json"),
        (["--kernels", "--picture", "k.jpg"], "k.jpg must end in .png"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points", "513"], "K = 513 is too large for .*, which takes 1 to 512 points a call"),
        (["--compute", "9.0"], "an H100 or H200 needs TensorRT itself: spd-build"),
        (["--compute", "new"], "does not compile for compute capability new, expected 8.0, 8.6"),
    ],
)
def test_refusals(exported: Path, arguments: list[str], message: str) -> None:
    done = run(exported, "--kernels", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(f"Error: .*{message}.*\n", done.stderr)


def test_without_the_package(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    done = run(exported, "--kernels")
    assert (done.exit_code, done.stderr) == (
        1, "Error: tensorrt_rtx is missing: pip install 'spd-depth[rtx]'\n"
    )  # fmt: skip


def test_the_help_names_the_default_gpu() -> None:
    assert f"[default: {DEFAULT_COMPUTE_CAPABILITY}]" in " ".join(run("--help").stdout.split())
    assert COMPUTE == DEFAULT_COMPUTE_CAPABILITY
