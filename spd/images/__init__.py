"""Images from files, as a viewer shows them."""

from spd.images.reading import GREY16_MODES, MAX_PIXELS, ImageSource, check_image, read_image

__all__ = ["GREY16_MODES", "MAX_PIXELS", "ImageSource", "check_image", "read_image"]
