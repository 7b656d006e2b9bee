"""Which photos a job is about: folders, names with wildcards, lists, Parquet columns, here or in object storage."""

from __future__ import annotations

from collections.abc import Iterable

from pyarrow import ArrowInvalid, parquet

from spd.bulk.places import WILD, Place
from spd.commands.infer.images import SUFFIXES
from spd.errors import InputError, one_line

MAX_LIST_BYTES = 4 << 30
"""Most that is read of a list of photos: ten million names of 400 characters."""


def list_photos(arguments: Iterable[str]) -> list[str]:
    """The names of all photos, each once, in the order of the arguments; those of a folder sorted by name.

    Args:
        arguments: photos; folders, with the folders in them; names with `*`, `?`, `[...]` and `**`; `.txt` files with a
            photo in each line; `FILE.parquet:COLUMN`. Each is a path, or an address that pyarrow reads, such as
            s3://bucket/photos or gs://bucket/photos.

    Raises:
        InputError: an argument names no photo, or cannot be read. Whether each photo exists is not looked at.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        photos = _photos(argument)
        if not photos:
            raise InputError(f"{argument} names no photo; expected images ({', '.join(SUFFIXES[-7:])}, ...)")
        found.update(dict.fromkeys(photos))
    return list(found)


def _photos(argument: str) -> list[str]:
    place = Place(argument)
    file, colon, column = argument.rpartition(":")
    if colon and file.lower().endswith((".parquet", ".pq")):
        return _column(Place(file), column)
    if argument.lower().endswith((".parquet", ".pq")):
        raise InputError(f"{argument} is a table; name the column of its photos: {argument}:COLUMN")
    if argument.lower().endswith(".txt"):
        lines = place.read(MAX_LIST_BYTES).decode(errors="surrogateescape").splitlines()
        return [line.strip() for line in lines if line.strip()]
    if set(argument) & WILD and not (place.is_local and place.exists):
        return [found.name for found in place.matching() if _is_photo(found)]
    if place.is_folder:
        return [found.name for found in place.files(recursive=True) if _is_photo(found)]
    if not place.exists:
        raise InputError(f"{argument} does not exist; give a photo, a folder, a .txt list or FILE.parquet:COLUMN")
    return [argument]


def _is_photo(place: Place) -> bool:
    return place.name.lower().endswith(SUFFIXES)


def _column(place: Place, column: str) -> list[str]:
    system, path = place.opened()
    try:
        columns = parquet.read_schema(path, filesystem=system).names
        if column not in columns:
            raise InputError(f"{place.name} has no column {column}, only {', '.join(columns)}")
        names = parquet.read_table(path, columns=[column], filesystem=system)[column].to_pylist()
    except (OSError, ArrowInvalid) as error:
        raise InputError(f"{place.name} cannot be read: {one_line(error)}") from error
    names = [name for name in names if name is not None]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"the column {column} of {place.name} holds {wrong[0]!r}, expected paths of photos")
    return names
