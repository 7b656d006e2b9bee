"""Where the first weights come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from training_support import SMALL

from spd.baselines.bilinear_mlp import BilinearMLP
from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.errors import CheckpointError
from spd.models import SPD
from spd.models.spd import seeded
from spd.training.network import Start, new_network

NOTHING = Start(pretrained=False)
BASELINE = replace(SMALL, network="bilinear-mlp")


def test_the_seed_decides() -> None:
    one, same, other = (new_network(replace(BASELINE, seed=seed), NOTHING).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["neck.conv.weight"], other["neck.conv.weight"])


@pytest.mark.parametrize(("given", "kind"), [(SMALL, SPD), (BASELINE, BilinearMLP)])
def test_what_is_built(given: Any, kind: type) -> None:
    network = new_network(given, NOTHING)
    assert type(network) is kind
    assert network.training
    assert network.config == PRESETS["atto"]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Weights as timm publishes them: atto's dense layers are 1x1 convolutions, and it has a head."""
    torch.manual_seed(9)
    weights: dict[str, Tensor] = timm.create_model("convnextv2_atto", num_classes=10).state_dict()
    assert weights["stages.0.blocks.0.mlp.fc1.weight"].ndim == 4
    return weights


@pytest.mark.parametrize("given", [SMALL, BASELINE])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_backbone_from_a_file(
    given: Any, suffix: str, published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"backbone{suffix}"
    if suffix == ".pth":
        torch.save({"model": published}, path)
    else:
        safetensors.torch.save_file(published, path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    network = new_network(given, Start(backbone=path))
    found = network.encoder.backbone.state_dict()
    assert len(found) in (24, 136)
    for name, weight in found.items():
        theirs = published[name.replace("stem_", "stem.").replace("stages_", "stages.")]
        assert torch.equal(weight.flatten(), theirs.flatten()), name
    plain = new_network(given, NOTHING).state_dict()
    others = [name for name in plain if not name.startswith("encoder.backbone.")]
    assert all(torch.equal(network.state_dict()[name], plain[name]) for name in others)


def test_a_backbone_from_timm(published: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm gives as a feature extractor, in its own form."""
    create, asked = timm.create_model, []

    def pretrained(name: str, **options: Any) -> Any:
        model = create(name, **{**options, "pretrained": False})
        if options.get("pretrained"):
            asked.append(name)
            renamed = {key.replace("stem.", "stem_").replace("stages.", "stages_"): published[key] for key in published}
            model.load_state_dict({key: renamed[key] for key in model.state_dict()})
        return model

    monkeypatch.setattr(timm, "create_model", pretrained)
    found = new_network(SMALL, Start()).encoder.backbone.state_dict()
    assert asked == ["convnextv2_atto"]
    assert torch.equal(
        found["stages_3.blocks.1.mlp.fc2.weight"], published["stages.3.blocks.1.mlp.fc2.weight"].flatten(1)
    )


def test_no_way_to_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> Any:
        raise OSError("no route\nto host")

    network = new_network(BASELINE, NOTHING)
    monkeypatch.setattr("spd.training.network.NETWORKS", {"bilinear-mlp": lambda config: network})
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError, match=r"^the ImageNet .* \(no route to host\); .* with --no-pretrained$"):
        new_network(BASELINE, Start())


def test_a_backbone_of_another_kind(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save({name: weight for name, weight in published.items() if "stages.3" not in name}, path)
    with pytest.raises(CheckpointError, match=r"24 of 136 weights are missing or of another shape \(stages_3"):
        new_network(SMALL, Start(backbone=path))
    torch.save(published, path)
    with pytest.raises(CheckpointError, match="does not fit the backbone convnextv2_tiny"):
        new_network(replace(SMALL, preset="tiny"), Start(backbone=path))
    with pytest.raises(CheckpointError, match=r"none\.pth does not exist"):
        new_network(SMALL, Start(backbone=tmp_path / "none.pth"))


def test_init(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    weights = seeded(PRESETS["atto"], seed=3).state_dict()
    save_checkpoint(path, weights, PRESETS["atto"])
    network = new_network(replace(SMALL, dropout=0.25), Start(init=path))
    assert network.training
    # The run's; timm's own layers have none.
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.0, 0.25}
    assert all(torch.equal(network.state_dict()[name], weight) for name, weight in weights.items())
    with pytest.raises(CheckpointError, match="holds atto, expected the run's preset, tiny; see --preset"):
        new_network(replace(SMALL, preset="tiny"), Start(init=path))
    with pytest.raises(CheckpointError, match="holds spd, expected bilinear-mlp"):
        new_network(BASELINE, Start(init=path))


def test_init_of_the_baseline(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    first = new_network(replace(BASELINE, seed=4), NOTHING)
    save_checkpoint(path, first, first.config, network="bilinear-mlp")
    found = new_network(BASELINE, Start(init=path)).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in first.state_dict().items())
