"""A program holds the forms of the platform that it is compiled for, whatever the machine that traces it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr import forms, quantisation
from vaesr.layers import Conv, conv2d, global_mean, strided_conv2d
from vaesr.layers.linear import variance_layer
from vaesr.layers.resampling import conv_transpose2d
from vaesr.models.edsr import EDSR
from vaesr.models.vqvae import VQVAE
from vaesr.objectives import Aux
from vaesr.training import (
    Player,
    compile_step,
    contains_convolution,
    create_state,
    make_mesh,
    make_train_step,
)

ACCELERATORS = ("cuda", "rocm", "tpu")


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def gradients(function):
    """Of a nonlinear function of the result, so that what the forward pass keeps is used."""
    return jax.grad(lambda *args: jnp.sin(function(*args)).sum(), (0, 1))


X, WIDE, NARROW = normal(0, 2, 9, 8, 16), normal(1, 3, 3, 16, 16) / 12, normal(2, 3, 3, 16, 2) / 12
HALVING, DOUBLING = normal(3, 4, 4, 16, 5) / 16, normal(4, 4, 4, 16, 5) / 16
CODES = jnp.asarray(np.random.default_rng(5).integers(0, 9, (2, 9, 8)))


def looped(x, kernel):
    return strided_conv2d(x, kernel, stride=2, padding=1, form="loop")


# What is computed, and how many of XLA's convolutions it holds on accelerators.
OPERATIONS = {
    "winograd": (conv2d, (X, WIDE), 1),
    "winograd_gradients": (gradients(conv2d), (X, WIDE), 3),
    "patches_gradients": (gradients(conv2d), (X, NARROW), 3),
    "loop_gradients": (gradients(lambda x, k: conv2d(x, k, form="loop")), (X[..., :3], WIDE[:, :, :3]), 3),
    "additive_gradients": (gradients(lambda x, k: conv2d(x, k, form="additive")), (X, WIDE), 3),
    "strided_gradients": (gradients(looped), (X, HALVING), 3),
    "doubling_gradients": (gradients(conv_transpose2d), (X, DOUBLING), 3),
    "global_mean": (global_mean, (X,), 0),
    "global_mean_gradient": (jax.grad(lambda x: jnp.sin(global_mean(x)).sum()), (X,), 0),
    "nearest_codes": (quantisation.nearest_codes, (X, normal(6, 9, 16)), 0),
    "code_statistics": (lambda z, codes: quantisation.code_statistics(z, codes, 9), (X, CODES), 0),
    "lookup_gradient": (
        jax.grad(lambda e: jnp.sin(quantisation.lookup_codes(e, CODES)).sum()), (normal(6, 9, 16),), 0,
    ),
}  # fmt: skip


def lowered(function, args, platform):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_platform_gets_its_own_form(name):
    function, args, convolutions = OPERATIONS[name]
    assert forms.made_for_cpus(function, *args, platform="cpu")
    for platform in ACCELERATORS:
        assert not forms.made_for_cpus(function, *args, platform=platform)
        text = lowered(function, args, platform)
        assert text.count("stablehlo.convolution(") == convolutions
        with forms.only(platform):
            alone = lowered(function, args, platform)
        for operation in ("dot_general", "while", "sort", "reduce", "scatter"):
            word = rf"stablehlo\.{operation}\b"
            assert len(re.findall(word, text)) == len(re.findall(word, alone))
        assert "stablehlo.case" not in alone


@pytest.mark.parametrize("name", OPERATIONS)
def test_all_forms_give_the_same_numbers(name):
    """The accelerators' runs here too, on the CPU; and what a CPU is given is its own, to the last bit."""
    function, args, _ = OPERATIONS[name]
    found = jax.tree.leaves(jax.jit(function)(*args))
    results = {}
    for platform in ("cpu", "tpu"):
        with forms.only(platform):
            results[platform] = jax.tree.leaves(jax.jit(function)(*args))
    for ours, cpu, tpu in zip(found, results["cpu"], results["tpu"], strict=True):
        np.testing.assert_array_equal(ours, cpu)
        np.testing.assert_allclose(ours, tpu, atol=2e-5 * float(jnp.abs(tpu).max()))


def test_a_program_for_one_platform_holds_no_choice_when_compiled():
    text = jax.jit(gradients(conv2d)).lower(X, WIDE).compile().as_text()
    assert "conditional(" not in text and "convolution(" not in text


def test_exported_for_several_platforms_each_has_its_own(tmp_path):
    def network(x, kernel):
        return global_mean(jax.nn.relu(conv2d(x, kernel)))

    exported = jax.export.export(jax.jit(network), platforms=("cpu", "cuda", "tpu"))(X, WIDE)
    text = exported.mlir_module()
    assert "stablehlo.convolution(" in text and "stablehlo.dot_general" in text
    np.testing.assert_allclose(jax.jit(exported.call)(X, WIDE), network(X, WIDE), atol=1e-6)
    for platform in ACCELERATORS:
        alone = jax.export.export(jax.jit(network), platforms=(platform,))(X, WIDE).mlir_module()
        assert "stablehlo.convolution(" in alone and "stablehlo.dot_general" not in alone


@pytest.mark.slow
def test_under_transformations():
    def loss(x, kernel):
        return jnp.sin(conv2d(x, kernel)).sum()

    def direct(x, kernel):
        return jnp.sin(conv2d(x, kernel, form="direct")).sum()

    def twice(function):
        return jax.grad(lambda x, k: jnp.square(jax.grad(function)(x, k)).sum(), 1)

    several = jnp.stack([X, X + 1]), jnp.stack([WIDE, -WIDE])
    for of in (
        lambda f: jax.vmap(jax.grad(f, (0, 1))),
        lambda f: jax.grad(lambda xs, ks: jax.lax.scan(lambda c, a: (c + f(*a), None), 0.0, (xs, ks))[0]),
        lambda f: jax.grad(lambda xs, ks: jax.lax.map(lambda a: jax.checkpoint(f)(*a), (xs, ks)).sum()),
    ):
        for ours, theirs in zip(
            jax.tree.leaves(jax.jit(of(loss))(*several)), jax.tree.leaves(jax.jit(of(direct))(*several)),
            strict=True,
        ):  # fmt: skip
            np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(jnp.abs(theirs).max()))
    theirs = jax.jit(twice(direct))(X, WIDE)
    np.testing.assert_allclose(
        jax.jit(twice(loss))(X, WIDE), theirs, atol=1e-4 * float(jnp.abs(theirs).max())
    )
    np.testing.assert_allclose(jax.grad(loss)(X, WIDE), jax.grad(direct)(X, WIDE), atol=2e-5)  # not jitted
    _, tangent = jax.jvp(global_mean, (X,), (X,))
    np.testing.assert_allclose(tangent, X.mean((1, 2), keepdims=True), atol=1e-6)


@pytest.mark.slow
def test_variances_have_a_form_without_negative_zeros():
    layer = variance_layer(Conv(16))
    x = jnp.zeros((1, 8, 8, 16)).at[0, 0, 0].set(1e4)
    variables = jax.tree.map(jnp.abs, layer.init(jax.random.key(0), x))
    y = jax.jit(layer.apply)(variables, x) - variables["params"]["bias"].reshape(1, 1, 1, -1)
    assert float(y[:, 3:].min()) == float(y[:, 3:].max()) == 0
    assert not forms.made_for_cpus(layer.apply, variables, x, platform="tpu")


def test_a_search_for_convolutions_looks_at_one_platform():
    assert not contains_convolution(conv2d, X, WIDE, platform="cpu")
    assert contains_convolution(conv2d, X, WIDE, platform="tpu")
    with forms.only("tpu"):
        assert contains_convolution(conv2d, X, WIDE, platform="cpu")


def player(model, of_output):
    def objective(params, variables, batch, *, key, step):
        output, new = model.apply({"params": params["net"], **variables}, batch["x"], mutable=list(variables))
        return of_output(output, batch), Aux({}, dict(new))

    def init(key):
        variables = dict(model.init(key, jnp.zeros((1, 8, 8, 3))))
        return {"net": variables.pop("params")}, variables

    players = {"net": Player(objective, optax.adam(1e-3))}
    return players, jax.eval_shape(lambda key: create_state(init, players, key=key), jax.random.key(0))


def edsr():
    return player(
        EDSR(scale=2, channels=16, blocks=1), lambda y, batch: jnp.abs(y - batch["y"]).mean()
    ), {"x": (8, 8, 8, 3), "y": (8, 16, 16, 3)}  # fmt: skip


def vqvae():
    model = VQVAE(image_shape=(8, 8, 3), channels=16, res_blocks=1, res_channels=16, codes=8, code_dim=4)
    return player(
        model, lambda out, batch: jnp.square(out.reconstruction - batch["x"]).mean()
    ), {"x": (8, 8, 8, 3)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("system", [edsr, vqvae])
def test_the_compiled_step_of_a_system(system, accumulate):
    (players, state), shapes = system()
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    step = compile_step(make_train_step(players, accumulate=accumulate), make_mesh(), state=state)
    assert forms.made_for_cpus(step, state, batch, platform="cpu")
    for platform in ("cuda", "tpu"):
        assert not forms.made_for_cpus(step, state, batch, platform=platform)


@pytest.mark.slow
def test_micro_batches_are_a_loop_on_accelerators_only_and_traced_once():
    calls = []

    def objective(params, variables, batch, *, key, step):
        calls.append(batch["x"].shape)
        return jnp.square(batch["x"] @ params["net"]["w"]).mean(), Aux({}, variables)

    players = {"net": Player(objective, optax.sgd(0.1))}
    state = create_state(lambda key: ({"net": {"w": normal(0, 3, 2)}}, {}), players, key=jax.random.key(0))
    step, batch = make_train_step(players, accumulate=4), {"x": normal(1, 8, 3)}
    traced = jax.jit(step).trace(state, batch)
    assert calls == [(2, 3)]
    loops = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")
        for platform in ("cpu", *ACCELERATORS)
    }
    assert loops == {"cpu": 0, "cuda": 1, "rocm": 1, "tpu": 1}
    new, _ = jax.jit(step)(state, batch)
    for unroll in (True, False):
        same, _ = jax.jit(make_train_step(players, accumulate=4, unroll=unroll))(state, batch)
        np.testing.assert_allclose(same.params["net"]["w"], new.params["net"]["w"], rtol=1e-6)
