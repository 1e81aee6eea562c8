"""The page of measurements: what its JSON files say, and what its authors wrote."""

import numpy as np
import pytest

from benchmarks import page, report, timing


def _result(suite="train"):
    def row(side, framework, seconds, note=""):
        made = timing.Side(side, framework, lambda calls: None, 16, note=note)
        samples = timing.Samples(wall_s=[seconds] * 4, cpu_s=(np.ones(4) * seconds).tolist())
        return report.row(case, made, samples, clock="cpu")

    case = timing.Case(suite, "net x2, float32", [])
    rows = [
        row("vaesr, 5 steps a dispatch", "vaesr", 0.002, note="differs by 0"),
        row("torch eager", "torch", 0.006),
        row("torch compile", "torch", 0.003),
        report.absent_row(timing.Case(suite, "other x2, float32", []), "vaesr", "why", status="refused"),
    ]
    report.finish(rows)
    environment = {
        "device": "chip", "cores": 1, "pinned": True, "git": None, "versions": {"jax": "1", "torch": "2"},
        "argv": ["--suite", suite, "--json", "out.json"],
    }  # fmt: skip
    return {"schema": report.SCHEMA, "environment": environment, "rows": rows}


def test_the_page_is_what_its_files_say():
    text = (page.RESULTS / "README.md").read_text("utf-8")
    assert page.write(text, page.read_results(page.RESULTS)) == text, "run: python -m benchmarks.page"


def test_tables_are_replaced_and_words_kept():
    before = (
        "# Ours\n<!-- table: files -->\nold\n<!-- end -->\nwhy\n<!-- table: train -->\nold\n<!-- end -->\n"
    )
    text = page.write(before, {"a.json": _result()})
    assert "old" not in text and text.startswith("# Ours\n") and "<!-- end -->\nwhy\n" in text
    assert "| net x2 | 5 steps a dispatch | 2 ms | 3 ms (compile) | 1.50x | [1](a.json) |" in text
    assert "- net x2 [1]: 5 steps a dispatch: differs by 0\n" in text
    assert "- other x2 [1]: refused, why\n" in text
    assert "`--suite train`" in text
    assert page.write(text, {"a.json": _result()}) == text


def test_a_suite_without_a_place_gets_one():
    text = page.write("# Ours\n", {"a.json": _result("new")})
    assert "## new\n\n<!-- table: new -->\n| case" in text


@pytest.mark.parametrize("missing", [True, False])
def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys, missing):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    report.write_json(tmp_path / "a.json", _result()["rows"], _result()["environment"])
    if not missing:
        (tmp_path / "README.md").write_text("# Ours\n")
    assert page.main() == 0
    assert "1.50x" in (tmp_path / "README.md").read_text()
    (tmp_path / "b.json").write_text('{"schema": 0}')
    assert page.main() == 2
    assert "b.json has schema 0" in capsys.readouterr().err
