"""README's Python runs as it is written, and its commands name what exists."""

import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet):

    names: dict = {"__name__": "readme"}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["kl"].shape == (8,) and names["db"].shape == (8,)
    assert int(names["state"].step) == 1 and float(names["values"]["psnr_db"]) > 0


def test_pictures_and_files_exist():
    root = pathlib.Path(__file__).parent.parent
    named = re.findall(r"(benchmarks/results/[\w.-]+|vaesr/\w+\.py)", README)
    assert named
    for path in named:
        assert (root / path).exists(), path
    assert "@@" not in README
