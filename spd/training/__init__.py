"""Training (paper 7): what `spd-train` runs. The loss is in `spd.utils.losses`, the data in `spd.data`."""
