"""NYU Depth V2, one module for each layout in which people have it."""

from spd.data.nyu.dataset import TRAIN_BOX, NyuPairs, Split, open_nyu

__all__ = ["TRAIN_BOX", "NyuPairs", "Split", "open_nyu"]
