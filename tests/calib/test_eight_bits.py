"""Products in 8 bits: against integer arithmetic by hand, and against graphs by ONNX Runtime's quantiser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from calib_support import ATTO, OPTIONS, SIZE, silent
from click.testing import CliRunner
from numpy.typing import NDArray

import export.cli
import export.pipeline
from calib.cli import main
from calib.eight_bits import ROUNDING, EightBits
from calib.lowering import Lowering
from calib.samples import Sample, gate_samples
from export.calibration import CalibrationSet, calibration_set
from export.graphs import GraphPair, build_graphs, deployed
from export.policy import Policy, read_policy
from export.publish import write_graphs
from export.quantise import float_modules, quantise
from export.runners import GraphFiles
from spd.bundle import GRAPHS, open_bundle
from spd.bundle.contract import QUANTISED
from spd.checkpoint import save_checkpoint
from spd.models import SPD, seeded

MODEL = seeded(ATTO)
CULPRIT = "encoder.stages.1.blocks.0.fc2"
SHORT = ("--size", f"{SIZE[0]}x{SIZE[1]}", "--points", "32", "--max-images", "2", "--precision", "int8")


@pytest.fixture(scope="module")
def rooms() -> CalibrationSet:
    return calibration_set(None, *SIZE, 48, silent, most=2, points=48)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return gate_samples(SIZE, 48)


@pytest.fixture(scope="module", params=ROUNDING)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def form(precision: str, rooms: CalibrationSet) -> EightBits:
    return EightBits(MODEL, precision, OPTIONS, rooms, silent)


@pytest.fixture(scope="module")
def int8(rooms: CalibrationSet, samples: list[Sample]) -> Lowering:
    return Lowering(EightBits(MODEL, "int8", OPTIONS, rooms, silent), samples)


def test_every_precision_with_8_bits_can_be_calibrated() -> None:
    (option,) = (parameter for parameter in main.params if parameter.name == "precision")
    assert {*ROUNDING} <= {*QUANTISED}
    assert {*option.type.choices} == {"fp16", "bf16", *ROUNDING}  # type: ignore[attr-defined]


# The measure, by hand.


def integer_product(
    x: NDArray[np.float32], weight_io: NDArray[np.float32], seen: list[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """uint8 around 128 times int8, added up in whole numbers; the scales from what was `seen` of the activation."""
    scale = 2 * max(float(np.abs(each).max()) for each in seen) / 255
    scales = np.abs(weight_io).max(axis=0) / 127
    rounded = np.clip(np.rint(x / np.float32(scale)) + 128, 0, 255).astype(np.int64)
    weights = np.clip(np.rint(weight_io / scales), -127, 127).astype(np.int64)
    product: NDArray[np.float64] = (rounded - 128) @ weights * scale * scales
    return product


def depth_errors(name: str, rooms: CalibrationSet, samples: list[Sample]) -> tuple[float, float]:
    """Largest error and mean of the worst image where one product alone is computed in whole numbers."""
    encoder, decoder = deployed(MODEL, torch.float32, OPTIONS, for_gpu=False)
    graph, _, path = name.partition(".")
    layer = {"encoder": encoder, "decoder": decoder}[graph].get_submodule(path)
    seen: list[NDArray[np.float32]] = []
    largest, means = 0.0, []
    with torch.inference_mode():
        with layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy())):
            for image, points in zip(rooms.images, rooms.points, strict=True):
                decoder(*encoder(torch.from_numpy(image[None])), torch.from_numpy(points[None]))

        def by_hand(_: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> torch.Tensor:
            product = torch.from_numpy(integer_product(inputs[0].numpy(), layer.weight.numpy(), seen))
            return (product + layer.bias).float()

        for sample in samples:
            exact = decoder(*encoder(sample.image), sample.points)[0].double()
            with layer.register_forward_hook(by_hand):
                got = decoder(*encoder(sample.image), sample.points)[0].double()
            error = (got / exact - 1).abs()
            largest = max(largest, float(error.max()))
            means.append(float(error.mean()))
    return largest, max(means)


def test_the_error_of_a_product_and_the_order_of_products_are_those_of_integer_arithmetic(
    int8: Lowering, rooms: CalibrationSet, samples: list[Sample]
) -> None:
    names = ("decoder.head.w_r1", "decoder.b1.w_q", "decoder.b3a.layers.0.ffn.fc2", "encoder.stages.3.blocks.0.fc2")
    found = {name: int8.alone(name, (), len(samples)) for name in names}
    expected = {name: depth_errors(name, rooms, samples) for name in names}
    for name in names:
        assert found[name].max == pytest.approx(expected[name][0], rel=2e-2), name
        assert found[name].mean == pytest.approx(expected[name][1], rel=2e-2), name
    by_found = sorted(names, key=lambda name: found[name].mean)
    assert by_found == sorted(names, key=lambda name: expected[name][1])
    assert found[by_found[-1]].mean > 1.2 * found[by_found[0]].mean, "they are alike, so the order means nothing"


def test_a_product_called_twice_has_two_ranges(rooms: CalibrationSet) -> None:
    """B1 multiplies the fixed and the learned samples by the same weights."""
    form = EightBits(MODEL, "int8", OPTIONS, rooms, silent)
    encoder, decoder = deployed(MODEL, torch.float32, OPTIONS, for_gpu=False)
    seen: list[list[torch.Tensor]] = [[], []]
    calls = 0

    def look(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal calls
        seen[calls % 2].append(inputs[0])
        calls += 1

    with torch.inference_mode(), decoder.b1.w_loc.register_forward_pre_hook(look):
        for image, points in zip(rooms.images, rooms.points, strict=True):
            decoder(*encoder(torch.from_numpy(image[None])), torch.from_numpy(points[None]))
    expected = [(min(float(x.min()) for x in each), max(float(x.max()) for x in each)) for each in seen]
    assert form._ends["decoder.b1.w_loc"] == [pytest.approx(ends) for ends in expected]
    hook = form._round_input([(-1.0, 1.0), (-100.0, 100.0)])
    third = torch.tensor([0.3])
    for wanted in (0.3, 0.0, 0.3, 0.0):  # steps of 1 / 127.5 and of 100 / 127.5
        assert float(hook(torch.nn.Identity(), (third,))[0]) == pytest.approx(wanted, abs=5e-3)


# The same as the graphs.


@pytest.fixture(scope="module")
def traced() -> GraphPair:
    """The float32 graphs that those of int8 are made from."""
    return build_graphs(MODEL, "int8", OPTIONS)


@pytest.fixture(scope="module")
def graphs(
    precision: str,
    rooms: CalibrationSet,
    exported: Path,
    traced: GraphPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the graphs of the precision; those of TensorRT on top of fp16's."""
    folder = tmp_path_factory.mktemp("graphs")
    base = QUANTISED[precision]
    if precision == "int8":
        files = write_graphs(folder, base, traced)
    else:
        files = GraphFiles(base, *(exported / f"{graph}.{base}.onnx" for graph in GRAPHS))
    pair = quantise(files, precision, rooms, float_modules(ATTO, Policy()), silent)
    for graph, model in zip(GRAPHS, (pair.encoder, pair.decoder), strict=True):
        ir.save(model, folder / f"{graph}.onnx")
    return folder


def test_the_products_are_those_that_the_quantiser_takes(form: EightBits, precision: str, graphs: Path) -> None:
    found = set()
    for graph in GRAPHS:
        model = onnx.load(graphs / f"{graph}.onnx")
        makers = {output: node.op_type for node in model.graph.node for output in node.output}
        for node in model.graph.node:
            if node.op_type == "MatMul" and makers.get(node.input[1]) == "DequantizeLinear":
                found.add(f"{graph}.{node.name.rpartition('/')[0].replace('/', '.')}")
    # The fp16 graphs multiply some weights by GRN's factor; int8-fp16 has a trace of its own in which none is.
    products = {name for name in form._ends if precision == "int8" or not name.endswith(".fc2")}
    assert products <= found <= {*form._ends}


def test_the_whole_in_8_bits_is_the_quantised_graph(
    form: EightBits, precision: str, graphs: Path, samples: list[Sample]
) -> None:
    options = onnxruntime.SessionOptions()
    # Pairs of rounding nodes as they are written, without kernels of this CPU's own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    encoder, decoder = (
        onnxruntime.InferenceSession(str(graphs / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"])
        for graph in GRAPHS
    )
    exact = form.exact()
    means = []
    for sample in samples:
        names = [output.name for output in encoder.get_outputs()]
        cache = dict(zip(names, encoder.run(None, {"image": sample.image.numpy()}), strict=True))
        got = decoder.run(["depth"], {**cache, "points": sample.points.numpy()})[0]
        with torch.inference_mode():
            expected = exact["decoder"](*exact["encoder"](sample.image), sample.points)[0].numpy()
        means.append(np.abs(got.astype(np.float64) / expected - 1).mean())
    error = Lowering(form, samples).whole((), silent)
    assert error.mean == pytest.approx(max(means), rel=0.1 if precision == "int8" else 0.35)
    assert 1e-4 < error.mean < 2e-2


def test_weights_are_rounded_for_each_channel(precision: str) -> None:
    weight = torch.randn(24, 8, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 1, 8)
    weight[:, 3] = 0
    weight = weight if precision == "int8" else weight.half()
    rounded = ROUNDING[precision].weight(weight).double().numpy()
    sizes = np.abs(weight.double().numpy())
    if precision == "fp8":  # 4 significant bits, and 2**-9 of the scale for the least
        step = np.maximum(sizes / 16, np.maximum(sizes.max(axis=0) / 448, 2.0**-14) / 1024)
    else:
        step = np.maximum(sizes.max(axis=0) / 127, 0 if precision == "int8" else 2.0**-14)
    assert (np.abs(rounded - weight.double().numpy()) <= 1.02 * step).all()
    assert (rounded[:, 3] == 0).all()
    assert all(len(np.unique(column)) <= 255 for column in rounded.T)


# What is kept.


def test_a_kept_module_is_not_rounded(int8: Lowering) -> None:
    assert int8.whole(int8.units, silent).max < 1e-6
    unit = "encoder.stages.1.blocks.0"
    assert int8.alone(unit, [f"{unit}.fc1", f"{unit}.fc2"], 1).max < 1e-6
    assert 0 < int8.alone(unit, [f"{unit}.fc1"], 1).mean < int8.alone(unit, (), 1).mean


def test_units_hold_products_that_the_export_quantises(int8: Lowering) -> None:
    assert "encoder.stages.0.blocks.0" in int8.units
    assert set(int8.inside("encoder.stages.0.blocks.0")) == {f"encoder.stages.0.blocks.0.{fc}" for fc in ("fc1", "fc2")}
    for never in ("decoder.b1.w_off", "decoder.b1.w_phi", "decoder.b3b.layers.1.w_q", "decoder.head.w_r2"):
        assert never not in int8.lowerable
    assert not [name for name in int8.lowerable if name.endswith((".conv", ".grn")) or "stem" in name]


def with_an_outlier() -> SPD:
    """Untrained atto with one hidden channel of a block a thousand times as large as others, read by a thousandth.

    The other channels are less than a step of what the second product reads.
    """
    model = seeded(ATTO)
    with torch.no_grad():
        network: Any = model
        mlp = network.encoder.backbone["stages_1"].blocks[0].mlp
        mlp.fc1.bias[7] = 3e3
        mlp.fc2.weight[:, 7] /= 3e3
    return model


def run(command: Any, *arguments: str | Path) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the command writes and says for the network with an outlier."""
    folder = tmp_path_factory.mktemp("outlier")
    save_checkpoint(folder / "outlier.pt", with_an_outlier(), ATTO)
    out = folder / "policy.json"
    result = run(main, "--ckpt", folder / "outlier.pt", "--out", out, *SHORT)
    assert result.exit_code == 0, result.stderr
    assert not result.stdout
    return out, result.stderr


def test_the_command_finds_the_product(policy: tuple[Path, str]) -> None:
    out, said = policy
    assert read_policy(out) == Policy((), (CULPRIT,))
    document = json.loads(out.read_text(encoding="utf-8"))
    errors = {row["module"]: row["mean_error"] for row in document["modules"]}
    assert max(errors, key=lambda name: errors[name]) == CULPRIT.removesuffix(".fc2")
    assert errors[CULPRIT.removesuffix(".fc2")] > 3 * sorted(errors.values())[-2]
    assert document["result"]["with_policy"]["mean_error"] < 0.02 < document["result"]["without_policy"]["mean_error"]
    assert said.count(": fails\n") == said.count(": passes\n") == 1
    assert document["result"]["tolerance"] == {"max": 0.5, "mean": 0.02}
    for said_of_it in (CULPRIT, "stay float32 in int8", "rendering rooms", "looking at what products read"):
        assert said_of_it in said
    rooms = calibration_set(None, *SIZE, 32, silent, most=2)
    assert document["calibration"]["sha256"] == rooms.record.sha256, "not the ranges that the export measures"


def test_the_export_leaves_it_in_float32(
    policy: tuple[Path, str], traced: GraphPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.calibration.MAX_IMAGES", 2)
    asked: list[str] = []
    monkeypatch.setattr(export.pipeline, "build_graphs", lambda _, precision, __: asked.append(precision) or traced)
    size = ("--seed-checkpoint", "atto", "--size", f"{SIZE[0]}x{SIZE[1]}")
    options = ("--precision", "fp32", "--precision", "int8", "--no-verify", "--build", "no")
    result = run(export.cli.main, *size, *options, "--policy", policy[0], "--out", tmp_path)
    assert result.exit_code == 0, result.output
    bundle = open_bundle(tmp_path)
    assert bundle.manifest.float32_modules == ()
    model = onnx.load(bundle.graph("encoder", "int8"))
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    products = {node.name: node.input[1] in weights for node in model.graph.node if node.op_type == "MatMul"}
    kept = {name for name, is_float in products.items() if is_float}
    assert kept == {"stages/1/blocks/0/fc2/MatMul"}
    assert asked == ["fp32", "int8"], "float32 graphs as they are published compute weights, which stay float32"


def test_overflow_below_8_bits_is_kept_in_float32(rooms: CalibrationSet, samples: list[Sample]) -> None:
    form = EightBits(MODEL, "int8-fp16", OPTIONS, rooms, silent)
    unit = "encoder.stages.1.blocks.0"
    form.float32_modules = (unit,)
    pair = form.lowered(())
    block = pair["encoder"].get_submodule("stages.1.blocks.0")
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}
    assert not torch.equal(block.fc1.weight.half(), block.fc1.weight), "rounded"  # type: ignore[attr-defined,operator]
    other = pair["encoder"].get_submodule("stages.1.blocks.1.fc1")
    assert len(torch.unique(other.weight[:, 0])) <= 255  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "exit_code", "fragments"),
    [
        (("--precision", "fp32"), 2, ("--precision", "'fp32' is not one of", "int8-fp16")),
        (("--images", "{empty}"), 1, ("holds no images",)),
        (("--images", "{damaged}"), 1, ("none of 1 images can be read, such as", "cut.png")),
    ],
)
def test_refused(tmp_path: Path, options: tuple[str, str], exit_code: int, fragments: tuple[str, ...]) -> None:
    for name in ("empty", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "cut.png").write_bytes(b"no picture")
    given = [option.format(empty=tmp_path / "empty", damaged=tmp_path / "damaged") for option in options]
    result = run(main, "--seed-checkpoint", "atto", "--out", tmp_path / "p.json", *SHORT, *given)
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.stderr
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    for fragment in fragments:
        assert fragment in error
    assert not (tmp_path / "p.json").exists()
