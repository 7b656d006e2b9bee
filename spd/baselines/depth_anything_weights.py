"""Where the weights of Depth Anything come from, and which files are taken for them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spd.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from transformers import DepthAnythingForDepthEstimation

PATCH = 14
"""Side of the patches that an image is cut into, pixels."""

SIZE = 518
"""Short side of the images that the weights were trained on, pixels."""

MODEL_TYPE = "depth_anything"  # in config.json, of V1 too
INDOOR_MAX_DEPTH = 20  # metres, of the metric weights for rooms
EXPECTED = (
    "a folder with config.json and model.safetensors, or a name on the Hugging Face hub such as "
    "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
)


def random_small() -> DepthAnythingForDepthEstimation:
    """V2 Small as its metric weights for rooms have it, 24.8 million parameters, all random, the same every time."""
    import torch  # 2 s that `--help` of a command does without
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config  # 6 s

    backbone = Dinov2Config(
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        out_indices=[3, 6, 9, 12],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=PATCH,
        reassemble_hidden_size=384,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_hidden_size=32,
        depth_estimation_type="metric",
        max_depth=INDOOR_MAX_DEPTH,
    )
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DepthAnythingForDepthEstimation(config).eval()


def load_weights(source: str | Path) -> DepthAnythingForDepthEstimation:
    """The network in a folder or on the Hugging Face hub, float32, in eval mode, on the CPU.

    Raises:
        CheckpointError: there is none, it cannot be downloaded, or it is not a whole Depth Anything.
    """
    folder = _folder(source)
    _check_config(folder, str(source))
    return _from_folder(folder, str(source))


def _folder(source: str | Path) -> Path:
    """The folder of that name, or the one that the Hugging Face hub's files of that name were downloaded to."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{source} is a file, expected {EXPECTED}")
    if isinstance(source, Path) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII):
        raise CheckpointError(f"{source} does not exist, expected {EXPECTED}")
    from huggingface_hub import snapshot_download  # as above
    from huggingface_hub.errors import RepositoryNotFoundError  # as above

    try:
        return Path(snapshot_download(source, allow_patterns=["config.json", "model*.safetensors*"]))
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{source} is neither here nor on the Hugging Face hub, expected {EXPECTED}") from error
    except Exception as error:  # networks fail in many ways, and not all of them are an OSError
        reason = type(error.__cause__ or error).__name__
        raise CheckpointError(
            f"{source} is no folder here and cannot be downloaded from the Hugging Face hub ({reason}); "
            "download it elsewhere and give its folder"
        ) from error


def _check_config(folder: Path, source: str) -> None:
    """Raise CheckpointError unless a folder says that it holds a Depth Anything and has weights."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{source} has no config.json, expected {EXPECTED}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = type(error).__name__
        raise CheckpointError(f"{source}: its config.json cannot be read ({reason}); copy it again") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != MODEL_TYPE:
        raise CheckpointError(f"{source} holds {found!a} by its config.json, expected {MODEL_TYPE!r}")
    if not any(folder.glob("model*.safetensors")):
        raise CheckpointError(f"{source} has no model.safetensors, expected {EXPECTED}")


def _from_folder(folder: Path, source: str) -> DepthAnythingForDepthEstimation:
    import torch  # as above
    from transformers import DepthAnythingForDepthEstimation  # as above

    from spd.checkpoint.files import some_names  # as above

    try:
        with _quiet():
            model, info = DepthAnythingForDepthEstimation.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are in `info`, and refused below
                output_loading_info=True,
            )
    except Exception as error:  # a config or weights of unknown origin can raise anything in there
        raise CheckpointError(
            f"{source} cannot be loaded: {type(error).__name__}: {one_line(error, whole=True)}"
        ) from error
    # The mismatched come with their shapes.
    misfits = {
        kind: sorted(key if isinstance(key, str) else key[0] for key in info[f"{kind}_keys"])
        for kind in ("missing", "unexpected", "mismatched")
    }
    if any(misfits.values()):
        listed = "; ".join(f"{len(keys)} {kind} ({some_names(keys)})" for kind, keys in misfits.items() if keys)
        raise CheckpointError(f"{source} has weights that do not fit its config.json: {listed}; copy it again")
    if model.config.depth_estimation_type == "metric" and not model.config.max_depth:
        raise CheckpointError(f"{source} is metric but has no max_depth in its config.json; copy it again")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress bars, reports and warnings of transformers from the user."""
    from transformers.utils import logging  # as above

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
