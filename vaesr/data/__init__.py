"""Real data: sources by name, packed uint8 banks, sampling on the device or from the host."""

from vaesr.data.bank import Bank, Entry, load_bank
from vaesr.data.blind import BlindPhoto, blind_photo, blind_photos, degrade
from vaesr.data.codes import CodeBank, read_codes, read_origin, smallest_integers, write_codes
from vaesr.data.degraded import DegradedSampler, crappification, fading, words_of
from vaesr.data.embedded import EMBEDDED
from vaesr.data.evaluation import evaluation_batches, photos
from vaesr.data.fathers import FatherSampler, Views
from vaesr.data.images import ImageSampler
from vaesr.data.loader import HostLoader
from vaesr.data.multi_scale import MultiScaleSampler
from vaesr.data.pairs import PairSampler
from vaesr.data.sampling import Sampler, batch_bytes, device_memory, fits_on_device
from vaesr.data.self_patches import SelfPatchSampler, has_gradients
from vaesr.data.shuffle import epoch_and_offset, shuffle_index
from vaesr.data.source import Source
from vaesr.data.sources import find_source, open_bank
from vaesr.data.splits import assign_splits, content_hash, split_name
from vaesr.data.squares import Square
from vaesr.data.subjective import RatedPair, SubjectiveDatabase, read_subjective
from vaesr.data.tables import ArraySampler, blundell_curve
from vaesr.data.tiles import tile_photos

__all__ = [
    "EMBEDDED",
    "ArraySampler",
    "Bank",
    "BlindPhoto",
    "CodeBank",
    "DegradedSampler",
    "Entry",
    "FatherSampler",
    "HostLoader",
    "ImageSampler",
    "MultiScaleSampler",
    "PairSampler",
    "RatedPair",
    "Sampler",
    "SelfPatchSampler",
    "Source",
    "Square",
    "SubjectiveDatabase",
    "Views",
    "assign_splits",
    "batch_bytes",
    "blind_photo",
    "blind_photos",
    "blundell_curve",
    "content_hash",
    "crappification",
    "degrade",
    "device_memory",
    "epoch_and_offset",
    "evaluation_batches",
    "fading",
    "find_source",
    "fits_on_device",
    "has_gradients",
    "load_bank",
    "open_bank",
    "photos",
    "read_codes",
    "read_origin",
    "read_subjective",
    "shuffle_index",
    "smallest_integers",
    "split_name",
    "tile_photos",
    "words_of",
    "write_codes",
]
