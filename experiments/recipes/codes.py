"""What the experiments of vector-quantised autoencoders share: both stages, from images to samples."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import data, evaluators, inference, objectives, reports, runs, training
from vaesr.data.evaluation import evenly_spread
from vaesr.models.pixelcnn import PixelCNN
from vaesr.models.pixelsnail import PixelSNAIL
from vaesr.models.vqvae import VQVAE

_PLAYER, _PRIOR, _ENCODE = "vqvae", "prior", "encode"
_SAMPLES_SEED = 1


@dataclasses.dataclass(frozen=True)
class PriorConfig:
    """The autoregressive priors of the code maps, one training each."""

    # Gated PixelCNN, or PixelSNAIL with causal attention.
    kind: Literal["pixelcnn", "pixelsnail"] = "pixelcnn"
    # Training steps of each prior.
    steps: int = 4000
    # Code maps per step.
    batch_size: int = 64
    # Channels.
    channels: int = 64
    # Gated layers (PixelCNN), or residual blocks between two attentions (PixelSNAIL).
    layers: int = 6
    # PixelSNAIL: blocks with attention; levels below the top have none.
    blocks: int = 2
    # Side of the causal convolutions.
    kernel: int = 3
    # Share of features dropped in training.
    dropout: float = 0.1
    # Residual blocks over the code maps above, for levels below the top.
    condition_blocks: int = 2
    # Learn p(codes | class) where the data has labels.
    conditional: bool = True
    # Optimizer.
    optim: training.OptimConfig = training.OptimConfig(lr=1e-3, schedule="cosine")
    # Weight of the past in the moving average of the parameters; 0 keeps none.
    ema_decay: float = 0.999
    # Steps between evaluations and checkpoints.
    eval_every: int = 1000

    def __post_init__(self) -> None:
        sizes = ("steps", "batch_size", "channels", "layers", "blocks", "eval_every")
        runs.check_least(self, 1, *sizes, prefix="prior.")
        for name in ("dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--prior.{flag} must lie in [0, 1), got {getattr(self, name)}.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"--prior.kernel must be odd, got {self.kernel}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """An autoencoder with discrete codes, and priors of its codes."""

    # Autoencoder.
    model: Annotated[VQVAE, runs.Fixed("image_shape")] = VQVAE(channels=64, initial="kmeans")
    # Weight of the commitment loss.
    beta: float = 0.25
    # Optimizer of the autoencoder.
    optim: training.OptimConfig = training.OptimConfig()
    # Priors.
    prior: PriorConfig = PriorConfig()
    # Stop after the autoencoder; --resume --no-only-autoencoder goes on to the priors.
    only_autoencoder: bool = runs.changeable(False)
    # Photos of many sizes are cut into tiles of this side.
    tile: int = 32
    # Pixels from one training tile to the next.
    tile_stride: int = 16
    # Images of the validation split that each evaluation reads.
    eval_limit: int = 2000
    # Samples that the last stage draws, in rows of 10.
    samples: int = 100
    # Temperature of the priors' softmax when sampling.
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 1, "tile", "tile_stride", "eval_limit", "samples")
        if not self.beta >= 0 or not self.temperature > 0:
            raise ValueError(
                "--beta must be at least 0 and --temperature above 0, "
                f"got {self.beta} and {self.temperature}."
            )


def build(config: Config) -> Iterator[runs.Step]:
    """Autoencoder, codes, priors, samples; `config.workdir` is set."""
    assert config.workdir is not None
    yield runs.Stage("", config, build_autoencoder)
    if config.only_autoencoder:
        return
    run = runs.load_run(config.workdir)
    codes = _encode_once(config, run)
    folders = inference.prior_folders(config.workdir, codes.levels)
    for level, folder in enumerate(folders):
        prior = config.prior
        own = dataclasses.replace(
            config, steps=prior.steps, batch_size=prior.batch_size, eval_every=prior.eval_every,
            checkpoint_every=prior.eval_every, log_every=min(config.log_every, prior.steps),
        )  # fmt: skip
        yield runs.Stage(folder.name, own, functools.partial(_build_prior, run.model, codes, level))
    yield functools.partial(_finish, config, run, codes)


# --- Stage one ---


def build_autoencoder(config: Config) -> runs.Experiment:
    """Wire data, network, objective and evaluation of the autoencoder."""
    bank = _open(config)
    shape = bank.pixels.shape[1:]
    axis_name = "data" if config.parallel == "pmap" else None
    model = config.model.clone(
        image_shape=shape, dtype=jnp.dtype(config.compute_dtype), axis_name=axis_name
    )  # fmt: skip

    def apply(
        params: Any, variables: Any, images: jax.Array, key: jax.Array, position: jax.Array
    ) -> tuple[Any, Any]:
        return model.apply(
            {"params": params, **variables}, images,
            train=True, key=key, position=position, mutable=list(variables),
        )  # fmt: skip

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        found = dict(model.init(key, jnp.zeros((1, *shape), jnp.float32)))
        return {_PLAYER: found.pop("params")}, {_PLAYER: found}

    jax.eval_shape(init, jax.random.key(0))  # sizes that don't fit are refused here, in one line
    objective = objectives.vq_autoencoder(
        apply, beta=config.beta, data_variance=data_variance(bank), player=_PLAYER
    )
    evaluator = evaluators.CodeEvaluator(
        bank, model.clone(axis_name=None), limit=config.eval_limit, player=_PLAYER
    )
    return runs.Experiment(
        model=runs.describe_model(model.clone(axis_name=None)),
        init=init,
        players={
            _PLAYER: training.Player(objective, training.make_optimizer(config.optim, steps=config.steps))
        },
        sampler=data.ImageSampler(bank, "train", config.batch_size),
        evaluate=evaluator.evaluate,
        best_by="-mse",
        evaluate_test=evaluator.evaluate_test,
        figures=evaluator.figures,
    )


def _open(config: Config) -> data.Bank:
    """Images of one size: as they are, or tiles of photos."""
    bank = data.open_bank(config.data, strict=config.strict)
    return bank if bank.kind == "fixed" else data.tile_photos(bank, config.tile, stride=config.tile_stride)


def data_variance(bank: data.Bank) -> float:
    """Variance of the training images' values in [0, 1], which the error is measured in."""
    index = bank.split("train")
    index = np.sort(index[evenly_spread(len(index), 5000)])
    return float(np.var(bank.pixels[index].astype(np.float32) / 255))


# --- Codes ---


def _encode_once(config: Config, run: runs.Run) -> data.CodeBank:
    """The codes of all images, from disk if this very checkpoint made them."""
    assert config.workdir is not None
    path, origin = config.workdir / "codes", {"step": run.step, "data": config.data}
    todo = ""
    if jax.process_index() == 0:  # one decides for all, also while another still reads
        found = data.read_codes(path)
        if found is None or found.origin != origin:
            todo = _stale_priors(config.workdir, path, origin) or _ENCODE
    todo = training.from_first_process(todo)
    if todo not in ("", _ENCODE):
        raise runs.UserError(todo)
    if todo and jax.process_index() == 0:
        print("encoding every image once", flush=True)
        splits = evaluators.encode_splits(
            _open(config), lambda images: run.apply(images, method="encode"), run.model.code_count
        )
        data.write_codes(path, splits, origin)
    training.from_first_process("encoded")
    codes = data.read_codes(path)
    assert codes is not None
    return codes


def _stale_priors(workdir: pathlib.Path, path: pathlib.Path, origin: dict[str, Any]) -> str:
    """Why codes of this checkpoint may not be made beside the priors that are there; "" where they may."""
    stale = [folder for folder in workdir.glob("prior*") if (folder / "config.json").exists()]
    made_by = data.read_origin(path)
    if not stale or made_by == origin:  # damaged codes of this very checkpoint come out the same
        return ""
    if made_by is None:
        return f"{path} doesn't say any more what made it: put a copy back, or delete {workdir}/prior* first."
    return f"{stale[0]} was trained on codes of an earlier autoencoder; delete {workdir}/prior* first."


# --- Stage two ---


def _build_prior(autoencoder: VQVAE, codes: data.CodeBank, level: int, config: Config) -> runs.Experiment:
    """Wire codes, network, objective and evaluation of one level's prior."""
    arrays = {split: _level_arrays(codes, level, split, config) for split in codes.splits}
    model = _prior_model(autoencoder, codes, level, config)

    def apply(params: Any, maps: jax.Array, **given: Any) -> jax.Array:
        return model.apply({"params": params}, maps, **given)

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        one = {name: jnp.asarray(array[:1], jnp.int32) for name, array in arrays["train"].items()}
        given = objectives.conditions(one)
        return {_PRIOR: model.init(key, one["codes"], **given)["params"]}, {}

    bits = evaluators.CodeBits(apply)
    unigram = evaluators.unigram_bits(arrays["train"]["codes"], autoencoder.code_count)

    def evaluate(params: Any, variables: Any) -> dict[str, float]:
        found = bits.per_code(params[_PRIOR], arrays["validation"], limit=config.eval_limit)
        return {"bits_per_code": float(found.mean())}

    def evaluate_test(params: Any, variables: Any) -> dict[str, float]:
        found = {
            "bits_per_code": bits.per_code(params[_PRIOR], arrays["test"]),
            "unigram_bits_per_code": unigram(arrays["test"]["codes"]),
        }
        uniform = {"uniform_bits_per_code": math.log2(autoencoder.code_count)}
        return evaluators.means_with_errors(found) | uniform

    return runs.Experiment(
        model=runs.describe_model(model),
        init=init,
        players={
            _PRIOR: training.Player(
                objectives.autoregressive(apply, player=_PRIOR),
                training.make_optimizer(config.prior.optim, steps=config.steps),
            )
        },
        sampler=data.ArraySampler(arrays["train"], config.batch_size),
        evaluate=evaluate,
        best_by="-bits_per_code",
        evaluate_test=evaluate_test,
        figures=lambda params, variables, directory, step: None,
        ema_decay=config.prior.ema_decay or None,
    )


def _level_arrays(codes: data.CodeBank, level: int, split: str, config: Config) -> dict[str, np.ndarray]:
    """A level's code maps, the maps above it and, where wanted, the labels."""
    source = codes.splits[split]
    arrays = {"codes": source[f"codes_{level}"]}
    arrays |= {f"condition_{above}": source[f"codes_{above}"] for above in range(level)}
    if config.prior.conditional and "label" in source:
        arrays["label"] = source["label"]
    return arrays


def _prior_model(autoencoder: VQVAE, codes: data.CodeBank, level: int, config: Config) -> Any:
    prior, count = config.prior, autoencoder.code_count
    shapes = autoencoder.code_shapes
    classes = None
    if prior.conditional and "label" in codes.splits["train"]:
        classes = int(max(split["label"].max() for split in codes.splits.values())) + 1
    common = {
        "shape": shapes[level], "codes": count, "channels": prior.channels, "kernel": prior.kernel,
        "dropout": prior.dropout, "classes": classes, "condition": tuple((*s, count) for s in shapes[:level]),
        "condition_blocks": prior.condition_blocks, "dtype": jnp.dtype(config.compute_dtype),
    }  # fmt: skip
    if prior.kind == "pixelcnn":
        return PixelCNN(layers=prior.layers, **common)
    return PixelSNAIL(blocks=prior.blocks, layers=prior.layers, attention=level == 0, **common)


# --- Samples and the bound ---


def _finish(config: Config, run: runs.Run, codes: data.CodeBank) -> None:
    """Sample, and bound the bits that test images cost."""
    assert config.workdir is not None
    print("drawing samples", flush=True)
    priors = inference.load_priors(run)
    labels = inference.choose_labels(priors, config.samples, None)
    maps = inference.sample_code_maps(
        priors, config.samples, seed=_SAMPLES_SEED, labels=labels, temperature=config.temperature
    )
    by_class = "" if labels is None else " One class a column."
    for keep in range(len(maps), 0, -1):
        alone = "" if keep == len(maps) else f" The same codes, of the {keep} coarsest maps alone."
        reports.save_grid(
            config.workdir / "figures" / f"{3 + len(maps) - keep}_samples.png",
            inference.decode_maps(run, maps, keep=keep),
            columns=10,
            caption=f"Samples: codes from the priors, then the decoder.{by_class}{alone}",
        )
    results = _bound(config, run, priors, codes)
    with training.MetricsWriter(config.workdir) as writer:
        writer.write(run.step, "test", results)
    page = reports.write_report(config.workdir)
    print(reports.format_results(results))
    print(f"test split, autoencoder and priors. Look at {page}", flush=True)


def _bound(
    config: Config, run: runs.Run, priors: tuple[runs.Run, ...], codes: data.CodeBank
) -> dict[str, float]:
    """Bits of a test image: its codes under the priors, then its pixels given the codes."""
    found: dict[str, np.ndarray] = {}
    code_bits: np.ndarray | float = 0.0
    for level, (name, prior) in enumerate(zip(evaluators.level_names(len(priors)), priors, strict=True)):
        model = prior.model
        measure = evaluators.CodeBits(
            lambda params, maps, model=model, **given: model.apply({"params": params}, maps, **given)
        )
        arrays = _level_arrays(codes, level, "test", config)
        per_code = measure.per_code(prior.params[prior.player], arrays)
        found[f"bits_per_code_{name}" if len(priors) > 1 else "bits_per_code"] = per_code
        code_bits = code_bits + per_code * math.prod(run.model.code_shapes[level])
    bank = _open(config)
    pixel_bits = evaluators.pixel_bits(bank, lambda images: run.apply(images).reconstruction)
    dims = math.prod(bank.pixels.shape[1:])
    found["code_bits_with_prior"] = np.asarray(code_bits)
    found["bits_per_dim"] = (code_bits + pixel_bits) / dims  # both in the bank's order
    return evaluators.means_with_errors(found)
