"""What a vector-quantised autoencoder's codes are worth: errors, usage, and a PCA of the same size."""

import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import data, quantisation, reports
from vaesr.data.evaluation import evaluation_batch_size, evenly_spread
from vaesr.evaluators.means import function_of_mean, means_with_errors

_SHOWN = 12
# Enough images for the covariance of a few thousand pixels.
_PCA_IMAGES = 20_000


def level_names(levels: int) -> tuple[str, ...]:
    """Names of a hierarchy's code maps (of 1 level or more), the coarsest first.

    ("codes",), ("top", "bottom"), ("top", "middle", "bottom"), or numbers between top and bottom.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    if levels == 1:
        return ("codes",)
    between = ("middle",) if levels == 3 else tuple(f"middle{number}" for number in range(1, levels - 1))
    return ("top", *between, "bottom")


def code_statistics(
    codes: Sequence[np.ndarray], count: int, *, names: Sequence[str] | None = None
) -> dict[str, float]:
    """How a set's codes, one array of any shape per level, use the codebooks of `count` codes each.

    For each level `perplexity` and `usage_percent` (the share of codes that occur), with "_NAME" where there
    are several levels; the names are those of `level_names` by default.
    """
    names = level_names(len(codes)) if names is None else names
    found = {}
    for name, level in zip(names, codes, strict=True):
        counts = np.bincount(np.asarray(level).ravel(), minlength=count)
        suffix = f"_{name}" if len(codes) > 1 else ""
        found[f"perplexity{suffix}"] = float(quantisation.perplexity(jnp.asarray(counts)))
        found[f"usage{suffix}_percent"] = 100 * float(quantisation.usage(jnp.asarray(counts)))
    return found


def pca_errors(bank: data.Bank, bits: float, *, split: str = "test") -> dict[str, float]:
    """How well a principal component analysis describes images with as many bits per image, above 0.

    Fitted on the training split (at most 20,000 images), two ways of counting, both kind to it:

    - `pca_mse`: 8 bits per coefficient, taken as exact all the same: the first `bits / 8` components;
    - `pca_waterfilling_mse`: the least error that any code of `bits` bits on average can reach for Gaussian
      data of this covariance (reverse water-filling over the components' variances).

    Returns both mean squared errors per value, of images of the split in [0, 1], the first with its standard
    error, and `pca_components`.
    Source: Cover and Thomas, "Elements of Information Theory", theorem 10.3.3.
    """
    if not bits > 0:
        raise ValueError(f"bits must be above 0, got {bits}")
    train = bank.split("train")
    x = _vectors(bank, train[evenly_spread(len(train), _PCA_IMAGES)])
    mean = x.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(x - mean, rowvar=False))
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
    kept = min(max(int(bits // 8), 0), x.shape[1])
    centred = _vectors(bank, bank.split(split)) - mean
    left = np.square(centred).sum(axis=1) - np.square(centred @ directions[:, :kept]).sum(axis=1)
    return means_with_errors({"pca_mse": left / x.shape[1]}) | {
        "pca_components": float(kept),
        "pca_waterfilling_mse": water_filling(variances, bits) / x.shape[1],
    }


def _vectors(bank: data.Bank, index: np.ndarray) -> np.ndarray:
    return bank.pixels[np.sort(index)].reshape(len(index), -1).astype(np.float32) / np.float32(255)


def water_filling(variances: np.ndarray, bits: float) -> float:
    """The distortion-rate function of independent Gaussians of variances `[n]`, at least 0 and not all 0.

    The least sum of squared errors at a rate of so many bits, at least 0: every component keeps the smaller
    of its variance and a water level, and costs half the binary logarithm of their ratio. Source: Cover and
    Thomas, "Elements of Information Theory", theorem 10.3.3.
    """
    positive = np.asarray(variances, np.float64)
    positive = positive[positive > 0]
    low, high = 0.0, float(positive.max())
    for _ in range(200):
        level = 0.5 * (low + high)
        rate = 0.5 * np.log2(np.maximum(positive / max(level, 1e-300), 1.0)).sum()
        low, high = (level, high) if rate > bits else (low, level)
    return float(np.minimum(positive, high).sum())


class CodeEvaluator:
    """Measures a vector-quantised autoencoder and draws what it makes of images of one size.

    The model has `__call__`, `decode`, `code_shapes` and `code_count`, such as `VQVAE`; `player` is its name
    in `params` and `variables`. Each evaluation reads `limit` images of the validation split.
    """

    def __init__(self, bank: data.Bank, model: Any, *, limit: int, player: str = "vqvae") -> None:
        self.bank, self.model, self.limit, self.player = bank, model, limit, player
        self.names = level_names(len(model.code_shapes))
        self._reconstruct = jax.jit(model.apply)
        self._decode = jax.jit(
            lambda collections, codes, keep: model.apply(collections, codes, keep=keep, method="decode"),
            static_argnums=2,
        )
        self._codes: list[np.ndarray] = []

    @property
    def code_bits(self) -> float:
        """Bits of an image's codes at log2 K each."""
        places = sum(math.prod(shape) for shape in self.model.code_shapes)
        return places * math.log2(self.model.code_count)

    def evaluate(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """Errors and code usage on the validation split.

        `mse` of images in [0, 1] and `psnr_db` of the mean error, with their standard errors over images, and
        `code_statistics`.
        """
        return self._measure(params, variables, "validation", self.limit)

    def evaluate_test(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """Errors on the test split beside a PCA of the same size, and code usage over an epoch.

        As `evaluate`, with `pca_errors`, `code_bits_per_image`, and the `epoch_` figures of the whole
        training split.
        """
        epoch = self._measure(params, variables, "train", None)
        results = self._measure(params, variables, "test", None)
        results |= {"code_bits_per_image": self.code_bits} | pca_errors(self.bank, self.code_bits)
        return results | {
            f"epoch_{name}": v for name, v in epoch.items() if name.startswith(("usage", "perplexity"))
        }

    def figures(self, params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        """Draw reconstructions, from the coarsest codes alone too, and how often each code occurs."""
        collections = self._collections(params, variables)
        batch = next(data.evaluation_batches(self.bank, "validation", _SHOWN, limit=_SHOWN))
        count = int(batch["mask"].sum())
        codes = [level.codes for level in self._reconstruct(collections, batch["image"]).quantised]
        rows, labels = [batch["image"][:count]], ["image"]
        for keep in range(1, len(codes) + 1):
            rows.append(np.asarray(self._decode(collections, tuple(codes), keep))[:count].clip(0, 1))
            labels.append(" + ".join(self.names[:keep]) if len(codes) > 1 else "from codes")
        picture = reports.labelled_grid(np.concatenate(rows), columns=count, row_labels=labels)
        words = ", from the coarsest code map alone and from all of them" if len(codes) > 1 else ""
        reports.save_image(
            directory / "1_reconstructions.png",
            picture,
            caption=f"Validation images and their reconstructions from codes{words}.",
        )
        if self._codes:
            reports.plot_panels(self._usage_panels(), directory / "2_usage.png", caption=_USAGE)

    def _usage_panels(self) -> list[reports.Panel]:
        panels = []
        for name, codes in zip(self.names, self._codes, strict=True):
            counts = np.sort(np.bincount(codes.ravel(), minlength=self.model.code_count))[::-1]
            share = counts / counts.sum() * self.model.code_count
            # Hundreds of points: lines without markers.
            line = reports.Line("used", np.arange(len(share)), share, dashed=True)
            even = reports.Line("evenly", np.arange(len(share)), np.ones(len(share)), dashed=True)
            panels.append(reports.Panel(name, "code, by frequency", "times its even share", [line, even]))
        return panels

    def _collections(self, params: dict[str, Any], variables: Any) -> dict[str, Any]:
        return {"params": params[self.player], **variables.get(self.player, {})}

    def _measure(
        self, params: dict[str, Any], variables: Any, split: str, limit: int | None
    ) -> dict[str, float]:
        collections = self._collections(params, variables)
        squares: list[np.ndarray] = []
        codes: list[list[np.ndarray]] = [[] for _ in self.names]
        for batch in data.evaluation_batches(self.bank, split, evaluation_batch_size(self.bank), limit=limit):
            held = batch["mask"] > 0
            output = self._reconstruct(collections, batch["image"])
            error = np.asarray(jnp.clip(output.reconstruction, 0, 1)) - batch["image"]
            squares.append(np.square(error[held], dtype=np.float64).mean(axis=(1, 2, 3)))
            for level, quantised in zip(codes, output.quantised, strict=True):
                level.append(np.asarray(quantised.codes)[held])
        self._codes = [np.concatenate(level) for level in codes]
        found = means_with_errors({"mse": np.concatenate(squares)})
        found |= function_of_mean(
            found, "mse", "psnr_db",
            lambda mse: -10 * math.log10(max(mse, 1e-12)),
            lambda mse: -10 / math.log(10) / max(mse, 1e-12),
        )  # fmt: skip
        return found | code_statistics(self._codes, self.model.code_count)


_USAGE = "How often each code occurs, in units of its even share: a dead code lies at 0."


def encode_splits(
    bank: data.Bank, encode: Callable[[np.ndarray], Sequence[jax.Array]], count: int
) -> dict[str, dict[str, np.ndarray]]:
    """Encode every image of a bank into what `data.write_codes` takes, with `count` codes in each codebook.

    `encode`, compiled, maps `images [B, H, W, C]`, always as many, to code maps, the coarsest first.
    """
    kind = data.smallest_integers(count)
    splits = {}
    for split in bank.splits:
        parts = list(_encoded(bank, split, encode))
        splits[split] = {
            name: np.concatenate([part[name] for part in parts]).astype(
                kind if name.startswith("codes_") else np.int32
            )
            for name in parts[0]
        }
    return splits


def _encoded(
    bank: data.Bank, split: str, encode: Callable[[np.ndarray], Sequence[jax.Array]]
) -> Iterator[dict[str, np.ndarray]]:
    for batch in data.evaluation_batches(bank, split, evaluation_batch_size(bank)):
        held = batch["mask"] > 0
        part: dict[str, np.ndarray] = {n: batch[n][held] for n in ("index", "label") if n in batch}
        for number, level in enumerate(encode(batch["image"])):
            part[f"codes_{number}"] = np.asarray(level)[held]
        yield part
