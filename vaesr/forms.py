"""The fast form of an operation, chosen by the platform that a program is compiled for.

XLA's CPU back end is slow at some operations that accelerators are fast at: on CPUs they take another form.
Which one a program gets must not depend on the machine that traces it: what a laptop lowers for a TPU is the
TPU's program.
"""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.interpreters import partial_eval

# In the name of every operation of a form for CPUs.
MARK = "cpu_form"
# A context of JAX's own, which is part of the keys of its trace caches.
_only = jax.make_user_context(default_value=None)


def only(platform: str) -> contextlib.AbstractContextManager[None]:
    """Trace the forms of one platform alone, for what cannot choose afterwards (other programs' converters).

    Args:
        platform: "cpu", "cuda", "rocm" or "tpu".

    Returns:
        A context for a `with` statement.
    """
    return _only(platform)


def of_platform(equation: Any, platform: str) -> Any:
    """The form that a choice by platform takes there, of a traced program.

    Args:
        equation: of a jaxpr, of any primitive.
        platform: "cpu", "cuda", "rocm" or "tpu".

    Returns:
        Its open jaxpr, without what no result of it depends on; None where the equation is no such choice.
    """
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        return None
    chosen = next(i for i, names in enumerate(platforms) if names is None or platform in names)
    branch = equation.params["branches"][chosen]
    jaxpr = getattr(branch, "jaxpr", branch)
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def made_for_cpus(function: Any, *args: Any, platform: str) -> list[str]:
    """Find the operations that are made for CPUs in what a function lowers to.

    Args:
        function: anything traceable, jitted or not; or what its `trace` made of `args`, without them.
        *args: arrays or shapes.
        platform: "cpu", "cuda", "rocm" or "tpu"; no such device is needed.

    Returns:
        Their names in the program, sorted, each once.
    """
    if isinstance(function, jax.stages.Traced):
        traced = function
    else:
        traced = (function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)).trace(*args)
    text = traced.lower(lowering_platforms=(platform,)).as_text(debug_info=True)
    return sorted(set(re.findall(rf'"([^"\n]*\b{MARK}\b[^"\n]*)"', text)))


def by_platform(*args: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """Call `cpu(*args)` where the program is compiled for CPUs, `default(*args)` elsewhere.

    A program for one platform holds its form alone. Gradients of convolutions need `with_own_gradients`.

    Args:
        *args: arrays, or trees of them.
        cpu: any traceable function.
        default: another that returns the same shapes and types.

    Returns:
        What the chosen one returns.
    """
    if _only.value is not None:
        return (cpu if _only.value == "cpu" else default)(*args)

    def marked(*args: Any) -> Any:
        with jax.named_scope(MARK):
            return cpu(*args)

    return lax.platform_dependent(*args, cpu=marked, default=default)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def with_own_gradients(
    cpu: Callable[..., Any], default: Callable[..., Any], static: tuple[Any, ...], *args: Any
) -> Any:
    """`by_platform` with each form's own gradient, chosen by platform too; reverse mode only.

    JAX would differentiate a choice as it does `lax.cond`: what one form keeps for its gradient would be an
    output of all forms.

    Args:
        cpu: a module's function of `*args, *static`.
        default: another that returns the same shapes and types.
        static: hashable arguments.
        *args: arrays; they are all that is kept for the gradient.

    Returns:
        What the chosen one returns.
    """
    return _value(cpu, default, static, args, False)


# Compiled as functions of their own, so that layers of one shape are traced once.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 4))
def _value(
    cpu: Callable[..., Any],
    default: Callable[..., Any],
    static: tuple[Any, ...],
    args: tuple[Any, ...],
    differentiated: bool,
) -> Any:
    def value(form: Callable[..., Any]) -> Callable[..., Any]:
        if not differentiated:
            return lambda *args: form(*args, *static)
        # A form may go another way where a gradient is wanted.
        return lambda *args: jax.vjp(lambda *args: form(*args, *static), *args)[0]

    return by_platform(*args, cpu=value(cpu), default=value(default))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pull(
    cpu: Callable[..., Any],
    default: Callable[..., Any],
    static: tuple[Any, ...],
    args: tuple[Any, ...],
    g: Any,
) -> tuple[Any, ...]:
    def pull(form: Callable[..., Any]) -> Callable[..., Any]:
        # XLA computes nothing twice that the forward pass has computed, and nothing that no one asks for.
        return lambda args, g: jax.vjp(lambda *args: form(*args, *static), *args)[1](g)

    return by_platform(args, g, cpu=pull(cpu), default=pull(default))


def _forward(cpu: Any, default: Any, static: Any, *args: Any) -> tuple[Any, tuple[Any, ...]]:
    return _value(cpu, default, static, args, True), args


def _backward(cpu: Any, default: Any, static: Any, args: tuple[Any, ...], g: Any) -> tuple[Any, ...]:
    return _pull(cpu, default, static, args, g)


with_own_gradients.defvjp(_forward, _backward)
