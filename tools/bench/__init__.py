"""The benchmark: `python -m tools.bench`, ratios of times with their spread, on the machine at hand.

How it is measured, and why, stands in `tools.bench.report.FAULTS`, which every report repeats. Beyond that:

- A turn calls until `TURN_SECONDS` are over and counts the median of its calls. A call that takes longer is a turn.
- Median, 10th and 90th percentile are over the rounds' turns. Absolute times are context; ratios are the result.
- Each process is told the same number of threads.
- The rate of the machine is that of a large matrix product, measured every round as a row like the others.

Everything is measured at the graphs' own interface: a uint8 image of the right size in, depths out; no image files, no
letterbox. Only `--growth` goes through `scene.depth`.
"""
