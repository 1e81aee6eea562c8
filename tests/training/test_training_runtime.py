"""Options of the compiler: what a release of XLA doesn't know is left out."""

import jax
import pytest

from vaesr.training import quick_compile, runtime


def test_quick_compile_gives_what_this_xla_knows():
    options = quick_compile("cpu")
    assert options["xla_backend_optimization_level"] == 0
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1.0) == 2.0


def test_dropped_options_are_left_out_and_wrong_values_are_not_hidden():
    assert not runtime._has_option("xla_no_such_option", True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        runtime._has_option("xla_backend_optimization_level", "much")
