"""`manifest.json`: everything a bundle says of itself, checked field by field, since it may come from anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spd.bundle.contract import CONVENTIONS, PRECISIONS, Contract, TensorSpec, contract
from spd.bundle.plans import PlanRecord
from spd.config import SPDConfig
from spd.errors import BundleError

FORMAT = "spd-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PARITY = "parity.json"
GATE = "gate.npz"
REPORT = "engines.json"
"""What was found in a bundle's plans, by flavour and precision: layers, kernels, scratch memory and proof."""
GRAPHS = ("encoder", "decoder")


@dataclass(frozen=True)
class FileRecord:
    """What the manifest knows of one file: its size in bytes and its sha256 in hex."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Measure a file."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return cls(bytes=path.stat().st_size, sha256=digest.hexdigest())


@dataclass(frozen=True)
class Calibration:
    """The images that the ranges of 8-bit graphs were measured on."""

    source: str
    """What they are, for people: rendered rooms, or the name of a folder."""
    images: int
    """How many."""
    sha256: str
    """Over the images as the encoder got them, and the points asked on them."""


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.json` says, validated."""

    name: str
    config: SPDConfig
    preset: str | None
    """Name of the preset that `config` is, if any."""
    height: int
    """Height of the graph's image, pixels."""
    width: int
    """Width of the graph's image, pixels."""
    max_points: int
    """Most points per image in one decoder call; the runtime cuts longer queries into chunks."""
    max_batch: int
    """Most images in one encoder call."""
    opset: int
    with_routes: bool
    """Whether the decoder has the second output `routes`."""
    verified: bool
    """False for a bundle exported with --no-verify: nothing proves that its graphs compute what the model computes."""
    trained: bool
    """False for a bundle of seeded random weights."""
    checkpoint: str | None
    """File name of the checkpoint, for people; the hash below identifies it."""
    weights_sha256: str
    """sha256 over the names, dtypes, shapes and bytes of all weights."""
    graphs: Mapping[str, Mapping[str, str]]
    """File name per precision and graph: `graphs["fp16"]["encoder"]`."""
    files: Mapping[str, FileRecord]
    """Every file of the bundle but the manifest itself."""
    tools: Mapping[str, str]
    """Versions of the packages that made the bundle."""
    calibration: Calibration | None = None
    """What the ranges of 8-bit graphs were measured on, if there are any."""
    float32_modules: tuple[str, ...] = ()
    """Modules that a precision policy keeps in float32 in every graph."""
    engines: tuple[PlanRecord, ...] = ()
    """TensorRT plans, if any were built."""

    @property
    def contract(self) -> Contract:
        """Names, shapes and dtypes of the graphs' tensors."""
        return contract(self.config, self.height, self.width, self.with_routes)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions in the bundle, fp32 first."""
        return tuple(p for p in PRECISIONS if p in self.graphs)

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "model": {
                "preset": self.preset,
                "config": self.config.as_dict(),
                "trained": self.trained,
                "checkpoint": self.checkpoint,
                "weights_sha256": self.weights_sha256,
            },
            "size": [self.height, self.width],
            "limits": {"max_points": self.max_points, "max_batch": self.max_batch},
            "opset": self.opset,
            "with_routes": self.with_routes,
            "verified": self.verified,
            "graphs": self.graphs,
            "tensors": _tensor_rows(self.contract),
            "conventions": CONVENTIONS,
            "files": {name: asdict(record) for name, record in self.files.items()},
            "tools": self.tools,
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "float32_modules": list(self.float32_modules),
            "engines": [engine.as_dict() for engine in self.engines],
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read what `to_json` wrote; `where` names the file in messages.

        Raises:
            BundleError: not a manifest, from a newer format, or with a field that is missing or impossible.
        """
        try:
            root = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not JSON ({error}); export the bundle again") from error
        if not isinstance(root, dict) or root.get("format") != FORMAT:
            raise BundleError(f"{where} is not the manifest of an SPD bundle; give a folder made by spd-export")
        reader = _Reader(root, where)
        version = reader.positive("format_version")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {version}, this spd-depth reads up to {FORMAT_VERSION}; "
                "upgrade with: pip install -U spd-depth"
            )
        model, limits = reader.section("model"), reader.section("limits")
        try:
            manifest = cls(
                name=reader.take("name", str),
                config=SPDConfig.from_dict(model.take("config", dict)),
                preset=model.take("preset", str, type(None)),
                height=reader.size()[0],
                width=reader.size()[1],
                max_points=limits.positive("max_points"),
                max_batch=limits.positive("max_batch"),
                opset=reader.positive("opset"),
                with_routes=reader.take("with_routes", bool),
                verified=reader.take("verified", bool),
                trained=model.take("trained", bool),
                checkpoint=model.take("checkpoint", str, type(None)),
                weights_sha256=model.take("weights_sha256", str),
                graphs=reader.graphs(),
                files=reader.files(),
                tools=reader.take("tools", dict),
                calibration=reader.calibration(),
                float32_modules=reader.texts("float32_modules"),
                engines=tuple(PlanRecord.from_dict(values) for values in reader.take("engines", list)),
            )
            expected = _tensor_rows(manifest.contract)
        except ValueError as error:
            raise BundleError(f"{where} describes a model that cannot be: {error}; export the bundle again") from error
        graph_files = [name for names in manifest.graphs.values() for name in names.values()]
        for file_name in (*graph_files, *(engine.file for engine in manifest.engines)):
            if file_name not in manifest.files:
                raise BundleError(f"{where} lists no sha256 for {file_name}; export the bundle again")
        if root.get("tensors") != expected:
            raise BundleError(
                f"{where} lists other tensors than this spd-depth reads and writes; export the bundle again with it"
            )
        return manifest


class _Reader:
    """Takes typed fields out of a JSON object, with a BundleError for each that is not there or not of its type."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def take(self, key: str, *types: type) -> Any:
        value = self._values.get(key)
        if (key not in self._values) or not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            got = f"is {value!r}" if key in self._values else "is missing"
            raise BundleError(f"{self._where}: {key} {got}, expected {wanted}; export the bundle again")
        return value

    def section(self, key: str) -> _Reader:
        return _Reader(self.take(key, dict), f"{self._where}, {key}")

    def positive(self, key: str) -> int:
        value: int = self.take(key, int)
        if value < 1:
            raise BundleError(f"{self._where}: {key} is {value}, expected 1 or more; export the bundle again")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise BundleError(f"{self._where}: {key} is {values}, expected a list of names; export the bundle again")
        return tuple(values)

    def size(self) -> tuple[int, int]:
        value = self.take("size", list)
        if len(value) != 2 or not all(type(side) is int for side in value):
            raise BundleError(f"{self._where}: size is {value}, expected [height, width]; export the bundle again")
        return value[0], value[1]

    def graphs(self) -> dict[str, dict[str, str]]:
        section = self.section("graphs")
        known = [precision for precision in PRECISIONS if precision in section._values]
        if "fp32" not in known:
            raise BundleError(f"{self._where}: graphs has no fp32 entry, the reference; export the bundle again")
        return {
            precision: {graph: section.section(precision).file_name(graph) for graph in GRAPHS} for precision in known
        }

    def calibration(self) -> Calibration | None:
        if self._values.get("calibration") is None:  # earlier versions wrote none
            return None
        section = self.section("calibration")
        return Calibration(section.take("source", str), section.positive("images"), section.take("sha256", str))

    def file_name(self, key: str) -> str:
        name: str = self.take(key, str)
        _check_plain_name(name, self._where)
        return name

    def files(self) -> dict[str, FileRecord]:
        section = self.section("files")
        records = {}
        for name in section._values:
            _check_plain_name(name, self._where)
            record = section.section(name)
            records[name] = FileRecord(bytes=record.take("bytes", int), sha256=record.take("sha256", str))
        return records


def _check_plain_name(name: str, where: str) -> None:
    if not name or name in (".", "..") or any(c in name for c in "/\\:\0"):
        raise BundleError(f"{where} names the file {name!r}, which is not inside the bundle; do not use this bundle")


def _tensor_rows(tensors: Contract) -> dict[str, dict[str, list[dict[str, Any]]]]:
    def rows(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]

    return {
        "encoder": {"inputs": rows(tensors.encoder_inputs), "outputs": rows(tensors.encoder_outputs)},
        "decoder": {"inputs": rows(tensors.decoder_inputs), "outputs": rows(tensors.decoder_outputs)},
    }
