"""The network in its training form, file by file and symbol by symbol as the paper writes it (its section 10.1).

Shape suffixes: B images, K points per image, N tokens or cells, C channels, D the core dimension d, H and W pixels or
cells. `h_BKD` is a tensor [B, K, D].
"""

from spd.models.precompute import Cache
from spd.models.spd import SPD, seeded

__all__ = ["SPD", "Cache", "seeded"]
