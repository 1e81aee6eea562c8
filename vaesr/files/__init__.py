"""Files on disk: whole or not there; images of every usual kind; where what is made once is kept."""

from vaesr.files.arrays import read_npz
from vaesr.files.atomic import atomic_file, cache_root, legible, scratch_folder, write_atomically
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
    "read_npz",
    "read_photo",
    "scratch_folder",
    "write_atomically",
    "write_photo",
]
