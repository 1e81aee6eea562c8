"""The pages' Python runs as it is written, and their commands, links and tables name what exists."""

import ast
import contextlib
import functools
import importlib
import pathlib
import re
import shlex

import jax.numpy as jnp
import pytest

from benchmarks import run as benchmark
from experiments.__main__ import gallery
from vaesr.app.cli import make_parser
from vaesr.data import open_bank
from vaesr.runs.flags import cli

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md"] + [
    page
    for room in ("vaesr", "experiments", "benchmarks")
    for page in sorted((ROOT / room).rglob("README.md"))
]
README = PAGES[0].read_text("utf-8")
SOURCES = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "experiments").glob("[!_]*.py"))}
EXPERIMENTS = {
    name: ast.get_docstring(ast.parse(source), clean=False) or ""
    for name, source in SOURCES.items()
    if re.search(r"^PRESETS\b", source, flags=re.MULTILINE)
}


def name_of(page):
    return str(page.relative_to(ROOT))


def run_snippets(page):
    names: dict = {"__name__": "readme"}
    # one after the other, as a reader would
    for snippet in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.DOTALL):
        exec(compile(snippet, page, "exec"), names)
    return names


def blocks(text):
    """The lines of a page's code blocks that are not Python."""
    return [
        line for language, block in re.findall(r"```(\w*)\n(.*?)```", text, flags=re.DOTALL)
        if language != "python" for line in block.splitlines()
    ]  # fmt: skip


def commands(text, program):
    """What follows `program` where a page shows it as code, or a docstring on an indented line."""
    spans = re.findall(r"(?<!`)`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    shown = [
        line.partition("#")[0] for line in [*blocks(text), *spans, *re.findall(r"^    (.*)$", text, re.M)]
    ]
    return [
        found[1].strip() for line in shown if (found := re.search(rf"(?:^|&& ){program}(.*)", line.strip()))
    ]


@pytest.mark.slow
def test_snippets_of_the_readme_run():
    names = run_snippets("README.md")
    assert names["kl"].shape == (8,) and names["db"].shape == (8,)
    assert int(names["state"].step) == 1 and float(names["values"]["psnr_db"]) > 0
    assert names["by_q"].mean.shape == (8, 20) and float(jnp.abs(names["by_q"].mean).max()) > 0


@pytest.mark.slow
def test_snippets_of_the_command_run():
    names = run_snippets("vaesr/app/README.md")
    assert float(jnp.abs(names["exported"](names["x_lr"])[0].clip(0, 1) - names["larger"]).max()) < 1e-5
    assert jnp.array_equal(names["again"].params["head"]["kernel"], names["weights"]["head"]["kernel"])


@pytest.mark.slow
def test_snippets_of_the_experiments_run():
    names = run_snippets("experiments/README.md")
    assert names["spread"].shape == (8, 32, 32, 3) and float(names["kl_weights"]) > 0
    assert int(names["playing"].step) == 1


@pytest.mark.slow
def test_snippets_of_the_metrics_run():
    names = run_snippets("vaesr/metrics/README.md")
    assert names["score"].shape == names["loss"].shape == (8,)
    assert float(names["distance"]) > 0


def test_every_page_with_snippets_has_a_test():
    with_snippets = {name_of(page) for page in PAGES if "```python" in page.read_text("utf-8")}
    assert with_snippets == {
        "README.md", "vaesr/app/README.md", "experiments/README.md", "vaesr/metrics/README.md"
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pictures_links_and_files_exist(page):
    text = page.read_text("utf-8")
    assert "@@" not in text
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, section = link.partition("#")
        there = page if not target else (page.parent / target).resolve()
        assert there.exists(), f"{name_of(page)} links {link}"
        if section:
            headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), flags=re.M)
            anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert section in anchors, f"{name_of(page)} links {link}"
    for path in re.findall(r"(?<![\w/])((?:benchmarks|vaesr|experiments|tests)/[\w./-]+\.\w+)", text):
        assert "NAME" in path or (ROOT / path).exists(), f"{name_of(page)} names {path}"


def test_the_readme_is_short():
    assert len(README.encode()) <= 10_000


def test_the_readme_has_two_commands_of_one_line():
    chained = [line for line in blocks(README) if line.startswith("pip install -e") and "&&" in line]
    assert chained == [
        'pip install -e ".[experiments]" && python -m experiments.vae',
        'pip install -e ".[test]" && pytest',
    ]


def test_every_extra_that_is_named_exists():
    extras = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.optional-dependencies]")[2]
    for page in PAGES:
        for named in re.findall(r"\.\[([\w,]+)\]", page.read_text("utf-8")):
            for extra in named.split(","):
                assert re.search(rf"^{extra} = \[", extras, re.M), f"{name_of(page)} names the extra {extra}"


def test_the_gallery_is_what_is_discovered():
    shown = re.search(r"<!-- table: python -m experiments gallery -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert shown is not None
    assert re.findall(r"^\| .* \| `python -m experiments\.(\w+)` \|", shown[1], re.M) == list(EXPERIMENTS)
    assert shown[1] == gallery(), "put there what this prints: python -m experiments gallery"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_docstrings_say_command_figure_and_time(name):
    text = " ".join(EXPERIMENTS[name].split())
    assert commands(EXPERIMENTS[name], rf"python -m experiments\.{name}\b"), "has no command"
    found = re.search(
        r"Expected: (.+\.) Measured: (.+); .*\d+ (?:s|min|h) on [^;]*(?:CPU core|GPU|TPU)s?\.$", text
    )
    assert found, "does not end with: Expected: ... Measured: FIGURE; TIME on DEVICE."


SHOWN = sorted({
    command
    for text in [*(page.read_text("utf-8") for page in PAGES), *EXPERIMENTS.values()]
    for command in commands(text, r"python -m experiments\.(?=[a-z])")
})  # fmt: skip


@functools.cache
def presets(name):
    return importlib.import_module(f"experiments.{name}").PRESETS


@pytest.mark.parametrize("command", SHOWN)
def test_experiments_take_the_commands_that_are_shown(command, capsys):
    name, *arguments = shlex.split(command)
    assert name in EXPERIMENTS, f"there is no experiment {name}"
    with contextlib.suppress(SystemExit):
        cli(presets(name), arguments)
        return
    pytest.fail(capsys.readouterr().err)


def test_bounds_are_quoted_of_as_many_samples_as_the_command_takes():
    quoted = 0
    rows = [line for page in PAGES for line in page.read_text("utf-8").splitlines() if line.startswith("|")]
    for row in rows:
        for samples in re.findall(r"([\d,]+)[- ]samples? bound", row):
            (command,) = commands(row, r"python -m experiments\.(?=[a-z])")
            name, *arguments = shlex.split(command)
            _, config = cli(presets(name), arguments)
            assert config.bound_samples == int(samples.replace(",", "")), row
            quoted += 1
    assert quoted


@pytest.mark.slow
def test_as_many_digits_are_named_as_train(use_cache):
    train = len(open_bank("embedded:digits").split("train"))
    texts = [*(page.read_text("utf-8") for page in PAGES), *EXPERIMENTS.values()]
    named = [count for text in texts for count in re.findall(r"([\d,]+) (?:real )?MNIST digits", text)]
    assert named and set(named) == {f"{train:,}"}


def test_vaesr_and_the_benchmarks_take_the_commands_that_are_shown():
    seen = 0
    for text in [*(page.read_text("utf-8") for page in PAGES), *EXPERIMENTS.values()]:
        for command in commands(text, r"vaesr (?=[a-z]+ )"):
            make_parser().parse_args(shlex.split(command))
            seen += 1
        for command in commands(text, r"python -m benchmarks\.run "):
            benchmark.parser().parse_args(shlex.split(command))
            seen += 1
    assert seen > 20


@pytest.mark.slow
def test_the_layout_is_what_is_there():
    drawn = re.search(r"## Layout\n\n```\nvaesr/\n(.*?)```", README, re.DOTALL)
    assert drawn is not None
    rooms = re.findall(r"^  (\w+)(?:/|\.py) ", drawn[1], re.M)
    found = [path.parent.name for path in (ROOT / "vaesr").glob("*/__init__.py")]
    assert sorted(rooms) == sorted(found)
    for room in re.findall(r"^(\w+)/ ", drawn[1], re.M):
        assert (ROOT / room).is_dir()


def test_the_page_of_the_tests_names_those_that_are_there():
    page = (ROOT / "tests" / "README.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", page)
    assert len(named) > 100
    gone = [f"{f}::{n}" for f, n in named if f"def {n}(" not in (ROOT / "tests" / f).read_text("utf-8")]
    assert gone == []
