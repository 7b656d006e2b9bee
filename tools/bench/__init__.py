"""The benchmark: `python -m tools.bench`, ratios of times with their spread, on the machine at hand.

How it is measured, and why:

- Each row (a network on a runtime, such as `spd/onnxruntime-cpu`) lives in a process of its own. That gives it a peak
  memory of its own and keeps thread pools apart: ONNX Runtime's threads spin for some 40 ms of processor time after a
  call, and would take it from whatever another library of the same process does next. It keeps its default, spinning,
  because that is what an application gets.
- The rows take turns: A B C, C B A, A B C ... A machine whose speed drifts then drifts for all of them, and ratios are
  taken within a round, between neighbours in time. Before a turn everybody is idle for `SETTLE_SECONDS`, until the last
  row's threads sleep.
- A turn calls until `TURN_SECONDS` are over and counts the median of its calls; the first does not count if there are
  more, since it finds caches full of the other rows' data. A call that takes longer than that is a turn.
- Median, 10th and 90th percentile are over the rounds' turns. Absolute times are context; ratios are the result.
- Each process is held to the same cores and is told the same number of threads.
- The rate of the machine is that of a large matrix product, measured every round as a row like the others.

Everything is measured at the graphs' own interface: a uint8 image of the right size in, depths out; no image files, no
letterbox. Only `--growth` goes through `scene.depth`.
"""
