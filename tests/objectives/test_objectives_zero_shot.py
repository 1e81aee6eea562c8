"""ZSSR's objective and the policy of its learning rate, against NumPy's line fit."""

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import objectives
from vaesr.objectives.zero_shot import _moved

POLICY = objectives.Policy()


def authors(errors, steps):
    """The authors' rules with `np.polyfit`: steps of falls."""
    falls, last, kept = [], 0, []
    for step, error in zip(steps, errors, strict=True):
        if step % 50 == 0:
            kept.append((step, error))
        if (1 + step) % 60 == 0 and step - last > 256:
            x, y = np.array(kept[-5:]).T
            (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
            if -1.5 * slope < np.sqrt(covariance[0, 0]):
                falls.append(step)
                last = step
                if len(falls) == 3:
                    break
    return falls


def test_the_rate_falls_where_the_authors_does():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        steps = np.arange(3000)
        errors = 1e-3 * (0.2 + np.exp(-steps / 400)) + rng.normal(0, 2e-6 * (seed + 1), 3000)

        def body(now, given):
            step, error = given
            pushed = jnp.concatenate([now["errors"][1:], error[None]])
            measured = {**now, "errors": jnp.where(step % 50 == 0, pushed, now["errors"])}
            new = _moved(POLICY, measured, step)
            return new, (new["drops"], new["done"])

        given = jnp.asarray(steps), jnp.asarray(errors, jnp.float32)
        _, (drops, done) = jax.lax.scan(body, objectives.start_policy(), given)
        ours = np.flatnonzero(np.diff(np.concatenate([[0], drops])))
        np.testing.assert_array_equal(ours, authors(errors, steps))
        assert bool(done[-1]) == (drops[-1] == 3)


def test_the_rate_is_a_tenth_a_tenth_and_nothing():
    start = objectives.start_policy()
    rates = [
        float(objectives.policy_rate({objectives.POLICY: {**start, "drops": jnp.int32(drops), "done": done}}))
        for drops, done in ((0, False), (1, False), (2, False), (3, True))
    ]
    np.testing.assert_allclose(rates, [1, 0.1, 0.01, 0], rtol=1e-6)


def test_the_window_is_measured_every_fifty_steps():
    upscale = lambda collections, x: jnp.repeat(jnp.repeat(collections["params"] * x, 2, 1), 2, 2)
    shrink = lambda x, batch: x[:, ::2, ::2]
    objective = objectives.zero_shot(upscale, shrink)
    x = jnp.asarray(np.random.default_rng(0).random((1, 8, 8, 3), np.float32))
    inside = jnp.ones((1, 8, 8)).at[:, :3].set(0)
    batch = {"x_hr": x, "noise": jnp.zeros(1), "window": x, "inside": inside, "position": jnp.zeros(1, int)}
    variables = {objectives.POLICY: objectives.start_policy()}
    for step, measured in ((0, True), (1, False), (50, True)):
        loss, aux = objective(
            {"upscaler": jnp.float32(0.9)}, variables, batch, key=jax.random.key(0), step=jnp.int32(step)
        )
        made = np.repeat(np.repeat(0.9 * np.asarray(x)[:, ::2, ::2], 2, 1), 2, 2)
        np.testing.assert_allclose(loss, np.abs(made - x).mean(), rtol=1e-5)
        wanted = np.square(made - x)[:, 3:].mean() if measured else 0.0
        np.testing.assert_allclose(aux.variables[objectives.POLICY]["errors"][-1], wanted, rtol=1e-5)
