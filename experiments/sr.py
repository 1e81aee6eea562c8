"""What the experiments of super-resolution on photos share: flags, data, start, measurements."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments import base
from vaesr import data, inference, objectives, training

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.RunConfig):
    """An upscaler trained on photographs."""

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
        # SSIM needs 11 pixels a side once a border of `scale` is left out; a crop should show more than that.
        for flag, value, least, why in (
            ("--eval-crop", self.eval_crop, 12 * self.scale, " (12 x the scale)"),
            ("--test-crop", self.test_crop, 12 * self.scale, " (12 x the scale)"),
            ("--patch", self.patch, 1, ""),
            *(
                (f"--model.{n}", v, 1, "")
                for n, v in vars(self.model).items()
                if n in _COUNTS and isinstance(v, int)
            ),  # type: ignore[attr-defined]
        ):
            if value < least:
                raise ValueError(f"{flag} must be at least {least}{why}, got {value}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be from 0 to less than 1, got {self.ema_decay}.")


_COUNTS = ("channels", "blocks", "groups", "growth")


def build(
    config: Config,
    model: nn.Module,
    *,
    label: str,
    player: str,
    objective: objectives.Objective | None = None,
    optimizer: Any = None,
    opinions: Mapping[str, inference.Score] | None = None,
) -> base.Experiment:
    """The training of an upscaler alone.

    Args:
        config: see `Config`.
        model: the network.
        label: its name in the pictures.
        player: its name in `params`.
        objective: by default `objectives.pixel`, L1 on the scale of 0 to 255.
        optimizer: by default that of the configuration.
        opinions: further metrics, see `inference.score_pair`.

    Returns:
        The experiment.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    study = make_study(config, bank, model, player=player, label=label, opinions=opinions)
    if objective is None:
        apply: Callable[..., jax.Array] = model.apply
        objective = objectives.pixel(apply, player=player)
    return base.Experiment(
        model=inference.describe_model(unmapped(model)),
        init=lambda key: initial({player: (model, (8, 8))}, key),
        players={
            player: training.Player(
                objective, optimizer or training.make_optimizer(config.optim, steps=config.steps)
            )
        },
        sampler=pair_sampler(config, bank),
        evaluate=study.evaluate,
        score="psnr_y_db",
        finish=study.finish,
        figures=study.figures,
        ema_decay=config.ema_decay or None,
        warm_start=start_from(config.init_from, player) if config.init_from else None,
    )


def make_study(
    config: Config,
    bank: data.Bank,
    model: nn.Module,
    *,
    player: str,
    label: str,
    opinions: Mapping[str, inference.Score] | None = None,
) -> inference.PhotoStudy:
    """What a configuration measures of a network.

    Args:
        config: says how large the crops are.
        bank: the photos.
        model: the network.
        player: its name in `params`.
        label: its name in the pictures.
        opinions: further metrics.

    Returns:
        The study.
    """
    return inference.PhotoStudy(
        bank, unmapped(model), player=player, label=label, eval_crop=config.eval_crop,
        test_crop=config.test_crop, opinions=opinions,
    )  # fmt: skip


def pair_sampler(config: Config, bank: data.Bank) -> data.PairSampler:
    """The pairs that a configuration trains on.

    Args:
        config: see `Config`.
        bank: the photos.

    Returns:
        The sampler.
    """
    return data.PairSampler(bank, "train", config.batch_size, scale=config.scale, patch=config.patch)


def initial(
    networks: Mapping[str, tuple[nn.Module, tuple[int, int]]], key: jax.Array
) -> tuple[Params, dict[str, Any]]:
    """Initial parameters, and variables of the networks that have any.

    Args:
        networks: module, and height and width of its input, by player.
        key: random key.

    Returns:
        `(params, variables)`.
    """
    params, variables = {}, {}
    for number, (player, (model, size)) in enumerate(networks.items()):
        found = dict(model.init(jax.random.fold_in(key, number), jnp.zeros((1, *size, 3))))
        params[player] = found.pop("params")
        if found:
            variables[player] = found
    return params, variables


def unmapped(model: nn.Module) -> nn.Module:
    """A network outside `pmap`.

    Args:
        model: it may name an axis of devices.

    Returns:
        It without.
    """
    return model.clone(axis_name=None) if getattr(model, "axis_name", None) else model


def start_from(
    run: pathlib.Path, player: str
) -> Callable[[Params, dict[str, Any]], tuple[Params, dict[str, Any]]]:
    """A warm start: every parameter and variable of another network that has the same name and shape.

    Args:
        run: its folder, or what else `inference.load_upscaler` takes.
        player: who takes them.

    Returns:
        `(params, variables) -> (params, variables)`.
    """

    def start(params: Params, variables: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
        try:
            found = inference.load_upscaler(run)
            theirs = found.params[found.player], (found.variables or {}).get(found.player, {})
        except (OSError, ValueError, ImportError) as error:
            raise base.UserError(f"--init-from {run} is no network to start from: {error}") from error
        own, count = _take(params[player], theirs[0])
        if not count:
            raise base.UserError(
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
