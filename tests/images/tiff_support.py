"""A writer of TIFF that shares nothing with the reader, and what its pictures look like."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_ZERO, BLACK_IS_ZERO, COLOURS, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
PREMULTIPLIED, ALPHA = 1, 2
"""Kinds of extra sample; 0 is of no known meaning."""

REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def lzw(data: bytes) -> bytes:
    """LZW without any compression: the table is cleared before codes would need a tenth bit."""
    codes = []
    for start in range(0, len(data), 250):
        codes += [256, *data[start : start + 250]]
    return from_bits("".join(f"{code:09b}" for code in [*codes, 257]))


def packbits(data: bytes) -> bytes:
    return b"".join(bytes([len(run) - 1]) + run for run in (data[i : i + 128] for i in range(0, len(data), 128)))


CODECS: dict[int, Callable[[bytes], bytes]] = {1: bytes, 5: lzw, 8: zlib.compress, 32773: packbits}


def from_bits(text: str) -> bytes:
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


@dataclass
class Tiff:
    """A picture of one kind; `samples` are [H, W, S]."""

    samples: NDArray[Any]
    bits: int
    colours: int
    extra: tuple[int, ...] = ()
    sample_format: int = UNSIGNED
    endian: str = "<"
    planes: bool = False
    """Whether the samples are stored in separate planes."""
    compression: int = 1
    tile: tuple[int, int] | None = None
    """Height and width of the tiles; None for strips of `rows` rows."""
    rows: int = 1000
    fill_order: int = 1
    predictor: int = 1
    tags: dict[int, tuple[str, Sequence[int]] | None] = field(default_factory=dict)
    """More tags, by number: type and values; None leaves a tag out."""

    def row(self, samples: NDArray[Any]) -> bytes:
        if self.bits % 8 == 0:
            return samples.astype(f"{self.endian}{' uif'[self.sample_format]}{self.bits // 8}").tobytes()
        return from_bits("".join(f"{int(sample):0{self.bits}b}" for sample in samples.ravel()))

    def part(self, samples: NDArray[Any]) -> bytes:
        """A strip or tile."""
        if self.predictor == 2:
            samples = np.diff(samples.astype(np.int64), axis=1, prepend=0) % (1 << self.bits)
        rows = [self.row(row) for row in samples]
        codec = CODECS[self.compression]
        data = b"".join(map(codec, rows)) if codec is packbits else codec(b"".join(rows))
        return data.translate(REVERSED) if self.fill_order == 2 else data

    def parts(self) -> list[bytes]:
        height, width, count = self.samples.shape
        planes = np.split(self.samples, count, axis=2) if self.planes else [self.samples]
        tall, wide = self.tile or (min(self.rows, height), width)
        parts = []
        for plane in planes:
            padded = plane
            if self.tile:
                padded = np.pad(plane, ((0, -height % tall), (0, -width % wide), (0, 0)))
            for top in range(0, padded.shape[0], tall):
                for left in range(0, padded.shape[1], wide):
                    parts.append(self.part(padded[top : top + tall, left : left + wide]))
        return parts

    def all_tags(self) -> dict[int, tuple[str, Sequence[int]]]:
        height, width, count = self.samples.shape
        tags: dict[int, tuple[str, Sequence[int]] | None] = {
            256: ("L", [width]),
            257: ("L", [height]),
            258: ("H", [self.bits] * count),
            259: ("H", [self.compression]),
            262: ("H", [self.colours]),
            266: ("H", [self.fill_order]),
            277: ("H", [count]),
            284: ("H", [1 + self.planes]),
            317: ("H", [self.predictor]),
            339: ("H", [self.sample_format] * count),
        }
        if self.extra:
            tags[338] = ("H", self.extra)
        if self.tile:
            tags |= {322: ("L", [self.tile[1]]), 323: ("L", [self.tile[0]])}
        else:
            tags[278] = ("L", [min(self.rows, height)])
        return {tag: value for tag, value in (tags | self.tags).items() if value is not None}

    def encode(self) -> bytes:
        """The bytes of the file: header, strips or tiles, directory, long tags."""
        data, offsets, parts = b"", [], self.parts()
        for part in parts:
            offsets.append(8 + len(data))
            data += part + b"\0" * (len(part) % 2)
        tags = self.all_tags()
        tags[324 if self.tile else 273] = ("L", offsets)
        tags[325 if self.tile else 279] = ("L", [len(part) for part in parts])
        directory = 8 + len(data)
        entries, rest, after = b"", b"", directory + 2 + 12 * len(tags) + 4
        for tag, (code, values) in sorted(tags.items()):
            raw = struct.pack(f"{self.endian}{len(values)}{code}", *values)
            if len(raw) > 4:
                rest, raw = rest + raw + b"\0" * (len(raw) % 2), struct.pack(f"{self.endian}L", after + len(rest))
            entries += struct.pack(f"{self.endian}HHL", tag, {"B": 1, "H": 3, "L": 4}[code], len(values))
            entries += raw.ljust(4, b"\0")
        header = struct.pack(f"{self.endian}2sHL", b"II" if self.endian == "<" else b"MM", 42, directory)
        count, end = struct.pack(f"{self.endian}H", len(tags)), struct.pack(f"{self.endian}L", 0)
        return header + data + count + entries + end + rest

    def shown(self) -> NDArray[np.float64] | None:
        """[H, W, 3] from 0 to 255 as a viewer shows it; None if the samples have no known range."""
        if self.sample_format != UNSIGNED or self.bits > 16:
            return None
        values = self.samples / ((1 << self.bits) - 1) * 255
        own = {COLOURS: 3, CMYK: 4}.get(self.colours, 1)
        pixels, alpha = values[..., :own], values[..., own : own + 1] / 255
        if self.colours == WHITE_IS_ZERO:
            pixels = 255 - pixels
        elif self.colours == CMYK:
            pixels = (255 - pixels[..., :3]) * (1 - pixels[..., 3:] / 255)
        elif self.colours == PALETTE:
            colour_map = self.tags[320]
            assert colour_map is not None
            pixels = np.reshape(colour_map[1], (3, -1)).T[self.samples[..., 0]] / 257
        if self.extra[:1] == (PREMULTIPLIED,):
            pixels = pixels + 255 * (1 - alpha)
        elif self.extra[:1] == (ALPHA,):
            pixels = pixels * alpha + 255 * (1 - alpha)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def random_tiff(bits: int, colours: int, extra: tuple[int, ...] = (), **options: Any) -> Tiff:
    """A picture of 9 x 7 pixels, all samples random."""
    rng = np.random.default_rng(bits)
    count = {COLOURS: 3, CMYK: 4, YCBCR: 3, LAB: 3}.get(colours, 1) + len(extra)
    shape, sample_format = (7, 9, count), options.get("sample_format", UNSIGNED)
    if sample_format == FLOAT:
        samples = rng.random(shape)
    elif sample_format == SIGNED:
        samples = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    else:
        samples = rng.integers(0, 1 << bits, shape)
        if extra[:1] == (PREMULTIPLIED,):
            own = count - len(extra)
            samples[..., :own] = samples[..., :own] * (samples[..., own : own + 1] / ((1 << bits) - 1))
    tags = {320: ("H", rng.integers(0, 65536, 3 << bits).tolist())} if colours == PALETTE else {}
    return Tiff(samples, bits, colours, extra, **({"tags": tags} | options))
