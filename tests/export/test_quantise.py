"""8-bit graphs by `spd-export`: which products are quantised, how close the depths stay, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from export_support import ATTO, HEIGHT, NAME, QUICK, WIDTH, refused, run
from onnx import numpy_helper
from PIL import Image

import export.accuracy
import export.calibration
import export.pipeline
import export.quantise
import spd
from export.accuracy import QuantisedResult, RoomDepths
from export.calibration import calibration_set
from export.graphs import GraphPair
from export.parity import ParityResult
from export.policy import Policy, policy_document
from export.quantise import float_modules, products_to_quantise
from spd.bundle import GRAPHS, PARITY, open_bundle
from spd.bundle.comparison import Case, Worst
from spd.bundle.contract import QUANTISED
from spd.bundle.gate import TOLERANCES
from spd.data.rooms import render_room
from spd.errors import BackendError, BundleError
from spd.runtime.packages import import_openvino
from spd.utils.metrics import Metrics

INT8 = (*QUICK, "--precision", "int8", "--build", "no")
NEVER = ("b1/windows/", "b1/learned_window/", "b1/w_off/", "b1/w_phi/", "b3b/layers/1/w_q/", "head/w_r2/")
"""Where products are never quantised: coordinates, routing and the head's last layer."""


@pytest.fixture(scope="session")
def quantised(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's bundle with 8-bit graphs, made by the command; do not write to it."""
    folder = tmp_path_factory.mktemp("quantised")
    with pytest.MonkeyPatch.context() as patch:
        few_rooms(patch)
        traced_graphs(exported, patch)
        result = run(*INT8, "--precision", "int8-fp16", "--out", folder)
    assert result.exit_code == 0, result.output
    return folder / NAME


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without tracing and without judging the graphs that are not quantised."""
    few_rooms(monkeypatch)
    traced_graphs(exported, monkeypatch)

    def passes(_model: Any, files: Any, *_: Any) -> ParityResult:
        case = Case({}, 1, 64, 0.0, 0.0, Worst(0, 0, 0, 2, 2))
        return ParityResult(files.precision, TOLERANCES[files.precision], (case,), 1.0, 1.0, 0)

    monkeypatch.setattr(export.pipeline, "verify", passes)


def few_rooms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(export.accuracy, "ROOMS", 6)
    patch.setattr(export.calibration, "MAX_IMAGES", 4)


def traced_graphs(exported: Path, patch: pytest.MonkeyPatch) -> None:
    """The session's graphs in place of tracing; those below int8-fp16 are fp16's."""

    def read(_model: Any, precision: str, *_: Any) -> GraphPair:
        base = QUANTISED.get(precision, precision)
        return GraphPair(*(ir.load(exported / f"{graph}.{base}.onnx") for graph in GRAPHS))

    patch.setattr(export.pipeline, "build_graphs", read)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


# What is quantised, and how.


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("graph", GRAPHS)
def test_products_with_constant_matrices_are_quantised_and_nothing_else(
    exported: Path, quantised: Path, graph: str, precision: str
) -> None:
    base = onnx.load(exported / f"{graph}.{QUANTISED[precision]}.onnx")
    model = onnx.load(quantised / f"{graph}.{precision}.onnx")
    matrices = {name for name, array in arrays(base).items() if array.ndim == 2}
    maker = {output: node for node in model.graph.node for output in node.output}
    expected, found = set(), set()
    for node in base.graph.node:
        if node.op_type == "MatMul" and node.input[1] in matrices and not node.name.startswith(NEVER):
            expected.add(node.name)
    for node in model.graph.node:
        makers = [maker[name].op_type if name in maker else "" for name in node.input]
        if "DequantizeLinear" in makers:
            assert (node.op_type, makers) == ("MatMul", ["DequantizeLinear"] * 2), node.name
            assert maker[maker[node.input[0]].input[0]].op_type == "QuantizeLinear"
            found.add(node.name)
    assert found == expected
    assert len(found) >= (36 if graph == "decoder" else 43)
    # Every node of the base is there, and no other but pairs.
    added = Counter(node.op_type for node in model.graph.node) - Counter(node.op_type for node in base.graph.node)
    assert set(added) == {"QuantizeLinear", "DequantizeLinear"}
    assert {node.name for node in base.graph.node} <= {node.name for node in model.graph.node}


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_are_rounded_for_each_channel_and_activations_are_symmetric(
    exported: Path, quantised: Path, graph: str, precision: str
) -> None:
    exact = arrays(onnx.load(exported / f"{graph}.{QUANTISED[precision]}.onnx"))
    model = onnx.load(quantised / f"{graph}.{precision}.onnx")
    held = arrays(model)
    activation, offset = (np.uint8, 128) if precision == "int8" else (np.int8, 0)
    weights = 0
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = held[node.input[2]]
            assert (zero.dtype, zero.shape, int(zero)) == (activation, (), offset)
        elif node.op_type == "DequantizeLinear" and node.input[0] in held:
            rounded, scale, zero = (held[name] for name in node.input)
            original = exact[node.input[0].removesuffix("_quantized")].astype(np.float64)
            assert rounded.dtype == np.int8
            assert not zero.any()
            assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [1]
            wanted = np.abs(original).max(axis=0) / 127
            least = 0 if precision == "int8" else 2 * 2.0**-14  # float16 has no smaller scales
            assert (scale >= wanted * (1 - 1e-3)).all()
            assert (scale <= np.maximum(wanted, least) * (1 + 1e-3)).all()
            assert (np.abs(rounded * scale.astype(np.float64) - original) <= 0.52 * scale).all()
            weights += 1
    assert weights >= 36


def test_the_files_are_a_third_of_float32s(quantised: Path) -> None:
    sizes = {p: sum((quantised / f"{graph}.{p}.onnx").stat().st_size for graph in GRAPHS) for p in ("fp32", "int8")}
    assert sizes["int8"] <= 0.35 * sizes["fp32"]


def test_modules_of_a_policy_are_left_alone(exported: Path) -> None:
    policy = Policy(("encoder.stages.0.blocks.1", "decoder.b2.layers.0.ffn.fc1"))
    for graph, module in (("encoder", "stages/0/blocks/1/"), ("decoder", "b2/layers/0/ffn/fc1/")):
        model = onnx.load(exported / f"{graph}.fp32.onnx", load_external_data=False)
        without, within = (
            set(products_to_quantise(model, graph, float_modules(ATTO, each))) for each in (Policy(), policy)
        )
        assert without - within == {name for name in without if name.startswith(module)}
        assert without > within


@pytest.mark.usefixtures("quick")
def test_the_command_heeds_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy_document(Policy(("encoder.stages.3.blocks.0",)))))
    result = run(*INT8, "--policy", path, "--no-verify", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / NAME / "encoder.int8.onnx")
    kept = [n for n in model.graph.node if n.op_type == "MatMul" and n.name.startswith("stages/3/blocks/0/")]
    assert len(kept) == 2
    assert {n.input[1] for n in kept} <= arrays(model).keys()


# How close it stays.


def depths(folder: Path, precision: str, image: np.ndarray[Any, Any], points: np.ndarray[Any, Any]) -> Any:
    encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / f"{graph}.{precision}.onnx"), providers=["CPUExecutionProvider"])
        for graph in GRAPHS
    )
    names = [output.name for output in encoder.get_outputs()]
    cache = dict(zip(names, encoder.run(None, {"image": image[None]}), strict=True))
    return decoder.run(["depth"], {**cache, "points": points[None].astype(np.float32)})[0][0]


@pytest.fixture(scope="module")
def room() -> np.ndarray[Any, Any]:
    return render_room(5, HEIGHT, WIDTH).image


@pytest.fixture(scope="module")
def points() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).uniform((0, 0), (WIDTH, HEIGHT), size=(200, 2))


@pytest.mark.parametrize("precision", QUANTISED)
def test_depths_stay_close_to_float32s_and_are_not_them(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any], precision: str
) -> None:
    error = np.abs(depths(quantised, precision, room, points) / depths(quantised, "fp32", room, points) - 1)
    assert 1e-5 < error.mean() < 2e-2


def test_auto_takes_int8_on_a_cpu_and_says_the_same_as_the_graphs(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any]
) -> None:
    with spd.load(quantised, threads=1) as model:
        assert (model.backend, model.precision) == ("onnxruntime-cpu", "int8")
        found = model.encode(room).depth(points)
    np.testing.assert_allclose(found, depths(quantised, "int8", room, points), rtol=1e-5)
    with spd.load(quantised, "onnxruntime-cpu", precision="fp32", threads=1) as model:
        assert model.precision == "fp32"


@pytest.mark.parametrize(("backend", "precision"), [("openvino", None), ("openvino", "int8"), ("auto", "int8-bf16")])
def test_openvino_takes_int8(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any], backend: str, precision: str | None
) -> None:
    """Its rounding is not that of ONNX Runtime, but as close to float32."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "int8-bf16" and "BF16" not in capabilities:
        pytest.skip("this CPU has no bfloat16")
    with spd.load(quantised, backend, precision=precision, threads=1) as model:
        assert (model.backend, model.precision) == ("openvino", precision or "int8")
        found = model.encode(room).depth(points)
    assert 1e-5 < np.abs(found / depths(quantised, "fp32", room, points) - 1).mean() < 2e-2


def test_int8_bf16_elsewhere(quantised: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, there in (("tensorrt", "int8-fp16, fp32"), ("onnxruntime-cpu", "fp32, int8, int8-fp16")):
        with pytest.raises(BackendError, match=f"^{backend} .* int8-bf16: openvino alone does; .* runs {there}: take"):
            spd.load(quantised, backend, precision="int8-bf16")
    with pytest.raises(BundleError, match=r"has no int8 graphs.*export with --precision int8$"):
        spd.load(exported, precision="int8-bf16")
    monkeypatch.setattr(import_openvino().Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(BackendError, match=r"openvino cannot run int8-bf16 here: .* no bfloat16 .*; take int8$"):
        spd.load(quantised, "openvino", precision="int8-bf16")


def test_a_depth_does_not_depend_on_what_else_is_asked(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any]
) -> None:
    together = depths(quantised, "int8", room, points)
    alone = np.concatenate([depths(quantised, "int8", room, points[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(alone, together[:3], rtol=1e-6)


def test_backends_without_8_bits_say_so(quantised: Path, exported: Path) -> None:
    with pytest.raises(
        BackendError, match=r"onnxruntime-cuda cannot run int8: int8 graphs are for CPUs; .* fp32: take"
    ):
        spd.load(quantised, "onnxruntime-cuda", precision="int8")
    with pytest.raises(BundleError, match=r"has no int8 graphs.*export with --precision int8"):
        spd.load(exported, "onnxruntime-cpu", precision="int8")


# What the bundle and the command say of it.


def test_the_manifest_names_the_calibration_set_by_its_hash(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_rooms(monkeypatch)
    manifest = open_bundle(quantised).manifest
    assert manifest.precisions == ("fp32", "int8", "int8-fp16")
    rooms = calibration_set(None, HEIGHT, WIDTH, 512, lambda _: None)
    assert manifest.calibration == rooms.record
    assert (rooms.record.source, rooms.record.images) == ("rendered rooms", 4)
    other = calibration_set(None, HEIGHT, WIDTH, 3, lambda _: None)
    assert other.points.shape == (4, 3, 2)
    assert other.record.sha256 != rooms.record.sha256


@pytest.mark.parametrize("precision", QUANTISED)
def test_the_report_has_the_rooms(quantised: Path, precision: str) -> None:
    report = json.loads((quantised / PARITY).read_text(encoding="utf-8"))[precision]
    assert report["passed"]
    assert 0 < report["rooms"]["mean_change"] < 2e-2
    assert report["rooms"]["count"] == 6
    assert report["rooms"]["fp32"].keys() == report["rooms"][precision].keys() >= {"abs_rel", "delta1"}
    # What spd-build needs to prove engines with.
    assert {(case["batch"], case["points"]) for case in report["cases"]} >= {(1, 1), (2, 512)}


def photos(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(render_room(i, 60, 100).image).save(folder / name)
    return folder


@pytest.mark.usefixtures("quick")
def test_photos_are_calibrated_on_and_unreadable_ones_are_named(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", "a.png", "b.jpg")
    (folder / "c.jpg").write_bytes(b"no image")
    result = run(*INT8, "--images", folder, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "1 images were not calibrated on, such as: " in result.stderr
    assert "c.jpg" in result.stderr
    assert "8-bit graphs were judged by how much they change" in result.stderr
    calibration = open_bundle(tmp_path / NAME).manifest.calibration
    assert calibration is not None
    assert (calibration.source, calibration.images) == ("photos of photos", 2)


def test_a_photo_is_seen_as_the_runtime_sees_it(tmp_path: Path) -> None:
    found = calibration_set(photos(tmp_path / "photos", "a.png"), HEIGHT, WIDTH, 512, lambda _: None)
    assert found.images.shape == (1, HEIGHT, WIDTH, 3)
    top = (HEIGHT - round(60 * WIDTH / 100)) // 2
    assert (found.images[0, : top - 1] == (124, 116, 104)).all()
    assert (found.points[0, :, 1] >= top).all()
    assert (found.points[0, :, 1] <= HEIGHT - top).all()


@pytest.mark.usefixtures("quick")
def test_of_many_photos_some_at_equal_distances_are_taken(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", *(f"{i}.png" for i in range(7)))
    taken = calibration_set(folder, HEIGHT, WIDTH, 1, lambda _: None).images
    expected = []
    for i in (0, 2, 4, 6):
        one = photos(tmp_path / str(i), f"{i}.png")
        Image.open(folder / f"{i}.png").save(one / f"{i}.png")
        expected.append(calibration_set(one, HEIGHT, WIDTH, 1, lambda _: None).images[0])
    np.testing.assert_array_equal(taken, expected)


# The gate.


@pytest.fixture
def coarse(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations of a sixteenth of the range that they have."""

    def spoil(model: ir.Model) -> ir.Model:
        for name, value in model.graph.initializers.items():
            if name.endswith("_scale") and ".weight" not in name:
                assert value.const_value is not None
                value.const_value = ir.tensor(value.const_value.numpy() / 16, name=name)
        return model

    original = export.quantise._quantised
    monkeypatch.setattr(export.quantise, "_quantised", lambda *arguments: spoil(original(*arguments)))


@pytest.mark.usefixtures("coarse")
def test_graphs_beyond_the_gate_are_not_published(tmp_path: Path) -> None:
    result = run(*INT8, "--out", tmp_path)
    refused(
        result, 1, "int8 graphs are too far from the float32 ones", "on average (at most 2%)", "no bundle was written"
    )
    assert "AbsRel" not in result.stderr, "the metrics of untrained weights mean nothing"
    assert not list(tmp_path.iterdir())


FLOAT32 = Metrics(abs_rel=0.12, rmse=0.4, delta1=0.85, delta2=0.98, delta3=0.99)


def judged(trained: bool, change: float = 0.0, **moved: float) -> QuantisedResult:
    """A result with these metrics moved, and every depth changed by so much."""
    depth = np.full(64, 2.0)
    metrics = replace(FLOAT32, **{name: getattr(FLOAT32, name) + by for name, by in moved.items()})
    case = Case({}, 1, 64, 0.1, 0.01, Worst(0, 0, 0, 2, 2))
    exact, found = RoomDepths(FLOAT32, depth), RoomDepths(metrics, depth * (1 + change))
    return QuantisedResult("int8", TOLERANCES["int8"], (case,), exact, found, trained)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "inside", "beyond"),
    [("abs_rel", 0.9e-3, 1.1e-3), *((f"delta{n}", 0.49e-2, 0.51e-2) for n in (1, 2, 3))],
)
def test_trained_weights_are_held_to_the_metrics(name: str, inside: float, beyond: float, sign: int) -> None:
    assert judged(True, **{name: sign * inside}).passed
    assert not judged(True, **{name: sign * beyond}).passed
    assert judged(False, **{name: sign * beyond}).passed, "they mean nothing"
    line = judged(True, **{name: sign * beyond}).difference
    assert (f"AbsRel moves by {sign * beyond:+.2g}" if name == "abs_rel" else f"{sign * 0.51:+.2f} points") in line


@pytest.mark.parametrize("trained", [True, False])
def test_all_are_held_to_the_change_of_a_depth(trained: bool) -> None:
    assert judged(trained, 0.0199).passed
    assert judged(trained, -0.0199).passed
    assert not judged(trained, 0.0201).passed
    assert not judged(trained, -0.0201).passed
    assert not judged(trained, float("nan")).passed
    assert "a depth changes by 2.01% on average" in judged(trained, 0.0201).difference
