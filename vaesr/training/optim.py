"""Optimizers and learning-rate schedules as one typed configuration over optax."""

import dataclasses
import itertools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning-rate schedule, weight decay and gradient clipping."""

    # Update rule.
    name: Literal["adam", "adamw", "adamax", "sgd"] = "adam"
    # Peak learning rate.
    lr: float = 1e-3
    # Shape of the learning rate after the warm-up.
    schedule: Literal["constant", "cosine", "epochs", "step", "steps", "stages"] = "constant"
    # Steps of linear warm-up from zero.
    warmup: int = 0
    # "cosine", "epochs" and "stages": the learning rate at the end, as a share of the peak.
    final: float = 0.0
    # "epochs": steps of an epoch; the rate falls from one to the next along a cosine.
    epoch: int = 0
    # "step": multiply the rate by `step_factor` every so many steps.
    step_every: int = 200_000
    # "steps": multiply the rate by `step_factor` at these steps.
    step_at: tuple[int, ...] = ()
    # "step" and "steps": the factor.
    step_factor: float = 0.5
    # "stages": the number of stages, each three times as long as the one before and at a lower rate.
    stages: int = 8
    # First-moment decay (momentum for "sgd").
    b1: float = 0.9
    # Second-moment decay.
    b2: float = 0.999
    # Denominator's epsilon.
    eps: float = 1e-8
    # Decoupled weight decay (adamw only).
    weight_decay: float = 0.0
    # L2 penalty's factor, added to the gradient before the update rule sees it.
    l2: float = 0.0
    # Clip the gradient's global norm; 0 doesn't clip.
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for field in ("lr", "eps", "step_every", "step_factor", "stages"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"optim.{field} must be positive, got {getattr(self, field)}.")
        for field in ("warmup", "final", "weight_decay", "l2", "clip_norm", "epoch"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"optim.{field} must not be negative, got {getattr(self, field)}.")
        for field in ("b1", "b2"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"optim.{field} must be from 0 to less than 1, got {getattr(self, field)}.")
        if self.schedule == "stages" and not self.final:
            raise ValueError('optim.final must be positive with optim.schedule "stages", got 0.0.')
        if (self.schedule == "steps") != bool(self.step_at) or any(at < 1 for at in self.step_at):
            raise ValueError(
                'optim.step_at must name steps of at least 1 with optim.schedule "steps", and only then, got '
                f"{self.step_at}."
            )
        if (self.schedule == "epochs") != bool(self.epoch):
            raise ValueError(
                'optim.epoch must be at least 1 with optim.schedule "epochs", and only then, got '
                f"{self.epoch}."
            )
        if self.epoch and self.warmup % self.epoch:
            raise ValueError(
                'optim.warmup must be whole epochs with optim.schedule "epochs", got '
                f"{self.warmup} steps of epochs of {self.epoch}."
            )
        if self.weight_decay and self.name != "adamw":
            raise ValueError(f'optim.weight_decay needs optim.name "adamw", got "{self.name}".')


def make_schedule(config: OptimConfig, *, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    `steps` is the length of the training: the end of "cosine" and of the last of the "stages". "stages" is of
    Burda, Grosse and Salakhutdinov 2016, section 5: 8 of 1, 3, ..., 3^7 epochs, the rate falling by equal
    factors from 1e-3 to 1e-4 (`final` 0.1).
    """
    rest = max(steps - config.warmup, 1)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.lr, rest, alpha=config.final)
    elif config.schedule == "step":
        main = optax.exponential_decay(config.lr, config.step_every, config.step_factor, staircase=True)
    elif config.schedule == "steps":
        # Steps count from the start of the training, warm-up or not.
        at = {step - config.warmup: config.step_factor for step in config.step_at}
        main = optax.piecewise_constant_schedule(config.lr, at)
    elif config.schedule == "stages":
        main = _stages(config, rest)
    elif config.schedule == "epochs":
        return _epochs(config, steps)
    else:
        main = optax.constant_schedule(config.lr)
    if not config.warmup:
        return main
    warmup = optax.linear_schedule(0.0, config.lr, config.warmup)
    return optax.join_schedules([warmup, main], [config.warmup])


def _epochs(config: OptimConfig, steps: int) -> optax.Schedule:
    """The warm-up, and then from where it has come to `final`, a rate an epoch (NVAE's authors' code)."""
    warm, last = config.warmup // config.epoch, max(1, -(-steps // config.epoch)) - 1
    top = config.lr * (config.warmup - 1) / config.warmup if config.warmup else config.lr

    def rate(step: Any) -> jax.Array:
        share = (jnp.asarray(step) // config.epoch - warm) / max(last - warm, 1)
        fallen = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
        low = config.final * config.lr
        main = low + (top - low) * fallen
        return jnp.where(step < config.warmup, config.lr * step / max(config.warmup, 1), main)

    return rate


def _stages(config: OptimConfig, steps: int) -> optax.Schedule:
    """Stage i of n lasts `3^i / Σ 3^j` of the steps at `lr * final^(i / (n - 1))`."""
    lengths = [3**i for i in range(config.stages)]
    ends = [round(steps * end / sum(lengths)) for end in itertools.accumulate(lengths)]
    factor = config.final ** (1 / max(config.stages - 1, 1))
    rates = [optax.constant_schedule(config.lr * factor**i) for i in range(config.stages)]
    return optax.join_schedules(rates, ends[:-1])


def make_optimizer(config: OptimConfig, *, steps: int) -> optax.GradientTransformation:
    """The optax transformation of a configuration: clipping, L2 penalty, the update rule and its schedule."""
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
    before = []
    if config.clip_norm:
        before.append(optax.clip_by_global_norm(config.clip_norm))
    if config.l2:
        before.append(optax.add_decayed_weights(config.l2))
    return optax.chain(*before, rule) if before else rule
