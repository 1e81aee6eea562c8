"""README's Python runs as it is written, and its commands name what exists."""

import pathlib
import re

import jax.numpy as jnp

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_snippets_run():
    names: dict = {"__name__": "readme"}
    for snippet in SNIPPETS:  # one after the other, as a reader would
        exec(compile(snippet, "README.md", "exec"), names)
    assert names["kl"].shape == (8,) and names["db"].shape == (8,)
    assert int(names["state"].step) == 1 and float(names["values"]["psnr_db"]) > 0
    assert names["by_q"].mean.shape == (8, 20) and float(jnp.abs(names["by_q"].mean).max()) > 0
    assert float(jnp.abs(names["exported"](names["x_lr"])[0].clip(0, 1) - names["larger"]).max()) < 1e-5
    assert names["spread"].shape == (8, 32, 32, 3) and float(names["kl_weights"]) > 0


def test_pictures_and_files_exist():
    root = pathlib.Path(__file__).parent.parent
    named = re.findall(r"(benchmarks/results/[\w.-]+|vaesr/\w+\.py)", README)
    assert named
    for path in named:
        assert (root / path).exists(), path
    assert "@@" not in README
