"""`load`: from a path to a model on the best backend that works here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from spd.bundle import GRAPHS, Bundle, open_bundle
from spd.bundle.contract import BACKENDS, PRECISIONS, RUN_PRECISIONS
from spd.bundle.plans import ENGINE_BACKENDS
from spd.errors import BackendError
from spd.files import CHECKPOINT_WEIGHTS, checkpoint_suffix
from spd.runtime import devices
from spd.runtime.available import require, unavailable
from spd.runtime.backend import Backend
from spd.runtime.model import Model
from spd.runtime.residency import parse_bytes

ON_CPU = ("onnxruntime-cpu", "openvino")
"""Backends that never run on a GPU."""

logger = logging.getLogger("spd")


def load(
    path: str | Path,
    backend: str = "auto",
    *,
    precision: str | None = None,
    size: tuple[int, int] | None = None,
    weights: str = "auto",
    threads: int | None = None,
    cache_budget: int | str | None = None,
    device: int | None = None,
) -> Model:
    """Load a bundle, or a checkpoint for the torch backend.

    Args:
        path: a bundle, a folder that holds exactly one, or a checkpoint.
        backend: one of `BACKENDS`, or "auto": the first of them that works here. Which one, and why not the ones
            before it, is in `Model.backend` and `Model.notes` and logged at level info; at level warning if the bundle
            was made for one of those. A backend asked for by name is used or is an error, never replaced.
        precision: one of `RUN_PRECISIONS`; by default int8 on a CPU and fp16 on a GPU if the bundle has it, or else
            fp32. TensorRT and TensorRT for RTX take the first that has engines of fp16, bf16, int8-fp16 and fp32.
            OpenVINO runs bf16 and int8-bf16 on CPUs that have bfloat16, from the fp32 and int8 graphs: the encoder in
            bfloat16, the decoder in float32.
        size: height and width in pixels for a checkpoint, by default that which it was trained at, or else 480 x 640; a
            bundle has its own.
        weights: which weights of a checkpoint: `averaged` for those of a moving average (EMA, SWA), `raw` for the
            others, `auto` for the averaged ones if the file has them. If it has both, `auto` says so in `Model.notes`
            and logs it at level info.
        threads: CPU threads for one call on onnxruntime-cpu, openvino and torch; by default one for each core that the
            process may use. On torch this sets the number for the whole process.
        cache_budget: bytes, or text such as "2GiB", that the caches of all scenes together may take on the device. The
            least recently used are evicted, and encoded again when they are next queried; their images are kept on the
            host for that, 3 bytes per pixel of `Model.size`. By default every open scene keeps its cache. Bundles only.
        device: number of the GPU, as CUDA_VISIBLE_DEVICES numbers them; then "auto" tries no backend that runs on the
            CPU. By default the first GPU, if there is one.

    Raises:
        BundleError: the bundle is missing, incomplete, changed, or from a newer format.
        CheckpointError: the checkpoint cannot be used.
        BackendError: the backend cannot run here, or there is no such backend, precision, number of threads, GPU or
            choice of weights.
        InputError: the budget is not a size, or less than one scene takes.
    """
    path = Path(path)
    budget = None if cache_budget is None else parse_bytes(cache_budget)
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"there is no backend {backend!r}; choose one of: auto, {', '.join(BACKENDS)}")
    if precision not in (None, *RUN_PRECISIONS):
        raise BackendError(f"there is no precision {precision!r}; choose one of: {', '.join(RUN_PRECISIONS)}")
    if weights not in CHECKPOINT_WEIGHTS:
        raise BackendError(f"there are no weights {weights!r}; choose one of: {', '.join(CHECKPOINT_WEIGHTS)}")
    if threads is not None and threads < 1:
        raise BackendError(f"threads is {threads}, expected at least 1, or None for all cores")
    if device is not None:
        if backend in ON_CPU:
            raise BackendError(f"device is the number of a GPU, but {backend} runs on the CPU; leave it out")
        devices.check_gpu(device)
    if checkpoint_suffix(path) and not path.is_dir():
        model = _load_checkpoint(path, backend, precision, size, weights, threads, budget, device)
    elif weights != "auto":
        raise BackendError(f"{path} is not a checkpoint; only a checkpoint has {weights} weights to choose")
    else:
        model = _load_bundle(path, backend, precision, threads, budget, device)
    model.load_again = partial(
        load,
        path.absolute(),  # a new process may be in another folder
        backend,
        precision=precision,
        size=size,
        weights=weights,
        threads=threads,
        cache_budget=cache_budget,
        device=device,
    )
    return model


def _load_bundle(
    path: Path, backend: str, precision: str | None, threads: int | None, budget: int | None, device: int | None
) -> Model:
    bundle = open_bundle(path)
    if precision == "int8-bf16" and backend not in ("auto", "openvino"):
        raise BackendError(f"{backend} cannot run int8-bf16: openvino alone does; take int8")
    notes: list[str] = []
    makers: dict[str, Callable[[], Backend]] = {
        **{
            name: partial(_tensorrt, bundle, flavour, precision, notes, device or 0)
            for name, flavour in ENGINE_BACKENDS.items()
        },
        "onnxruntime-cuda": lambda: _onnxruntime(bundle, "onnxruntime-cuda", precision, threads, device or 0),
        "onnxruntime-cpu": lambda: _onnxruntime(bundle, "onnxruntime-cpu", precision, threads),
        "openvino": lambda: _openvino(bundle, precision, threads),
        "torch": lambda: _torch_from_bundle(bundle),
    }
    if backend != "auto":
        return Model(makers[backend](), bundle.manifest, notes, budget)
    missed: list[str] = []
    for name in _order(bundle, precision):
        if device is not None and name in ON_CPU:
            continue
        try:
            model = Model(makers[name](), bundle.manifest, notes, budget)
        except BackendError as error:
            notes.append(str(error))
            if _is_made_for(bundle, name, precision):
                missed.append(str(error))
            else:
                logger.info("%s not used: %s", name, error)
        else:
            used = f"{name} {model.precision} is used for {bundle.path}"
            if missed:
                logger.warning("%s, slower than what it was made for: %s", used, "; ".join(missed))
            else:
                logger.info("%s", used)
            model.warned = missed
            return model
    raise BackendError(f"no backend can run {bundle.path} here: {'; '.join(notes)}")


def _order(bundle: Bundle, precision: str | None) -> tuple[str, ...]:
    """The backends in the order in which `auto` tries them."""
    if precision == "int8-bf16":
        return ("openvino",)
    if precision != "int8" and not (precision is None and "int8" in bundle.manifest.precisions):
        return BACKENDS
    # An int8 encoder takes OpenVINO 0.8 of ONNX Runtime's time.
    rest = [name for name in BACKENDS if name != "openvino"]
    place = rest.index("onnxruntime-cpu")
    return (*rest[:place], "openvino", *rest[place:])


def _is_made_for(bundle: Bundle, backend: str, precision: str | None) -> bool:
    """Whether whoever made the bundle, or this machine, expects it to run on a faster backend than a CPU's."""
    if backend in ENGINE_BACKENDS:
        flavour = ENGINE_BACKENDS[backend]
        built = {(engine.graph, engine.precision) for engine in bundle.manifest.engines if engine.flavour == flavour}
        wanted = PRECISIONS if precision is None else (precision,)
        complete = any(all((graph, each) in built for graph in GRAPHS) for each in wanted)
        # Engines of TensorRT for RTX are built without a GPU too, for another machine.
        return complete and (flavour == "tensorrt" or devices.cuda_missing() is None)
    half = {"fp16", "bf16"} & {*bundle.manifest.precisions}  # graphs for GPUs; float32 ones are for CPUs
    asked = half if precision is None else half & {precision}
    return backend == "onnxruntime-cuda" and bool(asked) and devices.cuda_missing() is None


def _load_checkpoint(
    path: Path,
    backend: str,
    precision: str | None,
    size: tuple[int, int] | None,
    weights: str,
    threads: int | None,
    budget: int | None,
    device: int | None,
) -> Model:
    if backend not in ("auto", "torch"):
        raise BackendError(
            f"{backend} runs bundles, but {path} is a checkpoint; export it: spd-export --ckpt {path} --out engines/"
        )
    if precision not in (None, "fp32"):
        raise BackendError(f"the torch backend runs fp32, not {precision}; export a bundle for other precisions")
    if reason := unavailable("torch"):
        raise BackendError(f"{path} is a checkpoint, for the torch backend: {reason}")
    from spd.runtime.torch_model import TorchBackend  # torch and timm take seconds to import

    network = TorchBackend(path, size, weights, threads, device)
    return Model(network, None, network.notes, budget)


def _onnxruntime(bundle: Bundle, name: str, precision: str | None, threads: int | None, device: int = 0) -> Backend:
    require(name, precision)
    from spd.runtime.onnx_runtime import OnnxRuntimeBackend  # 0.1 s that checkpoints do not need

    if precision is None:
        fastest = "fp16" if name == "onnxruntime-cuda" else "int8"
        precision = fastest if fastest in bundle.manifest.precisions else "fp32"
    return OnnxRuntimeBackend(bundle, name, precision, threads, device)


def _openvino(bundle: Bundle, precision: str | None, threads: int | None) -> Backend:
    require("openvino", precision)
    from spd.runtime.openvino_backend import OpenVinoBackend  # as above

    if precision is None:
        precision = "int8" if "int8" in bundle.manifest.precisions else "fp32"
    return OpenVinoBackend(bundle, precision, threads)


def _tensorrt(bundle: Bundle, flavour: str, precision: str | None, notes: list[str], device: int) -> Backend:
    from spd.runtime.tensorrt.backend import TensorRTBackend  # as above
    from spd.runtime.tensorrt.library import LIBRARIES, plan_records

    library = LIBRARIES[flavour]
    plan_records(bundle, precision, library)  # before anything is imported that may be missing
    return TensorRTBackend(bundle, precision, notes, library, device)


def _torch_from_bundle(bundle: Bundle) -> Backend:
    raise BackendError(
        f"torch runs checkpoints, but {bundle.path} is a bundle; give the checkpoint that it was exported from"
    )
