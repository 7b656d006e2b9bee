"""Query points: read from a CSV file, or made on the spot."""

from spd.points.parsing import parse_points
from spd.points.patterns import Pattern, grid
from spd.points.reading import read_points
from spd.points.table import IMAGE_COLUMN, PointTable

__all__ = ["IMAGE_COLUMN", "Pattern", "PointTable", "grid", "parse_points", "read_points"]
