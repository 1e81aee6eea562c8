"""Functions compiled as users' programs are: what tests save in compiling (`conftest.py`) costs a digit."""

from collections.abc import Callable
from typing import Any

import jax


def as_for_users(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under `jit`, without the tests' short cuts in XLA's code generation."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})
