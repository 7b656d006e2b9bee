"""Stand-in for the builder's configuration: profiles, options, timing cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stand_ins.machine import current
from stand_ins.trt_enums import Dims, NoConstructor, enum, expect, whole
from stand_ins.trt_logging import ILogger, say
from stand_ins.trt_progress import IProgressMonitor

CACHE_MAGIC = b"TRTC"


class IHostMemory(bytes):
    """Bytes behind a buffer protocol and nothing else, as in the real bindings: no len(), no slices."""

    _offered = ("dtype", "nbytes")

    def __init__(self, *_: Any) -> None:
        raise TypeError("tensorrt.IHostMemory: No constructor defined!")

    @classmethod
    def _make(cls, data: bytes) -> IHostMemory:
        return bytes.__new__(cls, data)

    def __getattribute__(self, name: str) -> Any:
        if name in IHostMemory._offered or name.startswith("__"):
            return super().__getattribute__(name)
        raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute {name!r}")

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return memoryview(self).nbytes

    @property
    def dtype(self) -> Any:
        """Type of the bytes."""
        return enum("DataType").INT8

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("tensorrt.IHostMemory has the buffer protocol only; take memoryview() or bytes() of it")

    __len__ = __getitem__ = __iter__ = __add__ = __contains__ = _refuse


class ITimingCache(NoConstructor):
    """What was timed before: a set of layers."""

    @classmethod
    def _make(cls, version: str, gpu: str, keys: Sequence[str]) -> ITimingCache:
        made = cls.__new__(cls)
        made._version, made._gpu, made._keys = version, gpu, set(keys)
        return made

    _version: str
    _gpu: str
    _keys: set[str]

    def serialize(self) -> IHostMemory:
        """For the next build."""
        document = {"version": self._version, "gpu": self._gpu, "keys": sorted(self._keys)}
        return IHostMemory._make(CACHE_MAGIC + json.dumps(document).encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Add another cache's entries."""
        if input_cache._version != self._version or (input_cache._gpu != self._gpu and not ignore_mismatch):
            return False
        self._keys |= input_cache._keys
        return True

    def reset(self) -> bool:
        """Forget everything."""
        self._keys.clear()
        return True


class IOptimizationProfile(NoConstructor):
    """Ranges of shapes, one for each dynamic input."""

    @classmethod
    def _make(cls) -> IOptimizationProfile:
        made = cls.__new__(cls)
        made._shapes = {}
        return made

    _shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - the real names
        """Set the range of an input.

        Raises:
            RuntimeError: sizes that decrease, or ranks that differ.
        """
        shapes = (tuple(Dims(min)), tuple(Dims(opt)), tuple(Dims(max)))
        for which, (smaller, larger) in (("opt", shapes[:2]), ("max", shapes[1:])):
            if len(smaller) != len(larger) or any(a > b for a, b in zip(smaller, larger, strict=True)):
                raise RuntimeError(f"Shape provided for {which} is inconsistent with other shapes.")
        if any(size < 0 for size in shapes[0]):
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[Dims]:  # noqa: A002 - the real name
        """Smallest, best and largest shape; empty if none is set."""
        return [Dims(shape) for shape in self._shapes.get(input, ())]


class IBuilderConfig(NoConstructor):
    """How to build. TF32 is on by default, as in TensorRT."""

    @classmethod
    def _make(cls, logger: ILogger) -> IBuilderConfig:
        made = cls.__new__(cls)
        made._logger, made._profiles, made._cache, made._monitor = logger, [], None, None
        made._flags = 1 << int(enum("BuilderFlag").TF32)
        made._pools = {}
        made._level, made.max_aux_streams, made.avg_timing_iterations = 3, -1, 1
        made._verbosity = enum("ProfilingVerbosity").LAYER_NAMES_ONLY
        made._hardware = enum("HardwareCompatibilityLevel").NONE
        return made

    _logger: ILogger
    _profiles: list[IOptimizationProfile]
    _cache: ITimingCache | None
    _monitor: IProgressMonitor | None
    _flags: int
    _pools: dict[Any, int]
    _level: int
    _verbosity: Any
    _hardware: Any
    max_aux_streams: int
    avg_timing_iterations: int

    @property
    def flags(self) -> int:
        """Bits of BuilderFlag."""
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = whole(value)

    def set_flag(self, flag: Any) -> None:
        """Set a flag."""
        self._flags |= 1 << int(expect(flag, "BuilderFlag"))

    def clear_flag(self, flag: Any) -> None:
        """Clear a flag."""
        self._flags &= ~(1 << int(expect(flag, "BuilderFlag")))

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self._flags >> int(expect(flag, "BuilderFlag")) & 1)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Limit a pool, in bytes."""
        self._pools[expect(pool, "MemoryPoolType")] = whole(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        """Limit of a pool in bytes; by default all of the device's memory."""
        return self._pools.get(expect(pool, "MemoryPoolType"), current().memory.capacity)

    @property
    def builder_optimization_level(self) -> int:
        """0 to 5."""
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        if 0 <= whole(value) <= 5:
            self._level = value
        else:
            say(self._logger, "ERROR", f"IBuilderConfig::setBuilderOptimizationLevel: {value} is not within [0, 5].")

    @property
    def profiling_verbosity(self) -> Any:
        """What the inspector will know."""
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._verbosity = expect(value, "ProfilingVerbosity")

    @property
    def hardware_compatibility_level(self) -> Any:
        """On which other GPUs the plan runs."""
        return self._hardware

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, value: Any) -> None:
        self._hardware = expect(value, "HardwareCompatibilityLevel")

    @property
    def progress_monitor(self) -> IProgressMonitor | None:
        """Who hears of progress."""
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: IProgressMonitor | None) -> None:
        if value is not None and not (isinstance(value, IProgressMonitor) and getattr(value, "_made", False)):
            raise TypeError(f"tensorrt.IProgressMonitor.__init__() must be called by {value!r}")
        self._monitor = value

    @property
    def num_optimization_profiles(self) -> int:
        """Profiles that were added."""
        return len(self._profiles)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Add a profile; its index, or -1 for one without shapes."""
        if not profile._shapes:
            say(self._logger, "ERROR", "IBuilderConfig::addOptimizationProfile: the profile is not valid.")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache | None:
        """A cache from bytes, a new one from none; None for damaged bytes."""
        data = bytes(serialized_timing_cache)
        if not data:
            return ITimingCache._make(current().version, current().gpu, ())
        try:
            if not data.startswith(CACHE_MAGIC):
                raise ValueError("wrong magic")
            document = json.loads(data[len(CACHE_MAGIC) :])
            return ITimingCache._make(document["version"], document["gpu"], document["keys"])
        except (ValueError, KeyError) as error:
            say(self._logger, "ERROR", f"IBuilderConfig::createTimingCache: the timing cache is corrupt ({error}).")
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Use a cache; False for one of another version, or another GPU unless that is to be ignored."""
        if not isinstance(cache, ITimingCache):
            raise TypeError(f"incompatible function arguments: expected tensorrt.ITimingCache, got {cache!r}")
        machine = current()
        if cache._version != machine.version or (cache._gpu != machine.gpu and not ignore_mismatch):
            say(self._logger, "WARNING", f"The timing cache of TensorRT {cache._version} on {cache._gpu} does not fit.")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """The cache in use; None if none was set."""
        return self._cache
