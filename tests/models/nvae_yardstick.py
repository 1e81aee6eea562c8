"""The digits on which the authors' code of NVAE was measured, for `python -m experiments.nvae yardstick`.

    python tests/models/nvae_yardstick.py FOLDER
    python -m experiments.nvae yardstick --data npy:FOLDER        # NELBO 103.27 and bound 96.70 were theirs
    python -m experiments.nvae yardstick_flows --data npy:FOLDER  # 102.15 and 96.40

Of the embedded digits the first 450 of each class train, as grey values; of the last 50 the bits that they
were tested on. Validation, which chooses nothing of the figures, has other bits of the same 500.
"""

import pathlib
import sys

import numpy as np

from vaesr.data.embedded import read_digits

_BITS = pathlib.Path(__file__).parent / "nvae_official" / "test_binarised.npz"


def write(folder: pathlib.Path) -> None:
    """`train.npy`, `validation.npy` and `test.npy`."""
    images, labels = read_digits("digits")
    members = [np.flatnonzero(labels == label) for label in range(10)]
    first, last = (
        np.concatenate(parts) for parts in zip(*((m[:450], m[450:]) for m in members), strict=True)
    )
    with np.load(_BITS) as archive:
        bits = np.unpackbits(archive["bits"], axis=1).reshape(-1, 32, 32)[:, 2:-2, 2:-2]
    # The bits are drawn of the last images, in whichever order: none is on where its image is black.
    other = np.random.default_rng(0).random(images[last].shape) < images[last] / 255
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("train", images[first]), ("validation", other), ("test", bits.astype(bool))):
        np.save(folder / f"{name}.npy", array)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
