"""Optimizers and learning-rate schedules as one typed configuration over optax."""

import dataclasses
from typing import Literal

import optax


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning-rate schedule, weight decay and gradient clipping."""

    # Update rule.
    name: Literal["adam", "adamw", "adamax", "sgd"] = "adam"
    # Peak learning rate.
    lr: float = 1e-3
    # Shape of the learning rate after the warm-up.
    schedule: Literal["constant", "cosine", "step"] = "constant"
    # Steps of linear warm-up from zero.
    warmup: int = 0
    # "cosine": the learning rate at the end, as a share of the peak.
    final: float = 0.0
    # "step": multiply the rate by `step_factor` every so many steps.
    step_every: int = 200_000
    # "step": the factor.
    step_factor: float = 0.5
    # First-moment decay (momentum for "sgd").
    b1: float = 0.9
    # Second-moment decay.
    b2: float = 0.999
    # Denominator's epsilon.
    eps: float = 1e-8
    # Decoupled weight decay (adamw only).
    weight_decay: float = 0.0
    # Clip the gradient's global norm; 0 doesn't clip.
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for field in ("lr", "eps", "step_every", "step_factor"):
            if getattr(self, field) <= 0:
                raise ValueError(f"optim.{field} must be positive, got {getattr(self, field)}.")
        for field in ("warmup", "final", "weight_decay", "clip_norm"):
            if getattr(self, field) < 0:
                raise ValueError(f"optim.{field} must not be negative, got {getattr(self, field)}.")
        if self.weight_decay and self.name != "adamw":
            raise ValueError(f'optim.weight_decay needs optim.name "adamw", got "{self.name}".')


def make_schedule(config: OptimConfig, *, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
        config: see `OptimConfig`.
        steps: length of the training; the end of "cosine".

    Returns:
        An optax schedule.
    """
    rest = max(steps - config.warmup, 1)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.lr, rest, alpha=config.final)
    elif config.schedule == "step":
        main = optax.exponential_decay(config.lr, config.step_every, config.step_factor, staircase=True)
    else:
        main = optax.constant_schedule(config.lr)
    if not config.warmup:
        return main
    warmup = optax.linear_schedule(0.0, config.lr, config.warmup)
    return optax.join_schedules([warmup, main], [config.warmup])


def make_optimizer(config: OptimConfig, *, steps: int) -> optax.GradientTransformation:
    """Build the optax transformation that a configuration describes.

    Args:
        config: see `OptimConfig`.
        steps: length of the training.

    Returns:
        Clipping, then the update rule under its schedule.
    """
    rate = make_schedule(config, steps=steps)
    moments = {"b1": config.b1, "b2": config.b2, "eps": config.eps}
    if config.name == "adam":
        rule = optax.adam(rate, **moments)
    elif config.name == "adamw":
        rule = optax.adamw(rate, weight_decay=config.weight_decay, **moments)
    elif config.name == "adamax":
        rule = optax.adamax(rate, **moments)
    else:
        rule = optax.sgd(rate, momentum=config.b1 or None)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule) if config.clip_norm else rule
