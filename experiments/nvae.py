"""NVAE (Vahdat & Kautz 2020): a deep hierarchical VAE, with all of its recipe.

    python -m experiments.nvae                           # 4,000 real MNIST digits
    python -m experiments.nvae fashion --data idx:FOLDER # Fashion-MNIST, latents at 8x8 and 4x4
    python -m experiments.nvae yardstick                 # small, as the authors' code was measured
    python -m experiments.nvae paper --data tfds:mnist   # and paper_cifar10, paper_celeba64, ...

KL warm-up with balanced groups, spectral and batch-norm regularisation, Adamax with the authors' schedule.
The report shows samples at several temperatures, what the first groups alone decide, what each group carries,
and the training images nearest to samples.

Expected: a test bound above -95 nats. Measured: ELBO -96.8 ± 0.9, 100-sample bound -91.9 ± 0.9 nats (±
standard error over 500 digits); 25 min on one CPU core.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.recipes import adversarial, images
from vaesr import data, evaluators, objectives, reports, runs, training
from vaesr.distributions import example_keys, example_normal
from vaesr.models import nvae, nvae_cells
from vaesr.models.nvae import NVAE
from vaesr.models.pixel_outputs import OF_LEVELS
from vaesr.objectives import Draws

_SAMPLES_SEED = 1  # the same samples at every evaluation
_PLAYER = "nvae"


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised beside the reconstruction error."""

    # Share of the training over which the weight of the KL grows from 1e-4 to 1.
    kl_warmup: float = 0.3
    # Weigh the groups' KLs so that all come into use, while the weight grows.
    balance: bool = True
    # Weight of the kernels' spectral norms and the batch normalisations' scales.
    spectral: float = 0.01
    # Weight that this one falls from, logarithmically, while the weight of the KL grows; 0: it is constant.
    spectral_start: float = 0.0
    # Binary pixels of grey ones: drawn anew at every step, drawn once per image, or grey > 0.5; "auto" is
    # "dynamic" for Bernoulli pixels and "none" for the others.
    binarisation: Literal["auto", "dynamic", "fixed", "threshold", "none"] = "auto"

    def __post_init__(self) -> None:
        runs.check_least(self, 0, "kl_warmup", "spectral", "spectral_start", prefix="objective.")
        if self.spectral_start and not self.spectral:
            raise ValueError("--objective.spectral-start needs --objective.spectral, which it falls to.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """An NVAE on one set of images."""

    # Network.
    model: Annotated[NVAE, runs.Fixed("image_shape")] = NVAE()
    # Training objective.
    objective: ObjectiveConfig = ObjectiveConfig()
    # Optimizer; "epochs" of --optim.schedule are those of --optim.epoch steps.
    optim: training.OptimConfig = training.OptimConfig()
    # Side in pixels that images are cut and resized to, as squares; 0 takes them as they are.
    side: int = 0
    # Pixels that are cut off before, at the left, top, right and bottom.
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    # Mirror half of the training images.
    flips: bool = False
    # Decay of the parameters' moving average, which is then what is evaluated; 0 keeps none.
    ema_decay: float = 0.0
    # Samples per example of the importance-weighted bound at the end.
    bound_samples: int = 100
    # Drawings of the test images' bits that the bounds at the end are averaged over.
    drawings: int = 8
    # Examples of the validation split that each evaluation reads.
    eval_limit: int = 500
    # Network by whose features samples and test images are compared (Frechet and kernel distance): vgg16,
    # vgg19 or vgg16-bn, see vaesr convert; none by default.
    features: str = ""
    # Standard deviations of the latents, times the prior's, that samples are shown with.
    temperatures: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4)

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 1, "bound_samples", "drawings", "eval_limit")
        runs.check_least(self, 0, "side")
        if min(self.margins) < 0 or (any(self.margins) and not self.side):
            raise ValueError(f"--margins must be at least 0 and needs --side, got {self.margins}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be from 0 to less than 1, got {self.ema_decay}.")
        if self.model.likelihood != "bernoulli" and self.objective.binarisation not in ("auto", "none"):
            raise ValueError(
                f"--model.likelihood {self.model.likelihood} needs --objective.binarisation none, got "
                f"{self.objective.binarisation}."
            )


def _optim(epoch: int, warmup: int, **fields: Any) -> training.OptimConfig:
    """The authors' optimizer: epochs of so many steps, so many of them warm-up."""
    usual: dict[str, Any] = {"lr": 1e-2, "final": 0.01, "eps": 1e-3, "l2": 3e-4} | fields
    return training.OptimConfig(name="adamax", schedule="epochs", epoch=epoch, warmup=warmup * epoch, **usual)


# What the authors' code was run with on such digits: NELBO 103.3 and bound 96.7 without flows.
_YARDSTICK = Config(
    data="embedded:digits", steps=700, batch_size=64, eval_every=140, checkpoint_every=140, log_every=35,
    dtype="float32", drawings=1,
    model=NVAE(
        (28, 28, 1), 16, (2, 2), 8, pre_blocks=1, pre_cells=1, encoder_cells=1, decoder_cells=1, remat="none"
    ),
    optim=_optim(70, 1),
)  # fmt: skip
_DEFAULT = dataclasses.replace(
    _YARDSTICK, steps=1860, eval_every=310, checkpoint_every=310, log_every=31, dtype="auto", drawings=2,
    optim=_optim(62, 1),
)  # fmt: skip

# As in the paper's network for MNIST the finest latents are 8x8, so that all cells are cheap; an hour.
_FASHION = dataclasses.replace(
    _DEFAULT, data="tfds:fashion_mnist", steps=5400, eval_every=900, checkpoint_every=900, drawings=1,
    model=_DEFAULT.model.clone(groups=(3, 2), pre_blocks=2), bound_samples=30, optim=_optim(540, 1),
)  # fmt: skip


def _network(preset: str, **fields: Any) -> NVAE:
    """A published network; the images' shape is the data's."""
    return nvae.PRESETS[preset].clone(image_shape=NVAE.image_shape, **fields)


def _paper(
    preset: str, data: str, batch: int, epochs: int, images: int, warmup: int = 5, **fields: Any
) -> Config:
    """Of the paper's table 6: epochs of so many images."""
    epoch = images // batch
    return Config(
        data=data, steps=epochs * epoch, batch_size=batch, eval_every=10 * epoch, checkpoint_every=epoch,
        model=_network(preset), optim=_optim(epoch, warmup, **fields.pop("optim", {})),
        bound_samples=1000, **fields,
    )  # fmt: skip


_FALLING = ObjectiveConfig(spectral=0.01, spectral_start=1.0)
# Without a warm-up, whose first step moves nothing.
_BENCH = dataclasses.replace(
    _YARDSTICK,
    data="random:60000x28x28x1",
    objective=ObjectiveConfig(binarisation="none"),
    optim=_optim(70, 0),
)
# One scale of the paper's CIFAR-10 network, at its width: a stack of two groups.
_BENCH_CIFAR = dataclasses.replace(
    _BENCH, data="random:50000x32x32x3", batch_size=4, flips=True,
    model=_network("cifar10", groups=(2,)),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _YARDSTICK, steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10,
        bound_samples=5, eval_limit=64, temperatures=(1.0, 0.6), optim=_optim(10, 1),
        model=NVAE(
            (28, 28, 1), 7, (2,), 15, pre_blocks=1, pre_cells=1, encoder_cells=1, decoder_cells=1, flows=1,
            remat="none",
        ),
    ),
    "default": _DEFAULT,
    "fashion": _FASHION,
    "yardstick": _YARDSTICK,
    "yardstick_flows": dataclasses.replace(_YARDSTICK, model=_YARDSTICK.model.clone(flows=1)),
    "paper": _paper("mnist", "tfds:mnist", 400, 400, 54_000),
    "paper_cifar10": _paper(
        "cifar10", "tfds:cifar10", 256, 400, 45_000, flips=True, objective=ObjectiveConfig(spectral=0.01)
    ),
    "paper_celeba64": _paper(
        "celeba64", "tfds:celeb_a", 128, 90, 162_770, side=64, margins=(15, 40, 15, 30), flips=True,
        objective=ObjectiveConfig(spectral=0.1),
    ),
    "paper_imagenet32": _paper(
        "imagenet32", "tfds:downsampled_imagenet/32x32", 576, 45, 1_281_149, 1, flips=True, objective=_FALLING
    ),
    "paper_celebahq256": _paper(
        "celebahq256", "folder:CelebA-HQ", 96, 300, 27_000, side=256, flips=True, objective=_FALLING
    ),
    "paper_ffhq256": _paper(
        "ffhq256", "folder:FFHQ", 96, 200, 63_000, side=256, flips=True, optim={"lr": 8e-3, "final": 0.0125},
        objective=ObjectiveConfig(spectral=0.1, spectral_start=1.0),
    ),
    # What benchmarks measure.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(_BENCH, batch_size=400, dtype="auto", model=NVAE()),
    "bench_cifar": _BENCH_CIFAR,
    "bench_cifar_accelerator": dataclasses.replace(
        _BENCH_CIFAR, batch_size=32, dtype="auto", model=_network("cifar10")
    ),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, network, objective and evaluation."""
    few = config.model.bits < 8 and config.model.likelihood in OF_LEVELS
    square = None
    if config.side or few:
        square = data.Square(config.side, config.margins, config.model.bits if few else 8)
    bank = images.open_images(config, square)
    axis_name = "data" if config.parallel == "pmap" else None
    model = config.model.clone(
        image_shape=bank.pixels.shape[1:], dtype=jnp.dtype(config.compute_dtype), axis_name=axis_name
    )
    alone = model.clone(axis_name=None)  # outside of `pmap`
    binarisation = _binarisation(config)
    likelihood = _likelihood(model)

    encode, decode, draw = (_apply(alone, method) for method in ("encode", "decode", "draw"))
    bound = functools.partial(objectives.evaluate_bound, encode, decode, likelihood, draw=draw)
    # One sample of a batch at a time: the maps of a network like this take gigabytes.
    measure = evaluators.compile_bound(bound, binarisation=binarisation, chunk_pixels=1)
    evaluate = functools.partial(evaluators.mean_bounds, bank, measure)
    group_kl = evaluators.compile_group_kl(_apply(alone, "forward"), binarisation=binarisation)

    def evaluate_test(params: dict[str, Any], variables: Any) -> dict[str, float]:
        weights = _weights(params, variables)
        drawings = config.drawings if binarisation == "dynamic" else 1
        how: dict[str, Any] = {"samples": config.bound_samples, "drawings": drawings, "errors": True}
        results = evaluate(weights, "test", **how)
        results |= _by_the_authors_edges(bank, bound, model, weights, how)
        if config.features:
            results |= _distances(config, bank, alone, weights)
        kls = evaluators.group_kls(bank, group_kl, weights, "test")
        return results | {"active_groups": float(evaluators.count_active(kls))}

    return runs.Experiment(
        model=runs.describe_model(alone),
        init=functools.partial(_init, alone),
        players={
            _PLAYER: training.Player(
                _objective(config, model, likelihood),
                training.make_optimizer(config.optim, steps=config.steps),
            )
        },
        sampler=data.ImageSampler(bank, "train", config.batch_size, flips=config.flips),
        evaluate=lambda params, variables: evaluate(
            _weights(params, variables), "validation", samples=1, limit=config.eval_limit
        ),
        best_by="elbo_nats",
        evaluate_test=evaluate_test,
        figures=_figures(bank, alone, config, group_kl),
        ema_decay=config.ema_decay or None,
    )


def _likelihood(model: NVAE, *, edges: str = "exact") -> objectives.Likelihood:
    return images.likelihood_of(model.likelihood, mixtures=model.mixtures, bits=model.bits, edges=edges)


def kl_weight(config: Config, step: Any) -> jax.Array:
    """The weight of the KL: constant for a moment, then growing, from 1e-4 (the authors' code)."""
    length = max(config.objective.kl_warmup * config.steps, 1e-9)
    return jnp.clip((step - 1e-4 * config.steps) / length, 1e-4, 1.0)


def spectral_weight(config: Config, step: Any) -> jax.Array:
    """The weight of the regularisation, which falls log-linearly as the KL's grows."""
    first, last = config.objective.spectral_start, config.objective.spectral
    if not first:
        return jnp.float32(last)
    share = kl_weight(config, step)
    return jnp.exp((1.0 - share) * math.log(first) + share * math.log(last))


def _objective(config: Config, model: NVAE, likelihood: objectives.Likelihood) -> objectives.Objective:
    def draw(weights: Any, pixels: jax.Array, keys: jax.Array, indices: jax.Array) -> Draws:
        """All of the network in one pass, whose statistics move."""
        mine = {name: weights[name] for name in ("params", "batch_stats")}
        (outputs, log_ratio, kl), new = model.apply(
            mine, pixels, keys, indices, True, method="forward", mutable=["batch_stats"]
        )
        others = {name: tree for name, tree in weights.items() if name != "params"}
        return Draws(outputs, log_ratio, kl, others | new)

    objective = objectives.elbo(
        lambda weights, pixels: pixels,
        lambda weights, outputs: outputs,
        likelihood,
        draw=draw,
        player=_PLAYER,
        beta=functools.partial(kl_weight, config),
        binarisation=_binarisation(config),
        balance=model.balance if config.objective.balance else None,
        axis_name=model.axis_name,
    )
    if not config.objective.spectral:
        return objective
    return objectives.spectrally_regularised(
        objective,
        nvae_cells.kernels,
        nvae_cells.norm_scales,
        player=_PLAYER,
        weight=functools.partial(spectral_weight, config),
    )


def _binarisation(config: Config) -> str:
    return images.binarisation_of(config.objective.binarisation, config.model.likelihood)


def _apply(model: NVAE, method: str) -> Any:
    return lambda weights, *inputs: model.apply(weights, *inputs, method=method)


def _weights(params: dict[str, Any], variables: Any) -> dict[str, Any]:
    """What `model.apply` takes first."""
    return {"params": params[_PLAYER], "batch_stats": variables[_PLAYER]["batch_stats"]}


def _init(model: NVAE, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
    made = model.init(key, jnp.zeros((1, *model.image_shape), jnp.float32))
    vectors = objectives.start_spectral(nvae_cells.kernels(made["params"]), key=jax.random.fold_in(key, 1))
    own = {"batch_stats": made["batch_stats"], objectives.VECTORS: vectors}
    return {_PLAYER: made["params"]}, {_PLAYER: own}


def _by_the_authors_edges(
    bank: data.Bank, bound: Any, model: NVAE, weights: Any, how: dict[str, Any]
) -> dict[str, float]:
    """The bits per dimension by the authors' 8-bit likelihood, whose last two levels overlap."""
    if model.likelihood not in ("logistic_mixture", "discretised_logistic") or model.bits != 8:
        return {}
    theirs = functools.partial(
        objectives.evaluate_bound, *bound.args[:2], _likelihood(model, edges="nvae"), **bound.keywords
    )
    measure = evaluators.compile_bound(theirs, binarisation="none", chunk_pixels=1)
    found = evaluators.mean_bounds(bank, measure, weights, "test", **{**how, "samples": 1})
    names = ("bits_per_dim", reports.error_name("bits_per_dim"))
    return {f"nvae_edges_{name}": found[name] for name in names if name in found}


def _distances(config: Config, bank: data.Bank, model: NVAE, weights: Any) -> dict[str, float]:
    """Of as many samples as there are test images, at most 10,000, to these."""
    network, variables, _ = adversarial.load_features(config, "last_relu")
    count, batch_size = min(len(bank.split("test")), 10_000), 100
    if count < 2:
        return {}

    @jax.jit
    def embed(pixels: jax.Array) -> jax.Array:
        batch, height, width, _ = pixels.shape
        (maps,) = network.apply(variables, jnp.broadcast_to(pixels, (batch, height, width, 3)))
        return maps.mean(axis=(1, 2))

    @jax.jit
    def sample(weights: Any, position: jax.Array) -> jax.Array:
        noise = example_normal(example_keys(jax.random.key(_SAMPLES_SEED), position), (model.latent,))
        return jnp.clip(model.apply(weights, noise, method="mean_image"), 0.0, 1.0)

    places = np.array_split(np.arange(count), -(-count // batch_size))
    samples = (np.asarray(sample(weights, jnp.resize(place, batch_size)))[: len(place)] for place in places)
    return evaluators.feature_distances(samples, bank, "test", embed, limit=count)


def _figures(bank: data.Bank, model: NVAE, config: Config, group_kl: Any) -> Any:
    """The function that draws samples, what groups decide and carry, reconstructions and neighbours."""
    binarisation = _binarisation(config)
    to_image = jax.jit(
        lambda weights, noise: jnp.clip(model.apply(weights, noise, method="mean_image"), 0, 1)
    )
    through_code = jax.jit(lambda weights, x: jnp.clip(model.apply(weights, x, method="reconstruct"), 0, 1))
    features = jax.jit(lambda weights, x: model.apply(weights, x, method="encode")[-1])
    first_pixel = np.cumsum((0, *model.latents))  # of each group's noise, nearest to the data first

    def draw(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        weights = _weights(params, variables)
        rows = 8
        noise = jax.random.normal(jax.random.key(_SAMPLES_SEED), (rows**2, model.latent))
        for i, temperature in enumerate(config.temperatures):
            samples = np.asarray(to_image(weights, temperature * noise))
            reports.save_grid(
                directory / f"1_samples_{i + 1}.png", samples, columns=rows,
                caption=f"Samples at temperature {temperature:g}: the mean of p(x | z).",
            )  # fmt: skip
            if i == 0:
                evaluators.save_neighbours(
                    directory / "5_neighbours.png", samples[:10], bank, functools.partial(features, weights),
                    what="the encoder's coarsest features",
                )  # fmt: skip
        _save_first_groups(directory / "4_first_groups.png", weights, noise[:rows])
        batch = next(evaluators.split_batches(bank, "validation", limit=config.eval_limit))
        held = np.asarray(batch["mask"], bool)
        shown = evaluators.measured_images(batch, binarisation=binarisation)[held][:20]
        reports.save_image(
            directory / "2_reconstructions.png",
            reports.reconstruction_figure(shown, through_code(weights, shown)),
            caption="Validation images over their reconstructions, by the means of all posteriors.",
        )
        kls = evaluators.group_kls(bank, group_kl, weights, "validation", limit=config.eval_limit)
        sides = [shape[0] for shape in model.latent_shapes]
        evaluators.save_group_figure(
            directory / "3_groups.png", kls[::-1], sides[::-1], of_images="validation images"
        )

    def _save_first_groups(path: pathlib.Path, weights: Any, noise: jax.Array) -> None:
        """A row for each number of groups drawn, from the top; the rest are at their prior's mean."""
        total = len(model.latents)
        counts = sorted({round(n) for n in np.linspace(0, total, min(total, 8) + 1)})
        shown = []
        for count in counts:
            silent = first_pixel[total - count]  # all that is nearer to the data
            shown.append(np.asarray(to_image(weights, noise.at[:, :silent].set(0.0))))
        labels = [f"{count} of {total}" for count in counts]
        grid = reports.labelled_grid(np.concatenate(shown), columns=len(noise), row_labels=labels)
        caption = (
            "The first groups drawn, from the top, and all others at their prior's mean; a column a draw."
        )
        reports.save_image(path, grid, caption=caption)

    return draw


if __name__ == "__main__":
    runs.main(PRESETS, build)
