"""Floating point operations of a JAX function, counted on its jaxpr.

The compiler's own `cost_analysis` counts the body of a scan once and drops the border taps of SAME
convolutions, so it is no base for a rate. Here convolutions and matrix products are counted as
`2 x multiply-adds` with their trip counts; element-wise work is left out, as in published figures.

Of operations that have a form per platform, the one for JAX's default platform counts.

Rematerialised forward passes are counted like any other work: count a model with `remat` off to get its
model FLOPs.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

from vaesr import forms


@dataclasses.dataclass
class Flops:
    """A count of operations.

    Attributes:
        total: operations, `2 x multiply-adds`.
        by_primitive: the same, by the primitive's name.
        unknown_loops: `while` loops met, whose bodies were counted once for want of a trip count.
        opaque: kernels met whose inside cannot be counted (Pallas, foreign calls).
        uneven: choices met whose branches differ in their work, of which the largest was counted.
    """

    total: float = 0.0
    by_primitive: Counter[str] = dataclasses.field(default_factory=Counter)
    unknown_loops: int = 0
    opaque: int = 0
    uneven: int = 0

    @property
    def exact(self) -> bool:
        """Whether nothing had to be guessed."""
        return not (self.unknown_loops or self.opaque)

    def add(self, other: "Flops", times: float = 1.0) -> None:
        """Add another count, `times` over."""
        self.total += times * other.total
        for name, value in other.by_primitive.items():
            self.by_primitive[name] += times * value  # type: ignore[assignment]
        self.unknown_loops += other.unknown_loops
        self.opaque += other.opaque
        self.uneven += other.uneven


def count(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Flops:
    """Count the operations of one call; `exact` says whether any loop or kernel had to be guessed.

    The function is anything `jax.make_jaxpr` can trace, jitted or not; its arguments arrays or
    `jax.ShapeDtypeStruct`s.
    """
    return count_jaxpr(jax.make_jaxpr(function)(*args, **kwargs).jaxpr)


def count_jaxpr(jaxpr: Any) -> Flops:
    """Count the operations of an open jaxpr, through every inner one."""
    result = Flops()
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "conv_general_dilated":
            _leaf(result, name, conv_flops(eqn))
        elif name == "dot_general":
            _leaf(result, name, dot_flops(eqn))
        elif name == "scan":
            result.add(count_jaxpr(eqn.params["jaxpr"].jaxpr), eqn.params["length"])
        elif name == "while":
            result.unknown_loops += 1
            result.add(count_jaxpr(eqn.params["body_jaxpr"].jaxpr))
            result.add(count_jaxpr(eqn.params["cond_jaxpr"].jaxpr))
        elif name == "cond" and (form := forms.of_platform(eqn, jax.default_backend())) is not None:
            result.add(count_jaxpr(form))
        elif name == "cond":
            branches = [count_jaxpr(branch.jaxpr) for branch in eqn.params["branches"]]
            result.add(max(branches, key=lambda branch: branch.total))
            result.uneven += len({branch.total for branch in branches}) > 1
        elif name == "shard_map":  # its body is what one device does
            result.add(count_jaxpr(_open(eqn.params["jaxpr"])), eqn.params["mesh"].size)
        elif name in ("pallas_call", "ffi_call"):
            result.opaque += 1
        else:
            for inner in _inner(eqn.params):
                result.add(count_jaxpr(inner))
    return _drop_unless_work(result)


def dot_flops(eqn: Any) -> float:
    """Operations of a `dot_general`: twice the output's elements times the contracted length."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    length = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * length


def conv_flops(eqn: Any) -> float:
    """Operations of a `conv_general_dilated`.

    Taps on the padded border count, as in published figures; taps that fall between the elements of a
    dilated input (transposed convolutions, gradients of strided ones) do not: no one has to compute them.
    """
    numbers, params = eqn.params["dimension_numbers"], eqn.params
    lhs, rhs, out = (v.aval.shape for v in (*eqn.invars[:2], *eqn.outvars))
    in_features = rhs[numbers.rhs_spec[1]]  # per group
    rest = out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    taps = 1
    for i in range(len(lhs) - 2):
        taps *= _taps(
            out[numbers.out_spec[2 + i]],
            rhs[numbers.rhs_spec[2 + i]],
            stride=params["window_strides"][i],
            low=params["padding"][i][0],
            lhs_dilation=params["lhs_dilation"][i],
            rhs_dilation=params["rhs_dilation"][i],
        )
    return 2.0 * rest * in_features * taps


def _taps(out: int, kernel: int, *, stride: int, low: int, lhs_dilation: int, rhs_dilation: int) -> int:
    """Pairs of output position and kernel tap along one axis that meet an element of the input."""
    if lhs_dilation == 1:
        return out * kernel
    place = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * rhs_dilation - low
    return int(np.sum(place % lhs_dilation == 0))


def _leaf(result: Flops, name: str, value: float) -> None:
    result.total += value
    result.by_primitive[name] += value  # type: ignore[assignment]


def _drop_unless_work(result: Flops) -> Flops:
    """Loops that hold no conv or matmul (a random generator's, say) leave the count exact."""
    if not result.total and not result.opaque:
        result.unknown_loops = 0
    return result


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, jex_core.ClosedJaxpr) else jaxpr


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters: those of pjit, remat, custom_vjp and their like."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (jex_core.ClosedJaxpr, jex_core.Jaxpr)):
                yield _open(item)
