"""What is not read is called what it is."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from spd.errors import ImageError
from spd.images import check_image, read_image


def iso_file(*brands: bytes) -> bytes:
    """The head of a file of the container that HEIC, AVIF and MP4 share; the second brand is a version."""
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (4 + len(body)).to_bytes(4, "big") + body + bytes(200)


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name in names:
            written.writestr(name, "content")
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        written.addfile(tarfile.TarInfo("photo.jpg"))
    return file.getvalue()


def numpy_file(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, np.zeros((2, 2)))
    return file.getvalue()


FILES = {
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer; .*git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s1--0.jpg\n", "a git-annex pointer"),
    "xlsx": (archive("[Content_Types].xml", "xl/workbook.xml"), "a workbook"),
    "ods": (archive("mimetype")[:38] + b"application/vnd.oasis.opendocument", "a workbook"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "a workbook"),
    "zip": (archive("photo.jpg"), "a zip archive; unpack"),
    "tar": (tar(), "a tar archive"),
    "npz": (numpy_file(np.savez), "a NumPy archive"),
    "npy": (numpy_file(np.save), "a NumPy array"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
    "html": (b"\n<!DOCTYPE html><html><head><title>404", "a web page; download"),
    "text": ("caf\u00e9, nothing else".encode(), "text"),
    "utf-16": ("a,b\r\n".encode("utf-16"), "text"),
    "mp4": (iso_file(b"isom", b"isom", b"avc1"), "a video; save a frame"),
    "mov": (iso_file(b"qt  "), "a video"),
    "mkv": (b"\x1a\x45\xdf\xa3" + bytes(50), "a video"),
    "avi": (b"RIFF\x10\0\0\0AVI LIST", "a video"),
    "zeros": (bytes(5000), "zeros only; copy it again"),
}
PICTURES = {
    "svg": (b"<?xml version='1.0'?>\n<!-- a --><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "psd": (b"8BPS\0\1" + bytes(50), "a Photoshop file"),
    "jxl": (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
    "exr": (b"\x76\x2f\x31\x01" + bytes(50), "an OpenEXR image"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), r"a camera's raw photo \(CR2\)"),
    "cr3": (iso_file(b"crx ", b"isom"), r"a camera's raw photo \(CR3\)"),
    "raf": (b"FUJIFILMCCD-RAW 0201", r"a camera's raw photo \(RAF\)"),
    "pam": (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n\1\2\3", "a PAM image"),
}
CASES = {name: (data, f"is not an image but {what}") for name, (data, what) in FILES.items()}
CASES |= {name: (data, f"is {what}, which is not read; ") for name, (data, what) in PICTURES.items()}


@pytest.mark.parametrize(("data", "what"), CASES.values(), ids=CASES)
def test_other_files_are_called_what_they_are(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "photo.jpg"  # people rename them
    path.write_bytes(data)
    for read in (check_image, read_image):
        with pytest.raises(ImageError, match=rf"photo\.jpg {what}"):
            read(path)


@pytest.mark.parametrize("data", [b"\x8f\x12\xfe", bytes(range(256)), b"\0", b"\xff\xfe", b"ftyp", b"\0\0\0\x18ftyp"])
def test_what_is_not_known_is_refused_without_a_guess(data: bytes) -> None:
    with pytest.raises(ImageError, match="the image is not an image"):
        read_image(data)


@pytest.mark.parametrize(("kind", "plugin"), [("AVIF", "AvifImagePlugin"), ("WEBP", "WebPImagePlugin")])
def test_formats_that_pillow_was_built_without(monkeypatch: pytest.MonkeyPatch, kind: str, plugin: str) -> None:
    if not features.check(kind.lower()):
        pytest.skip(f"this Pillow cannot write {kind}")
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    assert read_image(file.getvalue()).size == (8, 8)
    monkeypatch.setattr(f"PIL.{plugin}.SUPPORTED", False)
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(ImageError, match=f"the image is {kind}, for which this Pillow was not built; pip install"):
        read_image(file.getvalue())


HEIC = {
    "heic": iso_file(b"heic", b"mif1", b"heic"),
    "mif1": iso_file(b"mif1", b"mif1", b"heic"),
    "heix": iso_file(b"heix"),
}


@pytest.mark.parametrize("data", HEIC.values(), ids=HEIC)
def test_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read in (read_image, check_image):
        with pytest.raises(ImageError, match="an HEIC photo, which needs another package; pip install pillow-heif"):
            read(data)


needs_heif = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")


@needs_heif
@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_upright(tmp_path: Path, orientation: int) -> None:
    from pillow_heif import encode

    left_red = np.zeros((64, 96, 3), np.uint8)
    left_red[:, :48, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation  # phones write it twice: as EXIF, and as the container's own turn, which is applied
    path = tmp_path / "photo.heic"
    with path.open("wb") as file:
        encode("RGB", (96, 64), left_red.tobytes(), file, exif=exif.tobytes(), quality=90)
    check_image(path)
    shown = np.asarray(read_image(path)).astype(int)
    expected = left_red if orientation == 1 else np.rot90(left_red, -1)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 5
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"photo\.heic is damaged or cut off"):
        read_image(path)


@needs_heif
def test_what_only_claims_to_be_heic_is_damaged() -> None:
    with pytest.raises(ImageError, match="the image is damaged or cut off"):
        read_image(HEIC["heic"])
