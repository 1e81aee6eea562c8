"""MDSR: published sizes, all scales' parameters at once, receptive field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.models.mdsr import MDSR, PRESETS

TINY = MDSR(channels=3, blocks=1)
SMALL_UPSCALERS = {"mdsr": MDSR(channels=4, blocks=1)}
STORED = {"mdsr x2 x3 x4": MDSR((2, 3, 4), 8, 2), "mdsr x3 x4": MDSR((3, 4), 8, 1)}
WRITTEN = {"mdsr": (PRESETS["baseline"], 106, ("pre_process.2.1.body.2.weight", "upsample.2.2.bias"))}


@pytest.mark.parametrize(("name", "published"), [("baseline", 3_227_203), ("paper", 7_953_987)])
def test_presets_have_the_published_parameter_count(name, published):
    tree = jax.eval_shape(lambda: PRESETS[name].init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == published


def test_initialisation_makes_the_same_tree_for_every_scale(key):
    x = jnp.zeros((1, 4, 4, 3))
    trees = [jax.eval_shape(lambda s=s: TINY.init(key, x, scale=s)) for s in (2, 3, 4)]
    assert trees[0] == trees[1] == trees[2]
    assert {n for n in trees[0]["params"] if "x3" in n} == {
        "pre_process_x3_0",
        "pre_process_x3_1",
        "upsampler_x3",
    }


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_each_scale_uses_its_own_layers_and_the_shared_ones(key, scale):
    x = jax.random.uniform(key, (1, 5, 6, 3))
    variables = TINY.init(key, x)

    def loss(params):
        y = TINY.apply({"params": params}, x, scale=scale)
        assert y.shape == (1, 5 * scale, 6 * scale, 3)
        assert y.dtype == jnp.float32
        return jnp.square(y).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    moved = {
        n for n, tree in grads.items() if any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(tree))
    }
    own = {f"pre_process_x{scale}_0", f"pre_process_x{scale}_1", f"upsampler_x{scale}"}
    assert moved == own | {"head", "trunk", "tail"}


def test_receptive_radius_is_exact(key):
    radius = TINY.receptive_radius
    assert radius == 14
    side = 2 * radius + 3
    x = jnp.full((1, side, side, 3), 0.5)
    params = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.01, TINY.init(key, x))
    centre = side // 2

    def patch(image):
        y = TINY.apply(params, image + 1.0, scale=2)
        return y[:, 2 * centre : 2 * centre + 2, 2 * centre : 2 * centre + 2].sum()

    touched = np.abs(np.asarray(jax.jit(jax.grad(patch))(x))[0]).sum(-1) > 0
    rows = np.flatnonzero(touched.any(1))
    assert (rows[0], rows[-1]) == (centre - radius, centre + radius)


def test_bad_inputs_raise(key):
    with pytest.raises(ValueError, match=r"scale is 5; this network holds \(2, 3, 4\)"):
        TINY.init(key, jnp.zeros((1, 4, 4, 3)), scale=5)
    with pytest.raises(ValueError, match="x_lr has shape"):
        TINY.init(key, jnp.zeros((4, 4, 3)))


@pytest.mark.parametrize("scan", [False, True])
def test_precision_reaches_every_convolution(scan):
    model = TINY.clone(precision="highest", conv_form="direct", scan=scan)
    x = jnp.zeros((1, 4, 4, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    text = str(jax.make_jaxpr(model.apply)(params, x))
    assert text.count("conv_general_dilated[") == text.count("precision=(Precision.HIGHEST") > 4
