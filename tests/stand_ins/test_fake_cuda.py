"""CUDA's stand-in runs work in order, later, and finds what a GPU would only corrupt."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from stand_ins.machine import Machine
from stand_ins.small_graph import PIXELS, Session, host, plan, reference, small_graph


@pytest.fixture
def core(tensorrt_11: Machine) -> Any:
    from cuda import core  # only the fixture puts it there

    core.Device(0).set_current()
    return core


@pytest.fixture
def session(tensorrt_11: Machine) -> Any:
    import tensorrt as trt  # only the fixture puts it there

    session = Session.of(tensorrt_11, plan(trt, small_graph()))
    session.write("image", np.zeros((1, *PIXELS), np.uint8))
    session.write("points", np.ones((1, 4, 2), np.float32))
    return session


def captured(session: Session) -> Any:
    assert session.enqueue()
    builder = session.stream.create_graph_builder().begin_building()
    assert session.enqueue()
    graph = builder.end_building().complete()
    builder.close()
    return graph


def test_copies_run_when_somebody_waits_and_are_counted(tensorrt_11: Machine, core: Any) -> None:
    stream = core.Device(0).create_stream()
    pinned = core.LegacyPinnedMemoryResource()
    source, target = pinned.allocate(1024), pinned.allocate(1024)
    device = core.Device(0).allocate(1024, stream=stream)
    other = core.DeviceMemoryResource(0).allocate(1024, stream=stream)
    host(source, np.uint8)[:] = 7
    source.copy_to(device, stream=stream)
    device.copy_to(other, stream=stream)
    other.copy_to(target, stream=stream)
    event = stream.record()
    assert not (host(target, np.uint8) == 7).any()
    assert not event.is_done
    event.sync()
    assert (host(target, np.uint8) == 7).all()
    assert event.is_done
    counts = tensorrt_11.counts
    kinds = ("host-to-device", "device-to-device", "device-to-host")
    assert [counts.copied(kind) for kind in kinds] == [[1024], [1024], [1024]]
    assert (tensorrt_11.live_buffers, tensorrt_11.live_bytes) == (4, 2048)
    for buffer in (source, target, device, other):
        buffer.close()
        buffer.close()
        assert buffer.handle == 0
    assert tensorrt_11.live_buffers == 0
    with pytest.raises(ValueError, match="sizes mismatch"):
        pinned.allocate(8).copy_to(pinned.allocate(16), stream=stream)


def test_memory_is_given_back_by_the_garbage_collector_too(tensorrt_11: Machine, core: Any) -> None:
    stream = core.Device(0).create_stream()
    buffer = core.Device(0).allocate(64, stream=stream)
    assert tensorrt_11.live_buffers == 1
    del buffer
    assert tensorrt_11.live_buffers == 0


def test_freed_memory_is_found_out(tensorrt_11: Machine, core: Any) -> None:
    stream = core.Device(0).create_stream()
    resource = core.DeviceMemoryResource(0)
    buffer, target = (resource.allocate(64, stream=stream) for _ in range(2))
    address = buffer.handle
    buffer.copy_to(target, stream=stream)
    buffer.close()
    stream.sync()
    assert tensorrt_11.violations == []
    stale = core.Buffer.from_handle(address, 64)
    stale.copy_to(target, stream=stream)
    with pytest.raises(Exception, match="ILLEGAL_ADDRESS"):
        stream.sync()
    with pytest.raises(Exception, match="was freed"):
        resource.deallocate(address, 64, stream=stream)
    assert len(tensorrt_11.violations) == 1
    tensorrt_11.violations.clear()


def test_two_streams_need_an_event_between_them(tensorrt_11: Machine, core: Any) -> None:
    first, second = (core.Device(0).create_stream() for _ in range(2))
    a, b, c = (core.Device(0).allocate(64, stream=first) for _ in range(3))
    a.copy_to(b, stream=first)
    second.wait(first.record())
    b.copy_to(c, stream=second)
    assert tensorrt_11.violations == []
    a.copy_to(c, stream=first)
    assert ["race" in rule for rule in tensorrt_11.violations] == [True]
    tensorrt_11.violations.clear()
    second.sync()
    first.sync()
    b.copy_to(c, stream=second)
    assert tensorrt_11.violations == []
    b.close()
    assert ["race: free" in rule for rule in tensorrt_11.violations] == [True]
    tensorrt_11.violations.clear()
    second.sync()


def test_an_event_is_recorded_again_and_destroyed(core: Any) -> None:
    """Who waits for it waits for what it stood for then."""
    first, second = (core.Device(0).create_stream() for _ in range(2))
    a, b = (core.Device(0).allocate(64, stream=first) for _ in range(2))
    event = core.Device(0).create_event()
    event.sync()
    second.wait(event)
    a.copy_to(b, stream=first)
    first.record(event)
    second.wait(event)
    event.close()
    b.copy_to(a, stream=second)
    second.sync()
    for use in (event.sync, lambda: first.record(event), lambda: second.wait(event)):
        with pytest.raises(Exception, match="the event is closed"):
            use()


def test_what_comes_after_failed_work_is_dropped(session: Session) -> None:
    session.machine.faults.execution = 1
    assert session.enqueue()
    event = session.stream.record()
    with pytest.raises(Exception, match="ILLEGAL_ADDRESS"):
        session.stream.sync()
    assert event.is_done
    session.stream.sync()
    session.close()


def test_pinned_memory_must_outlive_its_copy(tensorrt_11: Machine, core: Any) -> None:
    stream = core.Device(0).create_stream()
    device = core.Device(0).allocate(64, stream=stream)
    pinned = core.LegacyPinnedMemoryResource().allocate(64)
    pinned.copy_to(device, stream=stream)
    pinned.close()
    assert "pinned memory is freed while host-to-device copy" in tensorrt_11.violations[0]
    tensorrt_11.violations.clear()


def test_every_thread_makes_the_device_current(core: Any) -> None:
    stream = core.Device(0).create_stream()
    failures: list[Exception] = []

    def work() -> None:
        try:
            stream.sync()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "INVALID_CONTEXT" in str(failures[0])


def test_a_graph_replays_with_the_data_of_its_launch(session: Session) -> None:
    graph = captured(session)
    points = np.random.default_rng(3).standard_normal((1, 4, 2)).astype(np.float32)
    session.write("points", points)
    graph.launch(session.stream)
    depth, _ = reference(np.zeros((1, *PIXELS), np.uint8), points)
    np.testing.assert_allclose(session.read("depth", np.float32), depth[0], rtol=1e-6)
    events = session.machine.counts.events
    assert (events["launches"], events["captures"], events["enqueues"]) == (1, 1, 2)
    graph.close()
    session.close()
    assert (events["live_graphs"], session.machine.live_buffers) == (0, 0)


def test_capture_needs_an_enqueue_before(session: Session) -> None:
    builder = session.stream.create_graph_builder().begin_building()
    assert not session.enqueue()
    with pytest.raises(RuntimeError, match="must now be ended"):
        builder.end_building()
    with pytest.raises(RuntimeError, match="not finished"):
        builder.complete()
    with pytest.raises(Exception, match="CAPTURE_INVALIDATED"):
        builder.close()
    captured(session)
    session.close()


def test_what_a_capture_does_not_allow(session: Session) -> None:
    assert session.enqueue()
    pool = session.core.DeviceMemoryResource(0)
    for forbidden in (session.stream.sync, lambda: pool.allocate(8, stream=session.stream)):
        builder = session.stream.create_graph_builder().begin_building()
        assert session.enqueue()
        with pytest.raises(Exception, match="CAPTURE_UNSUPPORTED"):
            forbidden()
        with pytest.raises(RuntimeError, match="must now be ended"):
            builder.end_building()
        with pytest.raises(Exception, match="CAPTURE_INVALIDATED"):
            builder.close()
        del builder  # or it ends the next capture, as the real one does
    session.machine.faults.capture = 1
    builder = session.stream.create_graph_builder().begin_building()
    with pytest.raises(Exception, match="planned fault"):
        builder.end_building()
    with pytest.raises(Exception, match="ILLEGAL_STATE"):
        builder.close()
    assert session.enqueue()
    session.stream.sync()
    session.close()


def test_a_graph_must_not_outlive_its_memory_or_its_shapes(session: Session) -> None:
    graph, machine = captured(session), session.machine
    session.shape(1, 2)
    assert session.enqueue()
    graph.launch(session.stream)
    session.stream.sync()
    assert "shapes have changed" in machine.violations.pop()
    session.buffers["points"].close()
    with pytest.raises(Exception, match="freed since its capture"):
        graph.launch(session.stream)
    assert "freed since its capture" in machine.violations.pop()
    session.close()
    with pytest.raises(Exception, match="freed since its capture"):
        graph.launch(session.stream)
    machine.violations.clear()


def test_one_context_runs_on_one_stream_at_a_time(session: Session) -> None:
    other = session.core.Device(0).create_stream()
    assert session.enqueue()
    assert session.context.execute_async_v3(int(other.handle))
    assert any("race" in rule and "context memory" in rule for rule in session.machine.violations)
    session.machine.violations.clear()
    other.sync()
    session.close()


def test_the_driver_copies_parts_of_buffers(tensorrt_11: Machine, core: Any) -> None:
    from cuda.bindings import driver, runtime  # only the fixture puts it there

    stream = core.Device(0).create_stream()
    device = core.Device(0).allocate(64, stream=stream)
    source = np.arange(16, dtype=np.uint8)
    target = np.zeros(16, dtype=np.uint8)
    kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    assert runtime.cudaMemcpyAsync(device.handle + 8, source.ctypes.data, 16, kind, stream.handle)[0] == 0
    assert driver.cuMemcpyDtoHAsync(target.ctypes.data, device.handle + 8, 16, stream.handle)[0] == 0
    assert int(driver.cuMemcpyDtoHAsync(target.ctypes.data, device.handle + 60, 16, stream.handle)[0]) != 0
    stream.sync()
    np.testing.assert_array_equal(target, source)
    free, total = runtime.cudaMemGetInfo()[1:]
    assert total - free == 64
    tensorrt_11.memory.capacity = 100
    with pytest.raises(Exception, match="OUT_OF_MEMORY"):
        core.Device(0).allocate(64, stream=stream)
