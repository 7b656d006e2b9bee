"""How the ONNX Runtime backend moves data: the cache stays on the device, and only points and depths cross over.

A recording stand-in for ONNX Runtime's sessions shows it without a GPU; `tests/gpu` shows it on one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest

from spd.bundle import Bundle, open_bundle
from spd.errors import BackendError
from spd.runtime import Model, load
from spd.runtime.onnx_runtime import OnnxRuntimeBackend


class Value:
    """A tensor on a device; only the depths may come to the host."""

    def __init__(self, name: str, device: str, array: Any = None) -> None:
        self.name, self.device, self.array = name, device, array

    def numpy(self) -> Any:
        assert self.device == "cpu", f"{self.name} was copied to the host"
        return self.array

    def __array__(self, *_: object) -> Any:
        raise AssertionError(f"{self.name} was copied to the host")


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: list[tuple[str, str]] = []

    def bind_cpu_input(self, name: str, array: Any) -> None:
        assert isinstance(array, np.ndarray)
        self.inputs[name] = array

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        assert isinstance(value, Value)
        self.inputs[name] = value

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0) -> None:
        self.device_id = device_id
        self.outputs.append((name, device_type))

    def get_outputs(self) -> list[Value]:
        return [Value(name, device, np.ones((1, 3), np.float32)) for name, device in self.outputs]


class Session:
    made: ClassVar[list[Session]] = []
    fails = False

    def __init__(self, path: str, options: Any, providers: list[Any], enable_fallback: int) -> None:
        self.path, self.providers = Path(path), providers
        self.bindings: list[Binding] = []
        assert not enable_fallback
        self.options = options
        self.made.append(self)

    def get_providers(self) -> list[str]:
        return [name if isinstance(name, str) else name[0] for name in (*self.providers, "CPUExecutionProvider")]

    def get_outputs(self) -> list[Value]:
        tensors = open_bundle(self.path.parent).manifest.contract
        specs = tensors.encoder_outputs if "encoder" in self.path.name else tensors.decoder_outputs
        return [Value(spec.name, "nowhere") for spec in specs]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding) -> None:
        if self.fails:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 123\nin BFCArena")
        self.bindings.append(binding)


@pytest.fixture
def bundle_on_cuda(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle, where CUDA seems to work; sessions record what is bound."""
    monkeypatch.setattr(Session, "made", [])
    monkeypatch.setattr("spd.runtime.available.cuda_missing", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return open_bundle(exported)


@pytest.mark.parametrize(("name", "device"), [("onnxruntime-cuda", "cuda"), ("onnxruntime-cpu", "cpu")])
def test_the_cache_stays_on_the_device(bundle_on_cuda: Bundle, name: str, device: str) -> None:
    backend = OnnxRuntimeBackend(bundle_on_cuda, name, "fp16", None)
    encoder, decoder = Session.made
    names = [spec.name for spec in bundle_on_cuda.manifest.contract.encoder_outputs]
    image, points = np.zeros((1, 160, 192, 3), np.uint8), np.zeros((1, 3, 2), np.float32)

    cache = backend.encode(image)
    (encoding,) = encoder.bindings
    assert encoding.outputs == [(tensor, device) for tensor in names]
    assert list(encoding.inputs) == ["image"]
    assert encoding.inputs["image"] is image

    for _ in range(2):
        assert backend.decode(cache, points).tolist() == [[1, 1, 1]]
    assert len(encoder.bindings) == 1
    for decoding in decoder.bindings:
        assert sorted(decoding.inputs) == sorted([*names, "points"])
        assert all(decoding.inputs[tensor] is cache[tensor] for tensor in names)
        assert decoding.inputs["points"] is points
        assert decoding.outputs == [("depth", "cpu")]


def test_a_whole_scene_on_cuda_copies_points_and_depths_only(bundle_on_cuda: Bundle) -> None:
    """Through the public API: the stand-in's cache refuses to be read, and is the one that the decoder gets."""
    model = Model(OnnxRuntimeBackend(bundle_on_cuda, "onnxruntime-cuda", "fp32", None), bundle_on_cuda.manifest, [])
    with model.encode(np.zeros((300, 400, 3), np.uint8)) as first, model.encode(np.zeros((9, 9, 3), np.uint8)) as other:
        assert first.depth([(1, 2), (3, 4), (399, 299)]).tolist() == [1, 1, 1]
        other.depth([(1, 2), (3, 4), (8, 8)])
    encoder, decoder = Session.made
    without_tf32 = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    assert [session.providers for session in Session.made] == [without_tf32] * 2
    assert len(encoder.bindings) == 2
    caches = [{n: v for n, v in b.inputs.items() if n != "points"} for b in decoder.bindings]
    assert {value.device for cache in caches for value in cache.values()} == {"cuda"}
    assert not {id(v) for v in caches[0].values()} & {id(v) for v in caches[1].values()}


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_a_gpu_takes_fp16_unless_told(bundle_on_cuda: Bundle, precision: str | None) -> None:
    model = load(bundle_on_cuda.path, backend="onnxruntime-cuda", precision=precision)
    assert model.precision == (precision or "fp16")
    assert [s.path.name for s in Session.made] == [f"{g}.{model.precision}.onnx" for g in ("encoder", "decoder")]


def test_a_run_that_fails_is_an_error_of_one_line(bundle_on_cuda: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(OnnxRuntimeBackend(bundle_on_cuda, "onnxruntime-cuda", "fp16", None), bundle_on_cuda.manifest, [])
    scene = model.encode(np.zeros((9, 9, 3), np.uint8))
    monkeypatch.setattr(Session, "fails", True)
    message = r"^onnxruntime-cuda failed: Failed to allocate memory for requested buffer of size 123$"
    with pytest.raises(BackendError, match=message):
        model.encode(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(BackendError, match=message):
        scene.depth([(1, 1)])


@pytest.mark.parametrize(("name", "of_decoder"), [("onnxruntime-cpu", 1), ("onnxruntime-cuda", 4)])
def test_threads_are_for_one_encoding_and_on_a_cpu_for_tiles_of_points(
    bundle_on_cuda: Bundle, name: str, of_decoder: int
) -> None:
    OnnxRuntimeBackend(bundle_on_cuda, name, "fp32", 4)
    encoder, decoder = Session.made
    assert encoder.options.intra_op_num_threads == 4
    assert decoder.options.intra_op_num_threads == of_decoder
    assert encoder.options.get_session_config_entry("session.force_spinning_stop") == "1"
