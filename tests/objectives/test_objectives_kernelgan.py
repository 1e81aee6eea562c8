"""KernelGAN's objectives: the authors' schedule step by step, and what each player is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import objectives
from vaesr.objectives.kernelgan import _bicubic, _moved

SCHEDULE = objectives.KernelSchedule()


def authors(losses, steps):
    """The authors' rules, as they say them: the weight, and whether sparsity counts, after each step."""
    weight, counter, similar, inserted, trace = 5.0, 0, False, False, []
    for step, loss in zip(steps, losses, strict=True):
        if step:
            if not similar:
                if loss < 0.4:
                    if counter >= 2:
                        similar = True
                    else:
                        counter += 1
                else:
                    counter = 0
            elif step % 200 == 0:
                weight = max(weight / 100, 5e-6)
                if not inserted and weight < 5e-3:
                    inserted = True
        trace.append((weight, similar, inserted))
    return trace


@pytest.mark.parametrize("leaving", [0, 70, 199, 350])
def test_the_schedule_is_the_authors(leaving):
    steps = np.arange(1000)
    losses = np.where((steps < leaving) & (steps % 3 == 0) | (steps < leaving - 5), 0.5, 0.3)

    def body(now, given):
        step, loss = given
        now = _moved(SCHEDULE, now, loss, step)
        return now, (now["bicubic"], now["similar"], now["sparse"])

    start = objectives.start_kernel_schedule(SCHEDULE)
    _, ours = jax.lax.scan(body, start, (jnp.asarray(steps), jnp.asarray(losses, jnp.float32)))
    theirs = [np.array(column) for column in zip(*authors(losses, steps), strict=True)]
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_array_equal(ours[2], theirs[2])
    assert ours[0][-1] == np.float32(5e-6) and ours[2][-1]


def test_the_schedule_leaves_at_the_latest():
    schedule = SCHEDULE._replace(latest=50)
    now = objectives.start_kernel_schedule(schedule)
    for step in (49, 50):
        now = _moved(schedule, now, jnp.float32(9.0), jnp.int32(step))
        assert bool(now["similar"]) == (step == 50)


X = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)


def test_bicubic_targets_apart_and_mixed():
    like = jnp.zeros((1, 26, 26, 3))
    apart, mixed = (_bicubic(jnp.asarray(X), like, 2, word) for word in ("apart", "mixed"))
    np.testing.assert_allclose(mixed, jnp.repeat(apart.sum(-1, keepdims=True), 3, axis=-1), atol=1e-6)
    # The generator's output lies where the target does: of an impulse in the middle of a kernel's reach.
    kernel = jnp.zeros((13, 13)).at[6:8, 6:8].set(0.25)
    from vaesr.imaging import correlate, imresize

    made = correlate(2 * X - 1, kernel, stride=2)
    whole = np.asarray(imresize(2 * X - 1, 0.5, method="bilinear", antialias=False))[:, 3:29, 3:29]
    np.testing.assert_allclose(made, whole, atol=1e-6)


def players(**fields):
    seen = []

    def scores(params, variables, images):
        seen.append(images)
        return jax.nn.sigmoid(params["w"] * images.mean(-1)), variables

    kernel = lambda collections: collections["params"]["k"]
    return objectives.kernel_gan(kernel, scores, **fields), seen


def test_losses_are_their_formulas():
    found, seen = players()
    k = jnp.asarray(np.random.default_rng(1).random((13, 13), np.float32) / 100)
    params = {"generator": {"k": k}, "discriminator": {"w": jnp.float32(0.7)}}
    variables = {objectives.SCHEDULE: objectives.start_kernel_schedule(SCHEDULE), "discriminator": {}}
    batch = {"x_g": jnp.asarray(X), "x_d": jnp.asarray(X[:, :26, :26]), "position": jnp.zeros(1, jnp.int32)}
    how = {"key": jax.random.key(0), "step": jnp.int32(0)}
    loss, aux = found["generator"](params, variables, batch, **how)
    parts = aux.metrics
    expected = (
        parts["adversarial"] + 5 * parts["bicubic_loss"] + 0.5 * abs(1 - k.sum()) + 0.5 * parts["boundaries"]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    late = {**variables, objectives.SCHEDULE: {**variables[objectives.SCHEDULE], "sparse": jnp.bool_(True)}}
    more, _ = found["generator"](params, late, batch, **how)
    np.testing.assert_allclose(more - loss, parts["centre"] + 5 * parts["sparsity"], rtol=1e-4)
    seen.clear()
    _, aux = found["discriminator"](params, variables, batch, **how)
    real, fake = seen
    # Noise of a grey level for real patches, of half a level for made ones.
    assert abs(float((real - batch["x_d"]).std()) * 255 - 1) < 0.1
    made = (objectives_shrink(batch["x_g"], k) + 1) / 2
    assert abs(float((fake - made).std()) * 255 - 0.5) < 0.05
    assert set(aux.metrics) == {"real_score", "fake_score"}


def objectives_shrink(x, k):
    from vaesr.imaging import correlate

    return correlate(2 * x - 1, k, stride=2)


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="channels must be mixed or apart, got 'grey'"):
        players(channels="grey")
