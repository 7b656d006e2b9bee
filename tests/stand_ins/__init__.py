"""Stand-ins for TensorRT, for the runtime of TensorRT for RTX and for CUDA on a machine without a GPU, for tests only.

What they prove. The code uses names, signatures and enum members that the real bindings of TensorRT 10.16 and 11.4
and the real cuda.core have (`test_surface.py`, in both directions). It sets profiles, shapes and addresses as TensorRT
asks for; checks what it is answered; synchronises before it reads; orders work on different streams by events; warms up
before it captures a graph and keeps a graph's memory alive; gives everything back, also when something fails; and
computes what ONNX Runtime computes from the same graphs.

What the inspector says of a bundle's graphs was recorded from TensorRT for RTX, NVIDIA's own compiler
(`test_record_rtx_layers.py` compares it with the one installed).

What they cannot prove. That TensorRT's parser takes the graphs and its kernels compute them rightly or in the asked
precision; which layers TensorRT itself fuses and what its inspector calls them; any time, and how much memory anything
takes; what a real plan, timing cache or progress report looks like; errors of the driver that stick to a context;
asynchronous host reads of pageable memory; more than one GPU. `tests/gpu` is for these.

Where the real thing's answer is not documented, the stand-in takes the stricter one: a corrupt timing cache is None,
one of another version is refused by `set_timing_cache`; a profile switch always clears the shapes; memory cannot be
allocated in a thread that captures a graph; tensors are aligned to 256 bytes; a replayed graph whose context changed
its shapes is a violation. Two contexts may use one profile: TensorRT has allowed that since 10.0
(PROFILE_SHARING_0806).

In tests: the fixtures of `stand_ins.fixtures`. In a process of its own, with `tests/` on PYTHONPATH and before the code
under test is imported: `from stand_ins import install; install("11.4.0.106")`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping
from operator import setitem
from types import ModuleType
from typing import Any

from stand_ins.fake_cuda import modules
from stand_ins.fake_tensorrt import tensorrt_module
from stand_ins.machine import Machine, switch_on
from stand_ins.trt_enums import RTX


def install(surface: str, put: Callable[[MutableMapping[str, ModuleType], str, ModuleType], Any] = setitem) -> Machine:
    """Put the stand-ins into `sys.modules`.

    Args:
        surface: a TensorRT version whose surface is recorded, such as 11.4.0.106, or `trt_enums.RTX`.
        put: sets an item of `sys.modules`; monkeypatch's takes it back after the test.

    Returns:
        The machine behind them.
    """
    tensorrt = tensorrt_module(surface)
    machine = Machine(tensorrt.__version__, surface)
    if surface == RTX:
        machine.gpu, machine.compute_capability = "NVIDIA GeForce RTX 4090", (8, 9)
    switch_on(machine)
    for name, module in {**modules(), tensorrt.__name__: tensorrt}.items():
        put(sys.modules, name, module)
    return machine
