"""What a query needs of the host: `python -m tools.bench.host BUNDLE`.

It is a process of its own, without torch: what else is loaded moves the figures by some bytes.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np

import spd

CALLS, WARM_UP = 64, 8


def count_host(path: Path) -> dict[str, int]:
    """What `scene.depth` allocates in steady state, on ONNX Runtime's CPU provider in float32."""
    model = spd.load(path, "onnxruntime-cpu", precision="fp32", threads=1)
    height, width = model.size
    scene = model.encode(np.zeros((height, width, 3), dtype=np.uint8))
    points = np.random.default_rng(0).uniform((0, 0), (width, height), size=(256, 2))

    def peak(count: int) -> int:
        """Most bytes in use during a call, beyond those before it."""
        for _ in range(WARM_UP):
            scene.depth(points[:count])
        tracemalloc.start()
        try:
            peaks = []
            for _ in range(3):
                gc.collect()
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                scene.depth(points[:count])
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
        return min(peaks)

    def left_over(calls: int) -> int:
        """Python's memory blocks after some calls, beyond those before them."""
        gc.collect()
        gc.disable()  # or cycles would be collected, or not, as it happens
        try:
            before = sys.getallocatedblocks()
            for _ in range(calls):
                scene.depth(points[:16])
            return sys.getallocatedblocks() - before
        finally:
            gc.enable()

    left_over(4 * CALLS)  # until then lists of free objects may still grow, by some 200 blocks in all
    return {
        # The difference of two K leaves out what does not grow with K: it differs between versions of Python.
        "host_bytes_per_point": round((peak(256) - peak(128)) / 128),
        # Likewise what the counting itself leaves, a few. Whole blocks: lists of free objects still grow by some
        # dozens, where a block that every call leaves comes to 1.
        "retained_blocks_per_call": int((left_over(3 * CALLS) - left_over(CALLS)) / (2 * CALLS)),
    }


if __name__ == "__main__":
    print(json.dumps(count_host(Path(sys.argv[1]))))
