"""What the experiments of super-resolution on photos share: flags, data, start, measurements."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr import data, evaluators, inference, models, objectives, runs, training

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoConfig(runs.Config):
    """A training on patches of photographs."""

    # Optimizer.
    optim: training.OptimConfig = training.OptimConfig()
    # Side of the low-resolution patches.
    patch: int = 48
    # Side of the central crop of each validation photo that evaluations during training read.
    eval_crop: int = 192
    # Longest side of the central crop of each test photo.
    test_crop: int = 1024
    # Decay of the parameters' moving average; 0 keeps none.
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self.ema_decay)

    def check_crops(self, scale: int, words: str) -> None:
        """Refuse patches and crops that are too small at a scale, which is so described."""
        # SSIM needs 11 pixels a side once a border of `scale` is left out; a crop should show more than that.
        for flag, value, least, why in (
            ("--eval-crop", self.eval_crop, 12 * scale, f" (12 x {words})"),
            ("--test-crop", self.test_crop, 12 * scale, f" (12 x {words})"),
            ("--patch", self.patch, 1, ""),
        ):
            if value < least:
                raise ValueError(f"{flag} must be at least {least}{why}, got {value}.")


def check_decay(decay: float, flag: str = "--ema-decay") -> None:
    """Refuse what is no decay of a moving average, naming the flag."""
    if not 0 <= decay < 1:
        raise ValueError(f"{flag} must be from 0 to less than 1, got {decay}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(PhotoConfig):
    """An upscaler trained on photographs."""

    # Parameters of the same name and shape to start from (x3 and x4 from x2): a run folder, another project's
    # checkpoint, or the name of published weights (vaesr upscale --help).
    init_from: pathlib.Path | None = None

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return int(self.model.scale)  # type: ignore[attr-defined]

    def allowed_scales(self) -> tuple[int, ...]:
        """The scales that the network takes."""
        return (2, 3, 4, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in self.allowed_scales():
            *most, last = self.allowed_scales()
            raise ValueError(
                f"--model.scale must be {', '.join(map(str, most))} or {last}, got {self.scale}."
            )
        self.check_crops(self.scale, "the scale")
        check_sizes("model", self.model)  # type: ignore[attr-defined]


def check_sizes(flag: str, network: nn.Module) -> None:
    """Refuse a network without channels or blocks, naming the command line's `flag` for it."""
    for name in ("channels", "blocks", "groups", "growth", "hidden"):
        value = vars(network).get(name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"--{flag}.{name} must be at least 1, got {value}.")


def build(
    config: Config,
    model: nn.Module | None = None,
    *,
    label: str,
    player: str,
    objective: objectives.Objective | None = None,
    optimizer: Any = None,
    extra_metrics: Mapping[str, evaluators.Metric] | None = None,
) -> runs.Experiment:
    """The training of an upscaler alone, by default the configuration's.

    `label` is its name in the pictures, `player` its name in `params`. The objective is by default
    `objectives.pixel`, L1 on the scale of 0 to 255; the optimizer that of the configuration; `extra_metrics`
    see `evaluators.measure_pair`.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    if model is None:
        model = in_compute_dtype(config)
    evaluator = make_evaluator(config, bank, model, player=player, label=label, extra_metrics=extra_metrics)
    if objective is None:
        apply: Callable[..., jax.Array] = model.apply
        objective = objectives.pixel(apply, player=player)
    return runs.Experiment(
        model=runs.describe_model(unmapped(model)),
        init=lambda key: initial({player: (model, (8, 8))}, key),
        players={
            player: training.Player(
                objective, optimizer or training.make_optimizer(config.optim, steps=config.steps)
            )
        },
        sampler=pair_sampler(config, bank),
        evaluate=evaluator.evaluate,
        best_by="psnr_y_db",
        evaluate_test=evaluator.evaluate_test,
        figures=evaluator.figures,
        ema_decay=config.ema_decay or None,
        warm_start=start_from(config.init_from, player) if config.init_from else None,
    )


def in_compute_dtype(config: Any) -> Any:
    """A configuration's network in the type that it computes in."""
    return config.model.clone(dtype=jnp.dtype(config.compute_dtype))


def make_evaluator(
    config: Config,
    bank: data.Bank,
    model: nn.Module,
    *,
    player: str,
    label: str,
    extra_metrics: Mapping[str, evaluators.Metric] | None = None,
) -> evaluators.PhotoEvaluator:
    """What a configuration measures of a network: `player` in `params`, `label` in the pictures."""
    return evaluators.PhotoEvaluator(
        bank, unmapped(model), player=player, label=label, eval_crop=config.eval_crop,
        test_crop=config.test_crop, extra_metrics=extra_metrics,
    )  # fmt: skip


def pair_sampler(config: Config, bank: data.Bank) -> data.PairSampler:
    """The pairs that a configuration trains on."""
    return data.PairSampler(bank, "train", config.batch_size, scale=config.scale, patch=config.patch)


def initial(
    networks: Mapping[str, tuple[nn.Module, tuple[int, int]]], key: jax.Array
) -> tuple[Params, dict[str, Any]]:
    """Initial `(params, variables)`, the latter of those networks that have any.

    `networks` are the module, and height and width of its input, by player.
    """
    params, variables = {}, {}
    for number, (player, (model, size)) in enumerate(networks.items()):
        found = dict(model.init(jax.random.fold_in(key, number), jnp.zeros((1, *size, 3))))
        params[player] = found.pop("params")
        if found:
            variables[player] = found
    return params, variables


def unmapped(model: nn.Module) -> nn.Module:
    """A network outside `pmap`: without the axis of devices that it may name."""
    return model.clone(axis_name=None) if isinstance(model, models.Synchronised) else model


def start_from(
    run: pathlib.Path, player: str
) -> Callable[[Params, dict[str, Any]], tuple[Params, dict[str, Any]]]:
    """A warm start: every parameter and variable of another network that has the same name and shape.

    `run` is its folder, or what else `inference.load_network` takes; `player` takes them.
    """

    def start(params: Params, variables: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
        try:
            found = inference.load_network(run)
            theirs = found.params[found.player], (found.variables or {}).get(found.player, {})
        except (OSError, ValueError, ImportError) as error:
            raise runs.UserError(f"--init-from {run} is no network to start from: {error}") from error
        own, count = _take(params[player], theirs[0])
        if not count:
            raise runs.UserError(
                f"--init-from {run} has no parameter of the same name and shape as this model."
            )
        total = len(jax.tree.leaves(params[player]))
        print(f"started from {count} of {total} tensors of {run}", flush=True)
        if player in variables:
            variables = {**variables, player: _take(variables[player], theirs[1])[0]}
        return {**params, player: own}, variables

    return start


def _take(ours: Any, theirs: Any) -> tuple[Any, int]:
    flat, other = flax.traverse_util.flatten_dict(ours), flax.traverse_util.flatten_dict(theirs)
    taken = {n: v for n, v in other.items() if n in flat and flat[n].shape == v.shape}
    return flax.traverse_util.unflatten_dict({**flat, **taken}), len(taken)
