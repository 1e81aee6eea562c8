"""What the experiments of super-resolution GANs share: the second stage, in which a discriminator joins."""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments import base, sr
from vaesr import data, inference, losses, objectives, reports, training
from vaesr.imaging import imresize
from vaesr.models.feature_networks import IMAGENET_DEVIATION, IMAGENET_MEAN, VGG
from vaesr.pretrained import FeatureWeights

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
_RANDOM = "random"
WHOLE = 192  # pixels a side of a photo that a strip shows whole
Init = Callable[[jax.Array], tuple[sr.Params, sr.Params]]
WarmStart = Callable[[sr.Params, sr.Params], tuple[sr.Params, sr.Params]]


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
    # Channels of the discriminator's first convolution.
    channels: int = 64
    # Units of the discriminator's first dense layer.
    hidden: int = 100
    # Decay of the parameters' moving average; 0 keeps none.
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "channels", "hidden"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--gan.{flag} must be at least 1, got {getattr(self, name)}.")
        for name in ("adversarial_weight", "pixel_weight", "content_weight"):
            if not getattr(self, name) >= 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--gan.{flag} must be at least 0, got {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--gan.ema-decay must be from 0 to less than 1, got {self.ema_decay}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sr.Config):
    """An upscaler trained on photographs, first alone, then against a discriminator."""

    # Whose features the content loss compares: vgg16 (fetched once with pip), vgg19 or vgg16-bn (bring
    # torchvision's file: vaesr convert vgg19 --trunk FILE), a file of vaesr convert; "random" is for tests.
    features: str = "vgg16"
    # What judges the results beside PSNR: LPIPS with AlexNet, which nothing is trained with, or nothing.
    judge: Literal["lpips-alex", "none"] = "lpips-alex"


def own_config(config: Any, gan: GanConfig) -> Any:
    """The configuration of the second stage's training.

    Args:
        config: the whole run's.
        gan: what it says of the second stage.

    Returns:
        It with the second stage's numbers of steps.
    """
    return dataclasses.replace(
        config, steps=gan.steps, eval_every=gan.eval_every, checkpoint_every=gan.eval_every,
        log_every=min(config.log_every, gan.steps), ema_decay=gan.ema_decay, init_from=None,
    )  # fmt: skip


def opinions(config: Config) -> dict[str, inference.Score]:
    """The metrics beside PSNR and SSIM.

    Args:
        config: see `Config`.

    Returns:
        Metrics by name; none with `--judge none`.
    """
    if config.judge == "none":
        return {}
    return inference.perceptual_opinions(inference.find_lpips(config.judge))


def load_features(config: Config, layer: str) -> tuple[VGG, Any, str]:
    """The content loss's network.

    Args:
        config: says which weights.
        layer: a layer's name, such as "conv5_4"; "last" is the network's last convolution, "last_relu" what
            the ReLU makes of it, "before_pooling" the ReLUs before the third, fourth and fifth pooling.

    Returns:
        The module, its variables and what it is, in words.

    Raises:
        UserError: if it has no such layer.
    """
    dtype = jnp.dtype(config.compute_dtype)
    if config.features == _RANDOM:
        # For tests alone, where every run must not fetch 64 MB; two small stages.
        model = VGG((1, 1), ("conv2_1",), dtype=dtype, conv_form="auto")
        return model, model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))), "random features"
    weights: FeatureWeights = inference.find_features(config.features)
    ends = tuple(f"relu{stage}_{depth}" for stage, depth in enumerate(weights.depths, 1))
    special = {"last": weights.layers[-2:-1], "last_relu": ends[-1:], "before_pooling": ends[2:]}
    layers = special.get(layer, (layer,))
    if not set(layers) <= set(weights.layers):
        raise base.UserError(f"{weights.name} has no layer {layer!r}; it has {', '.join(weights.layers)}.")
    model = VGG(
        weights.depths, layers, mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION, dtype=dtype,
        conv_form="auto",
    )  # fmt: skip
    needed = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))["params"]
    params = {name: weights.variables["params"][name] for name in needed}
    source = ", ".join(f"{file} sha256 {digest[:12]}" for file, digest in weights.origin.items())
    return model, {"params": params}, f"{', '.join(layers)} of {weights.name.upper()} ({source})"


def build(
    config: Config,
    gan: GanConfig,
    generator: nn.Module,
    discriminator: nn.Module | None,
    *,
    label: str,
    first: pathlib.Path,
    layer: str | None,
    distance: Callable[[jax.Array, jax.Array], jax.Array] = losses.l1,
    pixel_loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.l1,
) -> base.Experiment:
    """The second stage.

    Args:
        config: the stage's own, from `own_config`.
        gan: its settings.
        generator: the upscaler.
        discriminator: judges its results; None trains the generator alone, by pixels and features.
        label: the generator's name in the pictures.
        first: the first stage's run folder, whose generator it starts from.
        layer: of the content loss, see `load_features`; None leaves it out.
        distance: between features.
        pixel_loss: between images.

    Returns:
        The experiment.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    others = opinions(config)
    study = sr.make_study(config, bank, generator, player=GENERATOR, label=label, opinions=others)
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
        side = config.patch * config.scale
        networks[DISCRIMINATOR] = discriminator, (side, side)
        players = objectives.restoration_gan(
            upscale, objectives.in_training(discriminator.apply), loss=losses.ADVERSARIAL[gan.kind],
            adversarial_weight=gan.adversarial_weight, players=(GENERATOR, DISCRIMINATOR),
            axis_name="data" if config.parallel == "pmap" else None, **parts,
        )  # fmt: skip

    init, start = with_features(
        functools.partial(sr.initial, networks), sr.start_from(first, GENERATOR), features, trained_with
    )
    return base.Experiment(
        model=inference.describe_model(sr.unmapped(generator)) | {"trained_with": trained_with},
        init=init,
        players={
            name: training.Player(objective, training.make_optimizer(gan.optim, steps=config.steps))
            for name, objective in players.items()
        },
        sampler=sr.pair_sampler(config, bank),
        evaluate=study.evaluate,
        score="-lpips_alex" if others else "psnr_y_db",
        finish=study.finish,
        figures=functools.partial(_figures, study, first),
        ema_decay=config.ema_decay or None,
        warm_start=start,
    )


def with_features(init: Init, start: WarmStart | None, features: Any, words: str) -> tuple[Init, WarmStart]:
    """Initialisation and warm start of a training whose variables hold a feature network.

    Args:
        init: `key -> (params, variables)` without it.
        start: warm start without it, if any.
        features: the network's variables; None for a training that has none.
        words: what it is.

    Returns:
        Both with it.
    """

    def make(key: jax.Array) -> tuple[sr.Params, sr.Params]:
        params, variables = init(key)
        if features is not None:
            # Filled by `begin`: as constants they would be compiled into the program.
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), features)
            variables = {**variables, objectives.FEATURES: zeros}
        return params, variables

    def begin(params: sr.Params, variables: sr.Params) -> tuple[sr.Params, sr.Params]:
        params, variables = start(params, variables) if start is not None else (params, variables)
        print(f"content loss: {words}", flush=True)
        return params, variables if features is None else {**variables, objectives.FEATURES: features}

    return make, begin


def _figures(
    study: inference.PhotoStudy,
    first: pathlib.Path,
    params: dict[str, Any],
    variables: Any,
    directory: pathlib.Path,
    step: int,
) -> None:
    """HR, bicubic, the first stage and the second."""
    before = inference.load_run(first)
    upscalers = {
        "first stage": lambda lr: before.apply(lr[None])[0],
        study.label: study.upscaler(params, variables),
    }
    save_strips(study.validation, upscalers, directory, opinions=study.opinions)


def save_strips(
    pairs: Iterable[inference.PhotoPair],
    upscalers: Mapping[str, inference.UpscaleOne],
    directory: pathlib.Path,
    *,
    opinions: Mapping[str, inference.Score],
    name: str = "validation_{}.png",
    limit: int = 6,
    whole: bool = False,
) -> None:
    """Strips of photos: HR, bicubic, and every upscaler; what the metrics say under each.

    Args:
        pairs: the photos.
        upscalers: by the name in the picture.
        directory: where the pictures go.
        opinions: metrics beside PSNR.
        name: the files' names, with a place for the photo's.
        limit: how many photos.
        whole: show whole photos made small in place of a detail.
    """
    fidelity = "psnr_rgb_db" if "psnr_rgb_db" in opinions else "psnr_y_db"
    for pair in itertools.islice(pairs, limit):
        images = {pair.baseline: pair.enlarged} | {name: fn(pair.lr) for name, fn in upscalers.items()}
        captions = ["PSNR, LPIPS" if "lpips_alex" in opinions else "PSNR"]
        for image in images.values():
            scores = inference.score_pair(pair, image, opinions=opinions)
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
    """How often a square of pixels halves down to 4.

    Args:
        side: pixels.
        flag: what to name where it doesn't.

    Returns:
        The number.

    Raises:
        UserError: if the side is not 4 times a power of two, at least 8.
    """
    count = round(math.log2(side / 4)) if side >= 8 else 0
    if count < 1 or 4 * 2**count != side:
        raise base.UserError(
            f"{flag} makes high-resolution patches of {side} pixels; the discriminator takes 8, 16, 32, 64, "
            "128 or 256."
        )
    return count
