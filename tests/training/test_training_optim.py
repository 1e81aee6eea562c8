"""Schedules against closed forms, update rules against their first step."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.training import OptimConfig, make_optimizer, make_schedule


def test_step_schedule_halves():
    schedule = make_schedule(
        OptimConfig(lr=1e-4, schedule="step", step_every=200, step_factor=0.5), steps=1000
    )
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 199, 200, 400)], [1e-4, 1e-4, 5e-5, 2.5e-5], rtol=1e-6
    )


def test_cosine_with_warmup_starts_at_zero_peaks_and_ends():
    config = OptimConfig(lr=1.0, schedule="cosine", warmup=10, final=0.1)
    schedule = make_schedule(config, steps=110)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10, 60, 110)], [0, 0.5, 1, 0.55, 0.1], atol=1e-6)


def test_stages_grow_threefold_at_falling_rates():
    """Burda et al. 2016: 3^i epochs at 1e-3 * 10^(-i/7), i = 0..7; here an epoch has 10 steps."""
    schedule = make_schedule(OptimConfig(lr=1e-3, schedule="stages", final=0.1), steps=32800)
    first = 0
    for i in range(8):
        last = first + 10 * 3**i - 1
        np.testing.assert_allclose([schedule(first), schedule(last)], 1e-3 * 10 ** (-i / 7), rtol=1e-5)
        first = last + 1
    np.testing.assert_allclose(schedule(first + 1000), 1e-4, rtol=1e-5)
    short = make_schedule(OptimConfig(lr=1.0, schedule="stages", stages=1, final=0.1), steps=3)
    np.testing.assert_allclose([short(0), short(9)], [1.0, 1.0])


@pytest.mark.parametrize(("name", "expected"), [("adam", 0.1), ("adamw", 0.1), ("adamax", 0.1), ("sgd", 0.3)])
def test_first_update(name, expected):
    rule = make_optimizer(OptimConfig(name=name, lr=0.1), steps=10)
    params = jnp.array([1.0])
    updates, _ = rule.update(jnp.array([3.0]), rule.init(params), params)
    np.testing.assert_allclose(updates, [-expected], rtol=1e-4)


def test_clipping_bounds_the_global_norm():
    rule = make_optimizer(OptimConfig(name="sgd", lr=1.0, b1=0.0, clip_norm=1.0), steps=10)
    gradient = jnp.array([3.0, 4.0])
    updates, _ = rule.update(gradient, rule.init(gradient), gradient)
    np.testing.assert_allclose(updates, [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.0}, "optim.lr must be positive, got 0.0"),
        ({"lr": float("nan")}, "optim.lr must be positive, got nan"),
        ({"lr": float("inf")}, "optim.lr must be positive, got inf"),
        ({"clip_norm": float("nan")}, "optim.clip_norm must not be negative, got nan"),
        ({"b1": 1.0}, "optim.b1 must be from 0 to less than 1, got 1.0"),
        ({"warmup": -1}, "optim.warmup must not be negative"),
        ({"schedule": "stages"}, 'optim.final must be positive with optim.schedule "stages"'),
        ({"stages": 0}, "optim.stages must be positive, got 0"),
        ({"weight_decay": 0.1}, 'needs optim.name "adamw"'),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**fields)


# --- NVAE's authors' code --------------------------------------------------------------------------------


def official() -> dict[str, np.ndarray]:
    folder = pathlib.Path(__file__).parent.parent / "models" / "nvae_official"
    with np.load(folder / "schedules_adamax.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_epochs_fall_as_theirs(which):
    found = official()
    epochs, warmup, epoch, lr = found[f"lr_{which}_E_W_steps_lr0"]
    epochs, warmup, epoch = int(epochs), int(warmup), int(epoch)
    config = OptimConfig(lr=lr, schedule="epochs", epoch=epoch, warmup=warmup * epoch, final=1e-4 / lr)
    schedule = make_schedule(config, steps=epochs * epoch)
    first = jnp.arange(epochs) * epoch
    np.testing.assert_allclose(
        schedule(first), found[f"lr_{which}_first_step_of_epoch"], rtol=1e-5, atol=1e-12
    )
    np.testing.assert_allclose(
        schedule(first + epoch - 1), found[f"lr_{which}_last_step_of_epoch"], rtol=1e-5
    )


def test_thirty_steps_of_adamax_are_theirs():
    found = official()
    config = OptimConfig(name="adamax", lr=1e-2, eps=1e-3, l2=3e-4)
    with jax.enable_x64(True):
        rule = make_optimizer(config, steps=30)
        params = {i: jnp.asarray(found[f"adamax/p{i}_step0"]) for i in range(3)}
        state = rule.init(params)
        for step in range(30):
            grads = {i: jnp.asarray(found[f"adamax/grads{i}"][step]) for i in range(3)}
            updates, state = rule.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for i in range(3):
                np.testing.assert_allclose(params[i], found[f"adamax/traj{i}"][step], rtol=1e-8, atol=1e-12)


def test_epochs_need_their_length():
    with pytest.raises(ValueError, match=r"optim\.epoch must be at least 1 with optim\.schedule .epochs."):
        OptimConfig(schedule="epochs")
    with pytest.raises(ValueError, match=r"optim\.epoch must be at least 1 with optim\.schedule .epochs."):
        OptimConfig(epoch=3)
    with pytest.raises(ValueError, match=r"optim\.warmup must be whole epochs"):
        OptimConfig(schedule="epochs", epoch=62, warmup=1)
