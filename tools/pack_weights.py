"""Half the size of a checkpoint: `python -m tools.pack_weights runs/atto/model.pt atto_rooms.safetensors`."""

from __future__ import annotations

from pathlib import Path

import click

from spd.checkpoint import load_checkpoint, save_checkpoint
from spd.commands.cli import Command, note


@click.command(cls=Command)
@click.argument("checkpoint", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("packed", type=click.Path(dir_okay=False, path_type=Path))
def main(checkpoint: Path, packed: Path) -> None:
    """Write the weights of CHECKPOINT to PACKED (.safetensors) in float16; training state is left out."""
    import torch  # seconds to import

    if packed.suffix != ".safetensors":
        raise click.UsageError(f"{packed} ends in {packed.suffix!r}, expected .safetensors")
    loaded = load_checkpoint(checkpoint)
    save_checkpoint(packed, loaded.model, loaded.config, size=loaded.size, dtype=torch.float16)
    note(f"{packed}: {packed.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
