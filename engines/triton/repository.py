"""From a bundle to a model repository: four models, each a folder with `config.pbtxt` and a version `1`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engines.triton import configs
from spd.bundle import GRAPHS, Bundle, open_bundle
from spd.bundle.manifest import MANIFEST
from spd.bundle.plans import PlanRecord
from spd.errors import BundleError, InputError

VERSION = "1"
"""The folder of each model's only version."""


def write_repository(
    path: Path,
    out: Path,
    name: str,
    options: configs.SceneOptions,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write the models NAME, NAME_once, NAME_encoder and NAME_decoder into a model repository.

    The repository has copies of all it needs. Other models in it stay as they are. A model appears by a rename, once
    all of its files are there.

    Args:
        path: a bundle, or a folder that holds one.
        out: the repository; made if it does not exist.
        name: of the model that keeps scenes, and the beginning of the other names.
        options: how scenes are kept.
        force: replace models of these names.
        progress: is told what is being written.

    Returns:
        The models' folders.

    Raises:
        BundleError: the bundle cannot be used, or lacks the precision.
        InputError: the repository has such models already.
    """
    bundle = open_bundle(path)
    models = {name: "scenes", f"{name}_once": "once", **{f"{name}_{graph}": graph for graph in GRAPHS}}
    taken = [model for model in models if (out / model).exists()]
    if taken and not force:
        raise InputError(f"{out} has a model {taken[0]} already; choose another --name, or replace it with --force")
    precision, plans = _precision(bundle, options.precision)
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".spd-") as hidden:
        for model, kind in models.items():
            progress(f"writing {model}")
            folder = Path(hidden) / model
            version = folder / VERSION
            version.mkdir(parents=True)
            if kind == "scenes":
                config = configs.scenes_config(model, options)
                _copy_bundle(bundle, version / "bundle")
            elif kind == "once":
                config = configs.once_config(model, name)
            else:
                plan = plans.get(kind)
                config = configs.graph_config(model, kind, precision, bundle.manifest, plan)
                source = bundle.graph(kind, precision) if plan is None else bundle.file(plan.file)
                shutil.copyfile(source, version / ("model.onnx" if plan is None else "model.plan"))
            if kind in ("scenes", "once"):
                shutil.copyfile(Path(__file__).with_name(f"{kind}_model.py"), version / "model.py")
            (folder / "config.pbtxt").write_text(config, encoding="utf-8")
        for model in models:
            if (out / model).exists():
                os.replace(out / model, Path(hidden) / f"{model}.old")
            os.replace(Path(hidden) / model, out / model)
    return [out / model for model in models]


def _precision(bundle: Bundle, asked: str | None) -> tuple[str, dict[str, PlanRecord]]:
    """The precision of the plain encoder and decoder, and the plans of TensorRT in it, if both graphs have one."""
    plans: dict[str, dict[str, PlanRecord]] = {}
    for record in bundle.manifest.engines:
        if record.flavour == "tensorrt":  # Triton has no backend for TensorRT for RTX
            plans.setdefault(record.precision, {})[record.graph] = record
    complete = [precision for precision, found in plans.items() if len(found) == len(GRAPHS)]
    if asked is None:
        precision = next((p for p in ("fp16", "bf16", *complete) if p in complete), "fp32")
    else:
        precision = "int8" if asked == "int8-bf16" else asked
    if precision not in complete and precision not in bundle.manifest.precisions:
        raise BundleError(
            f"{bundle.path} has no {precision} graphs, only {', '.join(bundle.manifest.precisions)}; "
            f"export with --precision {precision}"
        )
    return precision, plans[precision] if precision in complete else {}


def _copy_bundle(bundle: Bundle, target: Path) -> None:
    """Copy the manifest and every file that it lists, content checked."""
    target.mkdir()
    shutil.copyfile(bundle.path / MANIFEST, target / MANIFEST)
    for name in bundle.manifest.files:
        shutil.copyfile(bundle.file(name), target / name)
