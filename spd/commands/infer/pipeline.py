"""Images are read and encoded in threads, ahead of the queries: neither the disk nor the device waits for the other.

```
read     0 │ 1  2    │ 3       │ 4
encode     │ 0       │ 1       │ 2
query      │         │ 0       │ 1
```

Queries, and with them everything that is printed, stay in the caller's thread. An error comes out where its image would
have been, after the images before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from PIL import Image

from spd.runtime.ahead import one_ahead

if TYPE_CHECKING:
    from spd.runtime import Model, Scene

READ_AHEAD = 2
"""Images that are read at most while another is encoded; a large photo takes up to 450 MB."""

Item = TypeVar("Item")
Question = TypeVar("Question")
Read: TypeAlias = tuple[Question, Image.Image | None]
"""What is asked of an image, and the image; None if it could not be read and is not to be encoded."""


@dataclass(frozen=True)
class Encoded(Generic[Question]):
    """An encoded image. Its pixels are not kept."""

    question: Question
    """What is asked of the image."""
    scene: Scene | None
    """For the caller to close; None if there was no image."""
    seconds: float
    """How long it took to encode."""


def encoded_ahead(
    items: Sequence[Item],
    read: Callable[[Item], Read[Question]],
    load: Callable[[], AbstractContextManager[Model]],
) -> Generator[Encoded[Question], None, None]:
    """Read and encode images, and hand them out in order. Query a scene and close it, then ask for the next one.

    While the caller has one scene, one more is encoded, and up to `READ_AHEAD` images are read. A single image is
    handled without threads. Close the iterator when leaving it early: what has not begun is cancelled, and what has is
    waited for.

    Args:
        items: what `read` takes, one for each image.
        read: reads an image and finds out what is asked of it; runs in several threads at once.
        load: the model; called in the caller's thread once the first image was read, with nothing beside it.

    Raises:
        Exception: whatever `read`, `load` or the encoder raises, for the first image in order that failed; none is
            encoded after it.
    """
    if not items:
        return
    first = read(items[0])
    with load() as model:
        if len(items) == 1:
            yield _encode(model, first)
            return
        stop, waiting = threading.Event(), iter(items[1:])
        ready = [first]
        del first  # or its pixels would stay until the end
        with _threads() as threads:
            reading = deque(threads.submit(read, item) for item in islice(waiting, READ_AHEAD))

            def encode_when_read() -> Encoded[Question]:
                image_read = reading.popleft()
                reading.extend(threads.submit(read, item) for item in islice(waiting, 1))
                done = image_read.result()
                if stop.is_set():
                    raise CancelledError
                return _encode(model, done)

            def encodings() -> Iterator[Encoded[Question]]:
                yield _encode(model, ready.pop())
                while reading:
                    yield encode_when_read()

            with closing(one_ahead(encodings(), _discard, stop)) as coming:
                yield from coming


def _encode(model: Model, image_read: Read[Question]) -> Encoded[Question]:
    question, image = image_read
    start = time.perf_counter()
    scene = None if image is None else model.encode(image)
    if scene is not None:
        scene.wait()  # so that the time is the encoder's, and its faults are this image's
    return Encoded(question, scene, time.perf_counter() - start)


def _discard(encoded: Encoded[Question]) -> None:
    """Close the scene that nobody will take."""
    if encoded.scene is not None:
        encoded.scene.close()


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """One for each image to be read while another is encoded; what they have not begun is cancelled."""
    threads = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="spd-read")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
