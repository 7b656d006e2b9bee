"""`gate.npz`: written and read back, checked field by field, and nothing else is taken for it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd.bundle import GATE, Bundle, FileRecord, Manifest
from spd.bundle.reference import Reference, read_reference
from spd.config import PRESETS
from spd.errors import BundleError

HEIGHT, WIDTH, MOST = 64, 96, 40
MANIFEST = Manifest(
    name="a",
    config=PRESETS["atto"],
    preset="atto",
    height=HEIGHT,
    width=WIDTH,
    max_points=MOST,
    max_batch=2,
    opset=20,
    with_routes=False,
    verified=True,
    trained=True,
    checkpoint="best.pt",
    weights_sha256="0" * 64,
    graphs={},
    files={},
    tools={},
)


def made(count: int = MOST) -> Reference:
    rng = np.random.default_rng(7)
    return Reference(
        images=rng.integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8),
        points=rng.uniform(-10, 100, (2, count, 2)).astype(np.float32),
        depth=rng.uniform(0.5, 9, (2, count)).astype(np.float32),
        undecided=rng.random((2, count)) < 0.2,
    )


def listed(folder: Path) -> Bundle:
    """A bundle that has the folder's gate.npz, whatever it holds."""
    return Bundle(folder, replace(MANIFEST, files={GATE: FileRecord.of(folder / GATE)}))


def equal(one: Reference, two: Reference) -> bool:
    pairs = [(getattr(one, field.name), getattr(two, field.name)) for field in fields(Reference)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("count", [1, 7, MOST])
def test_round_trip(tmp_path: Path, count: int) -> None:
    reference = made(count)
    reference.write(tmp_path / GATE)
    assert equal(read_reference(listed(tmp_path)), reference)


def test_equal_content_gives_equal_files(tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz"):
        made().write(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_anyone_with_numpy_can_read_it(tmp_path: Path) -> None:
    made().write(tmp_path / GATE)
    with np.load(tmp_path / GATE, allow_pickle=False) as archive:
        found = {name: (archive[name].dtype.name, archive[name].shape) for name in archive}
    assert found == {
        "images": ("uint8", (2, HEIGHT, WIDTH, 3)),
        "points": ("float32", (2, MOST, 2)),
        "depth": ("float32", (2, MOST)),
        "undecided": ("bool", (2, MOST)),
    }


def test_larger_calls_repeat_images_and_points_together() -> None:
    reference = made()
    asked = reference.repeated(5, 2 * MOST + 3)
    assert asked.depth.shape == (5, 2 * MOST + 3)
    for image, point in ((0, 0), (1, MOST - 1), (2, MOST), (3, 2 * MOST + 1), (4, 2 * MOST + 2)):
        for field in ("points", "depth", "undecided"):
            got, want = getattr(asked, field)[image, point], getattr(reference, field)[image % 2, point % MOST]
            assert np.array_equal(got, want)
        assert np.array_equal(asked.images[image], reference.images[image % 2])
    few = reference.repeated(1, 3)
    assert (few.images.shape[0], few.points.tolist()) == (1, reference.points[:1, :3].tolist())


def test_a_bundle_of_an_older_export_says_what_to_do() -> None:
    with pytest.raises(BundleError, match=r"has no gate\.npz.*export it again with this spd-depth, or .*--no-verify"):
        read_reference(Bundle(Path("old"), MANIFEST))


def changed(name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    arrays = {field.name: getattr(made(), field.name) for field in fields(Reference)}
    return {**arrays, name: change(arrays[name])}


def spoilt(value: float) -> Callable[[Any], Any]:
    def spoil(array: Any) -> Any:
        array = array.copy()
        array[1, 3] = value
        return array

    return spoil


DAMAGES: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("images of another size", "images", lambda a: a[:, 32:], "images is uint8 [2, 32, 96, 3], expected uint8 [2, 64"),
    ("grey images", "images", lambda a: a[..., 0], "images is uint8 [2, 64, 96], expected"),
    ("images as floats", "images", lambda a: a / np.float32(255), "images is float32"),
    ("an image less", "images", lambda a: a[:1], "images is uint8 [1, 64"),
    ("points as doubles", "points", lambda a: a.astype(np.float64), "points is float64"),
    ("flat points", "points", lambda a: a[..., 0], "points has shape [2, 40], expected [B, N, 2]"),
    ("points in space", "points", lambda a: np.pad(a, ((0, 0), (0, 0), (0, 1))), "points is float32 [2, 40, 3]"),
    ("no points", "points", lambda a: a[:, :0], "points has shape [2, 0, 2]"),
    ("more points than the bundle takes", "points", lambda a: np.repeat(a, 2, axis=1), "with N up to 40"),
    ("a point that is none", "points", spoilt(np.nan), "points has numbers that are not finite"),
    ("bytes swapped", "depth", lambda a: a.astype(">f4"), "depth is >f4"),
    ("a depth less", "depth", lambda a: a[:, 1:], "depth is float32 [2, 39], expected float32 [2, 40]"),
    ("infinite depth", "depth", spoilt(np.inf), "depth has numbers that are not finite and above 0"),
    ("no depth", "depth", spoilt(0), "depth has numbers that are not finite and above 0"),
    ("undecided as numbers", "undecided", lambda a: a.astype(np.uint8), "undecided is uint8"),
    ("objects", "undecided", lambda a: a.astype(object), "allow_pickle=False"),
]


@pytest.mark.parametrize(("name", "change", "words"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_arrays_that_are_not_the_documented_ones_are_refused(
    tmp_path: Path, name: str, change: Callable[[Any], Any], words: str
) -> None:
    np.savez_compressed(tmp_path / GATE, **changed(name, change))
    with pytest.raises(BundleError) as caught:
        read_reference(listed(tmp_path))
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(tmp_path / GATE))
    assert "export the bundle again" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["images", "points", "depth", "undecided"])
def test_an_array_less_is_refused(tmp_path: Path, name: str) -> None:
    arrays = changed(name, lambda array: array)
    del arrays[name]
    np.savez_compressed(tmp_path / GATE, **arrays)
    with pytest.raises(BundleError, match=name):
        read_reference(listed(tmp_path))


def as_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, made().depth)


def as_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for field in fields(Reference):
            archive.writestr(f"{field.name}.npy", "not an array")


def huge(path: Path) -> None:
    """A header that promises 8 EiB."""
    made().write(path)
    with zipfile.ZipFile(path, "a") as archive, archive.open("points.npy", "w") as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2, 1 << 59, 2)}
        np.lib.format.write_array_header_1_0(member, header)  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("write", [Path.touch, as_array, as_text, huge], ids=lambda write: write.__name__)
def test_what_is_no_such_archive_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / GATE)
    with pytest.raises(BundleError, match=r"gate\.npz cannot be used: .*; export the bundle again"):
        read_reference(listed(tmp_path))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damaged") / GATE
    made(3).write(path)
    return path, path.read_bytes()


@given(st.data())
def test_no_damage_goes_unnoticed(archive: tuple[Path, bytes], data: st.DataObject) -> None:
    path, whole = archive
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged if data.draw(st.booleans()) else damaged[:place])
    try:
        found = read_reference(listed(path.parent))
    except BundleError:
        return  # anything else fails the test
    assert equal(found, made(3))
