"""A bundle's files: their content decides, whether they are links or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spd.bundle import MANIFEST, PARITY, FileRecord, open_bundle
from spd.errors import BundleError

GRAPH = "encoder.fp16.onnx"


def replace_content(path: Path, content: bytes) -> None:
    """The old file may be another test's too."""
    path.unlink()
    path.write_bytes(content)


def truncate(path: Path) -> None:
    replace_content(path, path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace_content(path, content)


def link_to_another(path: Path) -> None:
    other = path.parent.parent / path.name
    other.write_bytes(path.read_bytes()[::-1])
    path.unlink()
    path.symlink_to(other)


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent.parent / "gone")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "is missing: the bundle is incomplete"),
        (make_folder, "is missing: the bundle is incomplete"),
        (truncate, "is not the file that was exported"),
        (flip, r"is not the file that was exported \(its sha256 differs"),
        (link_to_another, "is not the file that was exported"),
        (link_to_nothing, "is missing: the bundle is incomplete"),
    ],
    ids=["missing", "a folder", "truncated", "changed", "link to another", "link to nothing"],
)
def test_files_that_are_not_the_exported_ones_are_refused(
    bundle: Path, damage: Callable[[Path], object], words: str
) -> None:
    opened = open_bundle(bundle)
    assert opened.graph("encoder", "fp16") == bundle / GRAPH
    damage(bundle / GRAPH)
    with pytest.raises(BundleError, match=words) as caught:
        open_bundle(bundle).graph("encoder", "fp16")
    assert str(bundle / GRAPH) in str(caught.value)
    assert opened.graph("encoder", "fp32").is_file(), "the other files are still good"


def hub_cache(bundle: Path, root: Path) -> Path:
    """The bundle as a model hub's client keeps it: contents named by their hash, and a snapshot of links to them."""
    blobs, snapshot = root / "models--a--b" / "blobs", root / "models--a--b" / "snapshots" / "0a1b2c"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in bundle.iterdir():
        blob = blobs / FileRecord.of(path).sha256
        blob.hardlink_to(path)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", blob.name))
    return snapshot


def mounted_volume(bundle: Path, root: Path) -> Path:
    """The bundle as Kubernetes mounts a volume of files: links into a folder that is replaced as a whole."""
    version = root / "..2026_11_25"
    version.mkdir()
    for path in bundle.iterdir():
        (version / path.name).hardlink_to(path)
        (root / path.name).symlink_to(Path("..data", path.name))
    (root / "..data").symlink_to(version.name)
    return root


@pytest.mark.parametrize("lay_out", [hub_cache, mounted_volume])
def test_a_bundle_whose_files_are_links(bundle: Path, tmp_path: Path, lay_out: Callable[[Path, Path], Path]) -> None:
    (tmp_path / "linked").mkdir()
    linked = lay_out(bundle, tmp_path / "linked")
    opened = open_bundle(linked)
    assert opened.path == linked
    assert set(opened.manifest.files) == {path.name for path in bundle.iterdir()} - {MANIFEST}
    for name in opened.manifest.files:
        assert opened.file(name).read_bytes() == (bundle / name).read_bytes()


def test_files_and_precisions_that_the_bundle_does_not_have_are_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.file(PARITY) == bundle / PARITY
    with pytest.raises(BundleError, match=r"does not list other\.onnx"):
        opened.file("other.onnx")
    with pytest.raises(BundleError, match=r"has no int8 graphs, only fp32, fp16, bf16; export with --precision int8"):
        opened.graph("encoder", "int8")
