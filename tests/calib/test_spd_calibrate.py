"""The command `spd-calibrate`: an overflow is found, named and cured, a sound network needs no policy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from calib_support import ATTO, BLOCK, FFN, SCALED, SIZE, planted, silent
from click.testing import CliRunner, Result

import export.cli
import export.pipeline
from calib.cli import main
from export.evaluate import to_torch
from export.parity import verify
from export.policy import Policy, read_policy
from export.reference import make_reference
from export.runners import GraphFiles
from spd.bundle import MANIFEST, PARITY
from spd.checkpoint import save_checkpoint, weights_sha256
from spd.errors import ParityError
from spd.models import seeded

SIZES = ("--size", f"{SIZE[0]}x{SIZE[1]}", "--points", "32")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def calibrated(out: Path, *arguments: str | Path) -> tuple[dict[str, Any], str]:
    result = run(*arguments, "--out", out, *SIZES)
    assert result.exit_code == 0, result.stderr
    assert not result.stdout
    document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return document, result.stderr


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted") / "planted.pt"
    save_checkpoint(path, planted(), ATTO)
    return path


@pytest.fixture(scope="module")
def planted_policy(checkpoint: Path, photos: Path) -> tuple[Path, dict[str, Any], str]:
    out = checkpoint.with_name("policy.json")
    document, said = calibrated(out, "--ckpt", checkpoint, "--images", photos, "--max-images", "1")
    return out, document, said


@pytest.fixture(scope="module")
def overflowing(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> GraphFiles:
    """The float16 graphs of the planted network without a policy: those of the sound one with its weights scaled."""
    folder = tmp_path_factory.mktemp("overflowing")
    files = GraphFiles("fp16", folder / "encoder.fp16.onnx", folder / "decoder.fp16.onnx")
    for graph, path in (("encoder", files.encoder), ("decoder", files.decoder)):
        model = ir.load(exported / path.name)
        for name, scale in SCALED[graph].items():
            value = stored_weight(model, name)
            assert value.const_value is not None
            scaled = scale(to_torch(value.const_value).float()).half()
            assert bool(scaled.isfinite().all()), "the weights themselves must fit"
            value.const_value = ir.tensor(scaled.numpy(), name=value.name)
        ir.save(model, path)
    return files


def stored_weight(model: ir.Model, name: str) -> ir.Value:
    """A weight by its name in the module, or, where a factor multiplies it transposed, the matrix in that product."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    (node,) = (node for node in model.graph if node.name == f"{name.removesuffix('.weight').replace('.', '/')}/Mul")
    (value,) = (value for value in node.inputs if value is not None and value.is_initializer())
    return value


def test_the_overflow_is_found_and_named(planted_policy: tuple[Path, dict[str, Any], str]) -> None:
    out, document, said = planted_policy
    assert sorted(read_policy(out).float32_modules) == [FFN, BLOCK]
    assert re.fullmatch(rf"{FFN}\.fc1/(MatMul|Add) reaches \S+e\+05", document["why"][FFN])
    assert re.fullmatch(rf"{BLOCK}\.(fc1|grn)/\w+ reaches \S+", document["why"][BLOCK])
    result = document["result"]
    assert result["without_policy"] == {"max_error": "infinite", "mean_error": "infinite"}
    assert 0 < result["with_policy"]["max_error"] <= result["tolerance"]["max"] == 2e-2
    assert 0 < result["with_policy"]["mean_error"] <= result["tolerance"]["mean"] == 2e-3
    for name in (FFN, BLOCK):
        assert name in said
    assert "fp16 without a policy: largest error inf" in said
    assert said.count(": fails\n") == said.count(": passes\n") == 1


def test_the_tables_for_people(planted_policy: tuple[Path, dict[str, Any], str], photos: Path) -> None:
    _, document, _ = planted_policy
    tensors = {row["tensor"]: row for row in document["tensors"]}
    for name in (f"{FFN}/Gelu", f"{BLOCK}/Gelu"):
        assert tensors[name]["largest"] > 65504
        assert 0 < tensors[name]["beyond_float16"] <= 1
    assert tensors["encoder.stages.0.blocks.0/Gelu"]["beyond_float16"] == 0
    assert all(0 <= row["below_float16_normal"] <= 1 for row in document["tensors"])
    modules = {row["module"]: row for row in document["modules"]}
    assert BLOCK not in modules, "it is not lowered"
    assert 0 < modules["encoder.stages.0.blocks.0"]["mean_error"] < 1e-3
    means = [row["mean_error"] for row in document["modules"]]
    assert means == sorted(means, reverse=True)
    assert document["network"] == {
        "preset": "atto", "checkpoint": "planted.pt", "weights_sha256": weights_sha256(planted().state_dict())
    }  # fmt: skip
    assert document["inputs"]["images"] == [
        "room0.png", "rendered room of the parity gate", "noise of the parity gate"
    ]  # fmt: skip
    assert document["inputs"]["size"] == list(SIZE)
    assert (document["inputs"]["points"], document["inputs"]["seed"]) == (32, 0)
    assert {"torch", "numpy", "spd-depth"} <= set(document["tools"])


@pytest.mark.slow
def test_the_policy_cures_the_export(
    planted_policy: tuple[Path, dict[str, Any], str],
    checkpoint: Path,
    overflowing: GraphFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without the policy the gate refuses and names the node.
    model = planted()
    reference = make_reference(model, *SIZE, 48, silent)
    with pytest.raises(ParityError, match=r"^fp16 graphs: infinity at node stages/1/blocks/0/(fc1|grn)/"):
        verify(model, overflowing, reference, 48, silent)

    # With it spd-export passes; fp32 is left out, as its tracing takes as long again.
    monkeypatch.setattr(export.pipeline, "PRECISIONS", ("fp16",))
    arguments = ["--ckpt", checkpoint, "--out", tmp_path, "--precision", "fp16", "--policy", planted_policy[0]]
    arguments += ["--size", f"{SIZE[0]}x{SIZE[1]}", "--max-points", "64", "--name", "cured"]
    result = CliRunner().invoke(export.cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((tmp_path / "cured" / MANIFEST).read_text(encoding="utf-8"))
    assert sorted(manifest["float32_modules"]) == [FFN, BLOCK]
    parity = json.loads((tmp_path / "cured" / PARITY).read_text(encoding="utf-8"))["fp16"]
    assert parity["passed"] is True
    assert parity["max_error"] <= 2e-2

    # The encoder cured, the decoder not.
    half = GraphFiles("fp16", tmp_path / "cured" / "encoder.fp16.onnx", overflowing.decoder)
    with pytest.raises(ParityError, match=r"^fp16 graphs: infinity at node b2/layers/0/ffn/fc1/MatMul"):
        verify(model, half, reference, 48, silent)


def test_a_sound_network_needs_no_policy(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    document, said = calibrated(out, "--seed-checkpoint", "atto", "--images", photos, "--max-images", "1")
    assert read_policy(out) == Policy()
    assert document["why"] == {}
    assert document["result"]["with_policy"] == document["result"]["without_policy"]
    assert document["network"]["checkpoint"] is None
    assert "No module needs to stay float32" in said
    assert said.count(": passes\n") == 2
    phases = (
        "reading the images",
        "looking at the range",
        "running all of it in fp16",
        "one by one on 3 images, up to",
    )
    assert all(phase in said for phase in phases)


@pytest.fixture
def refused(tmp_path: Path, photos: Path) -> Any:
    """Runs the command with something wrong; it must say so in one line and write nothing."""

    def check(exit_code: int, *fragments: str, arguments: tuple[str | Path, ...] = (), **options: str | Path) -> None:
        given: dict[str, str | Path] = {"seed-checkpoint": "atto", "images": photos, "out": tmp_path / "p.json"}
        given.update({name.replace("_", "-"): value for name, value in options.items()})
        result = run(*(f"--{name}={value}" for name, value in given.items() if value), *SIZES, *arguments)
        assert result.exit_code == exit_code, result.output
        assert not result.stdout
        assert "Traceback" not in result.stderr
        (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
        assert result.stderr.endswith(f"{error}\n")
        for fragment in fragments:
            assert fragment in error
        assert not (tmp_path / "p.json").is_file()

    return check


def test_bad_input(refused: Any, tmp_path: Path, photos: Path) -> None:
    empty, damaged = tmp_path / "empty", tmp_path / "damaged"
    for folder in (empty, damaged):
        folder.mkdir()
    (damaged / "cut.png").write_bytes((photos / "room0.png").read_bytes()[:300])
    refused(1, "empty holds no images", images=empty)
    refused(1, "cut.png is damaged or cut off", images=damaged)
    refused(2, "--images", "does not exist", images=tmp_path / "nowhere")
    refused(2, "--images", "is a file", images=photos / "room0.png")
    refused(2, "--out", "the folder of", "does not exist", out=tmp_path / "no" / "p.json")
    refused(2, "--out", "is a directory", out=tmp_path)
    refused(2, "give either --ckpt FILE or --seed-checkpoint NAME", ckpt=tmp_path / "m.pt")
    refused(2, "does not exist, expected a checkpoint (.pt, ", ckpt=tmp_path / "m.pt", seed_checkpoint="")
    refused(2, "--preset goes with --ckpt", preset="atto")
    refused(2, "--precision", "fp32", precision="fp32")
    refused(2, "--max-error", max_error="0")
    (tmp_path / "m.pt").write_bytes(b"no checkpoint")
    refused(1, "m.pt", ckpt=tmp_path / "m.pt", seed_checkpoint="")
    refused(2, "would overwrite an input", ckpt=tmp_path / "m.pt", seed_checkpoint="", out=tmp_path / "m.pt")


def test_a_network_that_nothing_cures_gets_no_policy(refused: Any, tmp_path: Path, photos: Path) -> None:
    # The residual stream itself overflows: it flows between modules, so no module can hold it.
    model = seeded(ATTO)
    network: Any = model
    network.encoder.backbone["stages_0"].blocks[0].mlp.fc2.bias.data.fill_(1e5)
    save_checkpoint(tmp_path / "hopeless.pt", model, ATTO)
    refused(
        1,
        "fp16 does not pass with",
        "no policy was written",
        "export without --precision fp16",
        ckpt=tmp_path / "hopeless.pt",
        seed_checkpoint="",
        arguments=("--max-images", "1"),
    )


def test_a_policy_of_another_network_is_refused(
    planted_policy: tuple[Path, dict[str, Any], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = json.loads(planted_policy[0].read_text(encoding="utf-8"))
    other["float32_modules"] = ["encoder.stages.7.blocks.0"]
    (tmp_path / "other.json").write_text(json.dumps(other), encoding="utf-8")
    monkeypatch.setattr(export.pipeline, "PRECISIONS", ("fp16",))
    arguments = ["--seed-checkpoint", "atto", "--out", tmp_path / "engines", "--policy", tmp_path / "other.json"]
    result = CliRunner().invoke(export.cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "encoder.stages.7.blocks.0" in result.stderr
    assert "make a policy for it with spd-calibrate" in result.stderr
    assert not (tmp_path / "engines").exists()
