"""Pickles of the protocols 3 to 5, said in protocol 2, which is the one that PyTorch's safe reader knows.

Opcodes are replaced by older ones of the same meaning and nothing is executed. Whoever reads the result decides what is
allowed, as in any other file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

LEGACY_PICKLES = 5
"""A file of PyTorch before 1.6 is so many pickles, and after them the numbers."""

MAX_REPEATED = 1 << 27
"""Characters of strings that are repeated. A real file has few; one of two bytes can ask for any string again."""


def in_protocol_2(file: Path) -> BinaryIO:
    """A file by torch.save as it would be with `pickle_protocol=2`.

    Raises:
        Exception: of any kind, if it is not such a file.
        OSError: it cannot be read.
    """
    result = io.BytesIO()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as source, zipfile.ZipFile(result, "w") as target:
            for record in source.infolist():
                data = source.read(record)
                is_pickle = record.filename.endswith("/data.pkl")
                target.writestr(record.filename, _translated(io.BytesIO(data)) if is_pickle else data)
    else:
        with file.open("rb") as legacy:
            for _ in range(LEGACY_PICKLES):
                result.write(_translated(legacy))
            result.write(legacy.read())
    result.seek(0)
    return result


def _translated(file: BinaryIO) -> bytes:
    """The next pickle of a file.

    Strings are not memorised but repeated, for then the two that STACK_GLOBAL takes off the stack can be left out.
    """
    start = file.tell()
    ops = list(pickletools.genops(file))
    end = file.tell()
    file.seek(start)
    data = file.read(end - start)
    stops = [position for _, _, position in ops[1:]] + [start + len(data)]
    result: list[bytes] = []
    texts: list[str] = []  # those on top of the stack, each the last in `result`
    memo: dict[int, str | None] = {}
    repeated = 0
    arg: Any  # text, a number or nothing, as the opcode says
    for (op, arg, position), stop in zip(ops, stops, strict=True):
        assert position is not None
        assert stop is not None
        if op.name in ("FRAME", "PROTO"):
            continue
        if op.name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            texts.append(arg)
            result.append(_pushed(arg))
        elif op.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            key = len(memo) if op.name == "MEMOIZE" else arg
            memo[key] = texts[-1] if texts else None
            if not texts:
                result.append(pickle.LONG_BINPUT + struct.pack("<I", key))
        elif op.name in ("BINGET", "LONG_BINGET") and (text := memo.get(arg)) is not None:
            repeated += len(text)
            if repeated > MAX_REPEATED:
                raise pickle.UnpicklingError("more repeated text than a checkpoint has")
            texts.append(text)
            result.append(_pushed(text))
        elif op.name == "STACK_GLOBAL":
            module, name = texts[-2:]
            if "\n" in module + name:
                raise pickle.UnpicklingError("a global with a line break in its name")
            result[-2:] = [pickle.GLOBAL + f"{module}\n{name}\n".encode()]
            texts = []
        else:
            texts = []
            result.append(data[position - start : stop - start])
    return pickle.PROTO + b"\x02" + b"".join(result)


def _pushed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data
