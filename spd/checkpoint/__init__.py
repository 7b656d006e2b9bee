"""Checkpoints: weights on disk, and which network they are."""

from spd.checkpoint.checkpoint import (
    NETWORKS,
    Checkpoint,
    Network,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)

__all__ = ["NETWORKS", "Checkpoint", "Network", "load_checkpoint", "save_checkpoint", "weights_sha256"]
