"""What the experiments of super-resolution GANs share: the generator alone, then against a discriminator."""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.recipes import restoration
from experiments.recipes.restoration import Params, initial, start_from
from vaesr import data, evaluators, losses, objectives, pretrained, reports, runs, training
from vaesr.imaging import imresize
from vaesr.imaging.colour import IMAGENET_DEVIATION, IMAGENET_MEAN
from vaesr.models.feature_networks import VGG
from vaesr.pretrained import FeatureWeights

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
_RANDOM, _RANDOM_VGG19 = "random", "random-vgg19"
WHOLE = 192  # pixels a side of a photo that a strip shows whole
PixelLoss = Callable[[jax.Array, jax.Array], jax.Array]
Init = Callable[[jax.Array], tuple[Params, Params]]
WarmStart = Callable[[Params, Params], tuple[Params, Params]]


@dataclasses.dataclass(frozen=True)
class GanConfig:
    """The second stage: generator against discriminator."""

    # Training steps.
    steps: int
    # Optimizer of both players.
    optim: training.OptimConfig
    # Steps between evaluations and checkpoints.
    eval_every: int = 1000
    # Kind of adversarial loss.
    kind: Literal["standard", "least_squares", "hinge", "relativistic_average"] = "relativistic_average"
    # Weight of the generator's adversarial loss.
    adversarial_weight: float = 5e-3
    # Weight of its pixel loss.
    pixel_weight: float = 1e-2
    # Weight of its content loss.
    content_weight: float = 1.0
    # Decay of the parameters' moving average; 0 keeps none.
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        runs.check_least(self, 1, "steps", "eval_every", prefix="gan.")
        runs.check_least(self, 0, "adversarial_weight", "pixel_weight", "content_weight", prefix="gan.")
        restoration.check_decay(self.ema_decay, "--gan.ema-decay")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoration.Config):
    """An upscaler trained on photographs, first alone, then against a discriminator."""

    RENAMED: ClassVar[dict[str, str]] = {
        "judge": "perceptual_metric",
        **{f"gan.{name}": f"discriminator.{name}" for name in ("channels", "hidden")},
    }

    # Whose features the content loss compares: vgg16 (fetched once with pip), vgg19 or vgg16-bn (bring
    # torchvision's file: vaesr convert vgg19 --trunk FILE), a file of vaesr convert; "random" is for tests,
    # "random-vgg19" for benchmarks.
    features: str = "vgg16"
    # Measured beside PSNR, and what chooses a GAN's checkpoint: LPIPS with AlexNet, which nothing is trained
    # with, or nothing.
    perceptual_metric: Literal["lpips-alex", "none"] = "lpips-alex"


def own_config(config: Any, stage: Any, *, ema_decay: float = 0.0) -> Any:
    """The configuration of a later stage's training: the whole run's, with that stage's steps."""
    return dataclasses.replace(
        config, steps=stage.steps, eval_every=stage.eval_every, checkpoint_every=stage.eval_every,
        log_every=min(config.log_every, stage.steps), ema_decay=ema_decay, init_from=None,
    )  # fmt: skip


def perceptual_metrics(config: Config) -> dict[str, evaluators.Metric]:
    """The metrics beside PSNR and SSIM, by name; none with `--perceptual-metric none`."""
    if config.perceptual_metric == "none":
        return {}
    return evaluators.perceptual_metrics(pretrained.find_lpips(config.perceptual_metric))


def make_evaluator(
    config: Config, bank: data.Bank, generator: nn.Module, label: str
) -> evaluators.PhotoEvaluator:
    """What is measured of a generator, LPIPS too where it is wanted."""
    others = perceptual_metrics(config)
    return restoration.make_evaluator(
        config, bank, generator, player=GENERATOR, label=label, extra_metrics=others
    )


def build_alone(
    config: Config, generator: nn.Module, *, label: str, pixel_loss: PixelLoss = losses.l1_loss
) -> runs.Experiment:
    """The first stage: the generator by pixels alone."""
    upscale = objectives.in_training(generator.apply)
    objective = objectives.restoration(upscale, player=GENERATOR, pixel_loss=pixel_loss)
    return restoration.build(
        config, generator, label=label, player=GENERATOR, objective=objective,
        extra_metrics=perceptual_metrics(config),
    )  # fmt: skip


def load_features(config: Config, layer: str) -> tuple[VGG, Any, str]:
    """The content loss's network: the module, its variables and what it is, in words.

    `layer` is a name such as "conv5_4"; or "last", the network's last convolution; "last_relu", what the ReLU
    makes of it; "before_pooling", the ReLUs before the third, fourth and fifth pooling. A layer that it does
    not have is a UserError.
    """
    dtype = jnp.dtype(config.compute_dtype)
    if config.features == _RANDOM:
        # For tests alone, where every run must not fetch 64 MB; two small stages.
        model = VGG((1, 1), ("conv2_1",), dtype=dtype, conv_form="auto")
        return model, model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))), "random features"
    weights: FeatureWeights = (
        _random_vgg19() if config.features == _RANDOM_VGG19 else pretrained.find_features(config.features)
    )
    ends = tuple(f"relu{stage}_{depth}" for stage, depth in enumerate(weights.depths, 1))
    special = {"last": weights.layers[-2:-1], "last_relu": ends[-1:], "before_pooling": ends[2:]}
    layers = special.get(layer, (layer,))
    if not set(layers) <= set(weights.layers):
        raise runs.UserError(f"{weights.name} has no layer {layer!r}; it has {', '.join(weights.layers)}.")
    model = VGG(
        weights.depths, layers, mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION, dtype=dtype,
        conv_form="auto",
    )  # fmt: skip
    needed = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))["params"]
    params = {name: weights.variables["params"][name] for name in needed}
    source = ", ".join(f"{file} sha256 {digest[:12]}" for file, digest in weights.origin.items())
    source = source or "random weights"
    return model, {"params": params}, f"{', '.join(layers)} of {weights.name.upper()} ({source})"


@functools.cache
def _random_vgg19() -> FeatureWeights:
    """VGG19 without what it has learned: for benchmarks, which ask for its work alone."""
    depths = (2, 2, 4, 4, 4)
    model = VGG(depths, ("conv5_4",))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))["params"]
    rng = np.random.default_rng(0)

    def fill(leaf: Any) -> np.ndarray:
        spread = np.float32((2 / max(1, math.prod(leaf.shape[:-1]))) ** 0.5 if len(leaf.shape) > 1 else 0)
        return spread * rng.standard_normal(leaf.shape, np.float32)

    return FeatureWeights("vgg19", {"params": jax.tree.map(fill, shapes)}, {})


def build(
    config: Config,
    gan: GanConfig,
    generator: nn.Module,
    discriminator: nn.Module | None,
    *,
    label: str,
    first: pathlib.Path,
    layer: str | None,
    distance: PixelLoss = losses.l1_loss,
    pixel_loss: PixelLoss = losses.l1_loss,
) -> runs.Experiment:
    """The second stage.

    `config` is the stage's own, from `own_config`; `label` names the generator in the pictures; `first` is
    the first stage's run folder, whose generator it starts from. Without a discriminator the generator is
    trained alone, by pixels and features; without a layer (see `load_features`) the content loss is left out.
    `distance` is between features, `pixel_loss` between images.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    evaluator = make_evaluator(config, bank, generator, label)
    content, features, trained_with = None, None, "pixels"
    if layer is not None:
        trunk, features, trained_with = load_features(config, layer)
        apply: Callable[..., Any] = trunk.apply
        content = objectives.feature_content(apply, distance=distance)
    parts: dict[str, Any] = {
        "pixel_loss": pixel_loss, "pixel_weight": gan.pixel_weight, "content": content,
        "content_weight": gan.content_weight,
    }  # fmt: skip
    networks: dict[str, Any] = {GENERATOR: (generator, (8, 8))}
    upscale = objectives.in_training(generator.apply)
    if discriminator is None:
        players = {GENERATOR: objectives.restoration(upscale, player=GENERATOR, **parts)}
    else:
        side, axis_name = config.patch * config.scale, "data" if config.parallel == "pmap" else None
        discriminator = discriminator.clone(dtype=jnp.dtype(config.compute_dtype), axis_name=axis_name)
        networks[DISCRIMINATOR] = discriminator, (side, side)
        players = objectives.restoration_gan(
            upscale, objectives.in_training(discriminator.apply), loss=losses.ADVERSARIAL[gan.kind],
            adversarial_weight=gan.adversarial_weight, players=(GENERATOR, DISCRIMINATOR),
            axis_name=axis_name, **parts,
        )  # fmt: skip

    init, start = with_features(
        functools.partial(initial, networks), start_from(first, GENERATOR), features, trained_with
    )
    return runs.Experiment(
        model=runs.describe_model(restoration.unmapped(generator)) | {"trained_with": trained_with},
        init=init,
        players={
            name: training.Player(objective, training.make_optimizer(gan.optim, steps=config.steps))
            for name, objective in players.items()
        },
        sampler=restoration.pair_sampler(config, bank),
        evaluate=evaluator.evaluate,
        best_by="-lpips_alex" if evaluator.extra_metrics else "psnr_y_db",
        evaluate_test=evaluator.evaluate_test,
        figures=functools.partial(_figures, evaluator, first),
        ema_decay=config.ema_decay or None,
        warm_start=start,
    )


def with_features(init: Init, start: WarmStart | None, features: Any, words: str) -> tuple[Init, WarmStart]:
    """Initialisation and warm start of a training whose variables hold a feature network.

    `init` (`key -> (params, variables)`) and `start` are those without it; `features` are the network's
    variables, None for a training that has none; `words` say what it is.
    """

    def make(key: jax.Array) -> tuple[Params, Params]:
        params, variables = init(key)
        if features is not None:
            # Filled by `begin`: as constants they would be compiled into the program.
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), features)
            variables = {**variables, objectives.FEATURES: zeros}
        return params, variables

    def begin(params: Params, variables: Params) -> tuple[Params, Params]:
        params, variables = start(params, variables) if start is not None else (params, variables)
        print(f"content loss: {words}", flush=True)
        return params, variables if features is None else {**variables, objectives.FEATURES: features}

    return make, begin


def _figures(
    evaluator: evaluators.PhotoEvaluator, first: pathlib.Path, params: Any, variables: Any,
    directory: pathlib.Path, step: int,
) -> None:  # fmt: skip
    """HR, bicubic, the first stage and the second."""
    before = runs.load_run(first)
    upscalers = {
        "first stage": lambda lr: before.apply(lr[None])[0],
        evaluator.label: evaluator.upscaler(params, variables),
    }
    save_strips(evaluator, upscalers, directory)


def save_strips(
    evaluator: evaluators.PhotoEvaluator,
    upscalers: Mapping[str, evaluators.UpscaleOne],
    directory: pathlib.Path,
    *,
    pairs: Iterable[evaluators.PhotoPair] | None = None,
    name: str = "validation_{}.png",
    limit: int = 6,
    whole: bool = False,
) -> None:
    """Strips of photos: HR, bicubic, and every upscaler; what the metrics say under each.

    By default of the validation photos. `upscalers` go by the name in the picture; `name` is the files', with
    a place for the photo's. `limit` is how many photos; `whole` shows them made small in place of a detail.
    """
    extra_metrics = evaluator.extra_metrics
    fidelity = "psnr_rgb_db" if "psnr_rgb_db" in extra_metrics else "psnr_y_db"
    for pair in itertools.islice(evaluator.validation if pairs is None else pairs, limit):
        images = {pair.baseline: pair.enlarged} | {name: fn(pair.lr) for name, fn in upscalers.items()}
        captions = ["PSNR, LPIPS" if "lpips_alex" in extra_metrics else "PSNR"]
        for image in images.values():
            scores = evaluators.measure_pair(pair, image, extra_metrics=extra_metrics)
            words = [f"{scores[fidelity]:.2f} dB"]
            words += [f"{scores['lpips_alex']:.3f}"] if "lpips_alex" in scores else []
            captions.append(", ".join(words))
        panels = [("HR", pair.hr), *images.items()]
        shrink = min(1.0, WHOLE / min(pair.hr.shape[:2])) if whole else 1.0
        drawn = [(n, np.clip(imresize(i, shrink) if shrink < 1 else np.asarray(i), 0, 1)) for n, i in panels]
        how: dict[str, Any] = {"crop_size": WHOLE, "context": False} if whole else {}
        strip = reports.comparison_strip(drawn, captions=captions, width=215 * (len(panels) + 1), **how)
        file = directory / name.format(pair.name.replace("/", "_"))
        reports.save_image(file, strip, caption=f"{pair.name}, never trained on.")


def halvings(side: int, flag: str) -> int:
    """How often a square of `side` pixels halves down to 4.

    A side that is not 4 times a power of two, at least 8, is a UserError that names `flag`.
    """
    count = round(math.log2(side / 4)) if side >= 8 else 0
    if count < 1 or 4 * 2**count != side:
        raise runs.UserError(
            f"{flag} makes high-resolution patches of {side} pixels; the discriminator takes 8, 16, 32, 64, "
            "128 or 256."
        )
    return count
