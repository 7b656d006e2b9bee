"""Images from files, pipes and arrays, as a viewer shows them."""

from spd.images.header import Header, read_header
from spd.images.reading import FORMATS, GREY16_MODES, MAX_PIXELS, check_image, read_image
from spd.images.sources import ImageSource, is_pipe, read_to_end

__all__ = [
    "FORMATS",
    "GREY16_MODES",
    "MAX_PIXELS",
    "Header",
    "ImageSource",
    "check_image",
    "is_pipe",
    "read_header",
    "read_image",
    "read_to_end",
]
