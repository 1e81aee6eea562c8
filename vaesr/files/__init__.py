"""Files on disk: whole or not there; images of every usual kind; where what is made once is kept."""

from vaesr.files.atomic import atomic_file, cache_root, legible, write_atomically
from vaesr.files.decode import decode_image
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.files.opening import ImageFileError

__all__ = [
    "ImageFileError",
    "Photo",
    "atomic_file",
    "cache_root",
    "decode_image",
    "legible",
    "read_photo",
    "write_atomically",
    "write_photo",
]
