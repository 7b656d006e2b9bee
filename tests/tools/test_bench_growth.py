"""Growth: exponents by hand, tables, and a small run on the exported bundle."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from bench_support import ABOUT

import tools.bench.growth
from tools.bench.growth import grow
from tools.bench.growth_report import Growth, GrowthReport, Line, exponents, growth_table
from tools.bench.run import Options
from tools.bench.spread import Spread


def line(at: str, amount: float, encode: float, decode: float, points: int) -> Line:
    def same(ms: float) -> Spread:
        return Spread(ms, ms, ms, 3)

    return Line(at, amount, same(encode), same(decode), points, 36.0, 500.0, 20.0)


def test_exponents_by_hand() -> None:
    assert exponents([1, 4, 16], [3.0, 12.0, 192.0]) == [None, pytest.approx(1.0), pytest.approx(2.0)]
    assert exponents([5], [1.0]) == [None]


def test_tables() -> None:
    points = Growth("K", "Points", (line("16", 16, 600, 4, 16), line("64", 64, 600, 8, 64)))
    assert growth_table(points).splitlines()[2:] == [
        "| 16 | 4.00 (4.00–4.00) | 250 |  | 500 |",
        "| 64 | 8.00 (8.00–8.00) | 125 | 0.50 | 500 |",
    ]
    batch = Growth("batch", "Batch", (line("1", 1, 600, 40, 256), line("2", 2, 1200, 160, 256)))
    assert growth_table(batch).splitlines()[3] == (
        "| 2 | 36.0 | 1,200 (1,200–1,200) | 1.00 | 160 (160–160) | 312 | 2.00 | 500 | 20.0 |"
    )


def test_a_report() -> None:
    made = GrowthReport((Growth("K", "Points, small", (line("16", 16, 600, 4, 16),)),), (), ABOUT, ("a note",))
    text = made.markdown()
    assert "## Points, small" in text
    assert "- a note" in text
    assert "Not measured" not in text
    document = made.as_dict()
    assert document["growth"]["K"][0]["decode_ms"]["median"] == 4
    assert document["machine"]["cpu"] == "a processor"


def test_a_bundle_grows(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.bench.growth, "QUICK_COUNTS", (1, 600))  # more than the 512 that it takes at once
    monkeypatch.setattr(tools.bench.growth, "POINTS", 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    said: list[str] = []
    options = Options("tiny", exported, (), (), 2, None, tmp_path, quick=True, command="test")
    report = grow(options, said.append)
    assert not report.skipped
    assert [part.grows for part in report.parts] == ["K", "batch"], "the size is the bundle's"
    points, batch = report.parts
    assert [one.at for one in points.lines] == ["1", "600"]
    assert "160x192" in points.title
    assert "512" in points.title
    one, many = points.lines
    assert many.decode_ms.median > one.decode_ms.median
    assert many.peak_mb >= one.peak_mb > 30
    assert (one.scene_mb, one.encode_gmac) == (pytest.approx(1.122048), pytest.approx(0.47044224))
    assert [one.amount for one in batch.lines] == [1, 2]
    assert batch.lines[1].encode_gmac == pytest.approx(2 * 0.47044224)
    assert batch.lines[1].scene_mb == pytest.approx(2 * 1.122048)
    assert all(math.isfinite(one.encode_ms.median) for part in report.parts for one in part.lines)
    assert any("B = 2" in text for text in said)
