"""Bundles on disk: the manifest's round trip, and that a damaged or hostile one is refused with a reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd.bundle import MANIFEST, FileRecord, Manifest, open_bundle
from spd.bundle.manifest import Calibration
from spd.config import PRESETS
from spd.errors import BundleError

Json = dict[str, Any]
Change = Callable[[Json], Any]

EXAMPLE = Manifest(
    name="a",
    config=PRESETS["atto"],
    preset="atto",
    height=128,
    width=160,
    max_points=64,
    max_batch=2,
    opset=20,
    with_routes=False,
    verified=True,
    trained=True,
    checkpoint="best.pt",
    weights_sha256="0" * 64,
    graphs={p: {g: f"{g}.{p}.onnx" for g in ("encoder", "decoder")} for p in ("fp32", "fp16")},
    files={f"{g}.{p}.onnx": FileRecord(5, "1" * 64) for p in ("fp32", "fp16") for g in ("encoder", "decoder")},
    tools={"torch": "2"},
)


@pytest.fixture(scope="module")
def document() -> Json:
    values: Json = json.loads(EXAMPLE.to_json())
    return values


def refusal(text: str) -> str:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(text, "here/manifest.json")
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is read.


@pytest.mark.parametrize(
    "manifest",
    [
        EXAMPLE,
        replace(EXAMPLE, config=PRESETS["tiny"], preset="tiny", height=480, width=640),
        replace(EXAMPLE, calibration=Calibration("rendered rooms", 16, "2" * 64)),
        replace(EXAMPLE, preset=None, checkpoint=None, trained=False, verified=False, with_routes=True),
    ],
    ids=["atto", "tiny", "calibrated", "untrained"],
)
def test_round_trip(manifest: Manifest) -> None:
    text = manifest.to_json()
    again = Manifest.from_json(text, "here")
    assert again == manifest
    assert again.to_json() == text
    assert again.contract == manifest.contract


def test_a_manifest_of_before_8_bits_is_read(document: Json) -> None:
    old = copy.deepcopy(document)
    del old["calibration"]
    assert Manifest.from_json(json.dumps(old), "here") == EXAMPLE


def test_the_bundle_on_disk_round_trips(exported: Path) -> None:
    text = (exported / MANIFEST).read_text(encoding="utf-8")
    assert Manifest.from_json(text, "here").to_json() == text
    made = open_bundle(exported)
    for precision in made.manifest.precisions:
        for graph in ("encoder", "decoder"):
            assert made.graph(graph, precision).parent == exported


def test_tensors_in_the_manifest_can_be_read_without_this_library(document: Json) -> None:
    assert [t["name"] for t in document["tensors"]["encoder"]["inputs"]] == ["image"]
    assert document["tensors"]["encoder"]["inputs"][0] == {
        "name": "image",
        "dtype": "uint8",
        "shape": ["B", 128, 160, 3],
    }
    assert document["tensors"]["decoder"]["inputs"][:-1] == document["tensors"]["encoder"]["outputs"]
    assert document["tensors"]["decoder"]["outputs"] == [{"name": "depth", "dtype": "float32", "shape": ["B", "K"]}]
    assert set(document["conventions"]) == {"image", "points", "depth"}


def test_a_bundle_is_found_in_its_folder_and_several_are_an_error(bundle: Path) -> None:
    assert open_bundle(bundle).path == bundle
    assert open_bundle(bundle.parent).path == bundle
    (bundle.parent / ".killed.partial").mkdir()
    (bundle.parent / ".killed.partial" / MANIFEST).write_text("{}")
    assert open_bundle(bundle.parent).path == bundle
    (bundle.parent / "second").mkdir()
    (bundle.parent / "second" / MANIFEST).write_text("{}")
    with pytest.raises(BundleError, match=r"holds 2 bundles, choose one of: .*second"):
        open_bundle(bundle.parent)


@pytest.mark.parametrize(
    ("name", "words"),
    [("none", "does not exist"), ("file", "is a file"), ("empty", "holds no bundle")],
)
def test_no_bundle_there(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=words) as caught:
        open_bundle(tmp_path / name)
    assert "spd-export" in str(caught.value)


# What is refused.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"format": ' + "9" * 5000 + "}", "is not JSON"),
        ("null", "is not the manifest of an SPD bundle"),
        ("[]", "is not the manifest of an SPD bundle"),
        ("{}", "is not the manifest of an SPD bundle"),
        ('{"format": "other"}', "is not the manifest of an SPD bundle"),
        ('{"format": ["spd-bundle"]}', "is not the manifest of an SPD bundle"),
        ('{"format": "spd-bundle"}', "format_version is missing"),
    ],
    ids=["empty", "cut", "nested", "huge number", "null", "list", "object", "other format", "list of it", "no version"],
)
def test_what_is_no_manifest_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


def put(value: Any, *path: str) -> Change:
    def change(document: Json) -> None:
        *parents, last = path
        for key in parents:
            document = document[key]
        document[last] = value

    return change


def drop(*path: str) -> Change:
    def change(document: Json) -> None:
        *parents, last = path
        for key in parents:
            document = document[key]
        del document[last]

    return change


ENCODER = ("graphs", "fp32", "encoder")
DAMAGES: list[tuple[str, Change, str]] = [
    ("newer format", put(2, "format_version"), "has format version 2, this spd-depth reads up to 1"),
    ("version as text", put("1", "format_version"), "format_version is '1', expected int"),
    ("version as truth", put(True, "format_version"), "format_version is True, expected int"),
    ("no name", drop("name"), "name is missing, expected str"),
    ("calibration as text", put("rooms", "calibration"), "calibration is 'rooms', expected dict"),
    ("calibration without a hash", put({"source": "a", "images": 1}, "calibration"), "sha256 is missing"),
    (
        "calibration on nothing",
        put({"source": "a", "images": 0, "sha256": "0"}, "calibration"),
        "images is 0, expected 1 or more",
    ),
    ("no model", drop("model"), "model is missing, expected dict"),
    ("model as list", put([], "model"), "model is [], expected dict"),
    ("no hash of the weights", drop("model", "weights_sha256"), "weights_sha256 is missing"),
    ("unknown model setting", put(1, "model", "config", "dilation"), "unknown model settings dilation"),
    ("backbone from the network", put("hf-hub:x/y", "model", "config", "backbone"), "backbone is 'hf-hub:x/y'"),
    ("width out of bounds", put(10**9, "model", "config", "d"), "d is 1000000000"),
    ("size is no list", put("480x640", "size"), "size is '480x640', expected list"),
    ("size of three", put([1, 2, 3], "size"), "expected [height, width]"),
    ("size in halves", put([128.0, 160], "size"), "expected [height, width]"),
    ("size that cannot be", put([100, 160], "size"), "size 100x160"),
    ("negative size", put([-128, 160], "size"), "size -128x160"),
    ("no points", put(0, "limits", "max_points"), "max_points is 0, expected 1 or more"),
    ("points as truth", put(True, "limits", "max_points"), "max_points is True"),
    ("no batch", drop("limits", "max_batch"), "max_batch is missing"),
    ("opset as fraction", put(20.5, "opset"), "opset is 20.5"),
    ("verified as number", put(1, "verified"), "verified is 1, expected bool"),
    ("verified as null", put(None, "verified"), "verified is None, expected bool"),
    ("trained as text", put("yes", "model", "trained"), "trained is 'yes'"),
    ("no fp32", drop("graphs", "fp32"), "graphs has no fp32 entry"),
    ("half a precision", drop("graphs", "fp16", "decoder"), "decoder is missing"),
    ("path above", put("../x", *ENCODER), "names the file '../x', which is not inside the bundle"),
    ("absolute path", put("/etc/passwd", *ENCODER), "names the file '/etc/passwd'"),
    ("path of another system", put("..\\x", *ENCODER), "which is not inside the bundle"),
    ("drive", put("C:x", *ENCODER), "which is not inside the bundle"),
    ("folder above", put("..", *ENCODER), "which is not inside the bundle"),
    ("empty path", put("", *ENCODER), "which is not inside the bundle"),
    ("path with a null", put("a\0b", *ENCODER), "which is not inside the bundle"),
    ("recorded path above", put({"bytes": 1, "sha256": ""}, "files", "../x"), "names the file '../x'"),
    ("file without a hash", drop("files", "decoder.fp16.onnx"), "lists no sha256 for decoder.fp16.onnx"),
    ("file record as text", put("1" * 64, "files", "decoder.fp16.onnx"), "expected dict"),
    ("file size as text", put("5", "files", "decoder.fp16.onnx", "bytes"), "bytes is '5', expected int"),
    ("no tensors", drop("tensors"), "lists other tensors"),
    ("a tensor less", lambda d: d["tensors"]["encoder"]["outputs"].pop(), "lists other tensors"),
    ("other dtype", lambda d: d["tensors"]["encoder"]["inputs"][0].update(dtype="float32"), "lists other tensors"),
    ("tensors of another size", put([128, 192], "size"), "lists other tensors"),
    ("routes that are not there", put(True, "with_routes"), "lists other tensors"),
    ("tools as list", put([], "tools"), "tools is [], expected dict"),
]


@pytest.mark.parametrize(("change", "words"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_damaged_manifests_are_refused(document: Json, change: Change, words: str) -> None:
    damaged = copy.deepcopy(document)
    change(damaged)
    message = refusal(json.dumps(damaged))
    assert message.startswith("here/manifest.json")
    assert words in message


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of every value inside a JSON document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


PLACES = list(places(json.loads(EXAMPLE.to_json())))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), json_values)
def test_any_value_in_place_of_another_loads_or_is_refused(place: tuple[str | int, ...], value: Any) -> None:
    changed: Any = json.loads(EXAMPLE.to_json())
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    try:
        manifest = Manifest.from_json(json.dumps(changed), "here")
    except BundleError:
        return  # anything else fails the test
    assert set(manifest.precisions) >= {"fp32"}
    assert manifest.contract == EXAMPLE.contract or place[0] in ("model", "size", "with_routes")
    names = [*manifest.files, *(name for graphs in manifest.graphs.values() for name in graphs.values())]
    assert all(Path(name).name == name for name in names)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"\x80"], ids=["utf-16", "no text"])
def test_a_manifest_that_is_no_text_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(bundle)
