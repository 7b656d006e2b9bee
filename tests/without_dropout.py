"""`spd-train` with networks that have no dropout, whose noise differs from process to process."""

from dataclasses import replace

from spd.config import PRESETS

for name, config in PRESETS.items():
    PRESETS[name] = replace(config, dropout=0.0)

if __name__ == "__main__":
    from spd.train import main

    main()
