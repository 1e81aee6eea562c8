"""The jaxpr's operation count against closed forms."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks import flops
from vaesr import forms
from vaesr.layers import conv2d

_NHWC = ("NHWC", "HWIO", "NHWC")


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _conv(x, kernel, **options):
    return lax.conv_general_dilated(
        x, kernel, options.pop("strides", (1, 1)), options.pop("padding", "SAME"),
        dimension_numbers=_NHWC, **options,
    )  # fmt: skip


def test_matmul():
    counted = flops.count(jnp.matmul, _shape(8, 16), _shape(16, 4))
    assert counted.total == 2 * 8 * 16 * 4
    assert counted.exact
    assert counted.by_primitive == {"dot_general": 2 * 8 * 16 * 4}


def test_batched_dot():
    counted = flops.count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), _shape(3, 4, 5), _shape(3, 5, 6))
    assert counted.total == 2 * 3 * 4 * 5 * 6


def test_gradient_of_matmul_is_three_forwards():
    def loss(a, b):
        return (a @ b).sum()

    counted = flops.count(jax.value_and_grad(loss, argnums=(0, 1)), _shape(8, 16), _shape(16, 4))
    assert counted.total == 3 * 2 * 8 * 16 * 4


def test_scan_multiplies_by_its_length():
    def chain(x, w):
        return lax.scan(lambda c, _: (c @ w, None), x, None, length=10)[0]

    assert flops.count(chain, _shape(4, 4), _shape(4, 4)).total == 10 * 2 * 4**3
    assert flops.count(jax.jit(chain), _shape(4, 4), _shape(4, 4)).total == 10 * 2 * 4**3


def test_branches_of_unequal_work_are_told():
    def choose(other):
        return lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ x, other, x)

    uneven = flops.count(choose(lambda x: x), _shape(4, 4))
    assert (uneven.total, uneven.uneven, uneven.exact) == (2 * 4**3, 1, True)
    assert flops.count(choose(lambda x: x @ x.T), _shape(4, 4)).uneven == 0


def test_conv_counts_border_taps():
    counted = flops.count(_conv, _shape(2, 9, 7, 3), _shape(3, 3, 3, 5))
    assert counted.total == 2 * (2 * 9 * 7) * (9 * 3 * 5)


def test_grouped_and_depthwise_conv():
    def grouped(x, k):
        return _conv(x, k, feature_group_count=2)

    def depthwise(x, k):
        return _conv(x, k, feature_group_count=8)

    assert flops.count(grouped, _shape(1, 6, 6, 8), _shape(3, 3, 4, 10)).total == 2 * 36 * 9 * 4 * 10
    assert flops.count(depthwise, _shape(1, 6, 6, 8), _shape(5, 5, 1, 8)).total == 2 * 36 * 25 * 8


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_of_conv_is_three_forwards(stride, groups):
    def loss(x, k):
        return _conv(x, k, strides=(stride, stride), feature_group_count=groups).sum()

    forward = 2 * 2 * (8 // stride) ** 2 * 9 * (4 // groups) * 6
    args = _shape(2, 8, 8, 4), _shape(3, 3, 4 // groups, 6)
    assert flops.count(loss, *args).total == forward
    assert flops.count(jax.grad(loss, argnums=(0, 1)), *args).total == 3 * forward


def test_transposed_conv_counts_no_zeros():
    def transposed(x, k):
        return lax.conv_transpose(x, k, (2, 2), "SAME", dimension_numbers=_NHWC)

    # Every input element meets every tap of the 4x4 kernel once (border taps counted).
    assert flops.count(transposed, _shape(1, 8, 8, 3), _shape(4, 4, 3, 5)).total == 2 * 64 * 16 * 3 * 5


def test_dilated_kernel():
    def dilated(x, k):
        return _conv(x, k, rhs_dilation=(2, 2))

    assert flops.count(dilated, _shape(1, 8, 8, 3), _shape(3, 3, 3, 5)).total == 2 * 64 * 9 * 3 * 5


def test_custom_derivatives_and_remat():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    args = _shape(4, 4), _shape(4, 4)
    assert flops.count(product, *args).total == 2 * 4**3
    assert flops.count(jax.grad(lambda a, b: product(a, b).sum(), (0, 1)), *args).total == 3 * 2 * 4**3

    @jax.custom_jvp
    def twice(a, b):
        return a @ b @ b

    twice.defjvp(lambda primals, tangents: (twice(*primals), tangents[0]))
    assert flops.count(twice, *args).total == 2 * 2 * 4**3
    assert flops.count(jax.checkpoint(jnp.matmul), *args).total == 2 * 4**3


def test_cond_takes_the_dearest_branch():
    def choose(flag, a):
        return lax.cond(flag, lambda a: a @ a, lambda a: a @ a @ a, a)

    assert flops.count(choose, jax.ShapeDtypeStruct((), bool), _shape(4, 4)).total == 2 * 2 * 4**3


def test_while_is_flagged():
    def loop(a):
        return lax.while_loop(lambda a: a[0, 0] < 9, lambda a: a @ a, a)

    counted = flops.count(loop, _shape(4, 4))
    assert counted.unknown_loops == 1
    assert not counted.exact
    harmless = flops.count(lambda a: lax.while_loop(lambda a: a[0] < 9, lambda a: a + 1, a), _shape(4))
    assert harmless.exact


def test_shard_map_counts_every_device():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def local(a, w):
        return a @ w

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec("data"))
    assert flops.count(mapped, _shape(8, 4), _shape(4, 4)).total == 2 * 8 * 4 * 4


def test_a_form_per_platform_counts_what_its_gradients_need():
    def loss(x, k):
        return conv2d(x, k).sum()

    forward = 2 * 2 * 8**2 * 9 * 16 * 2  # few output channels: on CPUs a matmul for the kernel's gradient
    args = _shape(2, 8, 8, 16), _shape(3, 3, 16, 2)
    assert flops.count(loss, *args).total == forward
    counted = flops.count(jax.value_and_grad(loss, argnums=(0, 1)), *args)
    assert counted.total == 3 * forward
    assert set(counted.by_primitive) == {"conv_general_dilated", "dot_general"}
    with forms.only("tpu"):
        counted = flops.count(jax.value_and_grad(loss, argnums=(0, 1)), *args)
    assert set(counted.by_primitive) == {"conv_general_dilated"}
