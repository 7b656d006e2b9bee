"""Checkpoints: weights on disk, and which network they are."""

from spd.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_sha256
from spd.checkpoint.fitting import NETWORKS, Network

__all__ = ["NETWORKS", "Checkpoint", "Network", "load_checkpoint", "save_checkpoint", "weights_sha256"]
