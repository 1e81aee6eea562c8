"""Rows, table, JSON, plot and the comparison of two results."""

import copy
import json

import numpy as np
import pytest

from benchmarks import compare, env, report, timing


def _row(name, framework, seconds, *, suite="train", case="case", work=1e9, parity=None):
    side = timing.Side(name, framework, lambda calls: None, 16, work_per_step=work, memory_bytes=2**20)
    samples = timing.Samples(wall_s=seconds.tolist(), cpu_s=(0.5 * seconds).tolist())
    return report.row(timing.Case(suite, case, [side], parity), side, samples, clock="cpu")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    noise = 1 + 0.005 * rng.standard_normal((4, 20))
    made = [
        _row("jax", "vaesr", 0.002 * noise[0], suite="peaks", case="matmul 8^3", work=1e9),
        _row("ours", "vaesr", 0.004 * noise[1], parity={"passed": True, "output": 1e-6}),
        _row("torch a", "torch", 0.008 * noise[2], parity={"passed": True, "output": 1e-6}),
        _row("torch b", "torch", 0.006 * noise[3], parity={"passed": True, "output": 1e-6}),
        report.absent_row(timing.Case("train", "other", []), "torch", "torch not installed"),
    ]
    report.finish(made)
    return made


_ENVIRONMENT = {"device": "chip", "driver": None, "cores": 1, "versions": {"jaxlib": "1"}}


def test_row_takes_the_clock_it_is_told(rows):
    ours = rows[1]
    assert ours["median"] == ours["cpu"]["median"] != ours["wall"]["median"]
    assert ours["images_per_s"] == 16 / ours["median"]
    assert ours["work_per_s"] == 1e9 / ours["median"]


def test_ratio_is_to_the_best_peer(rows):
    assert rows[1]["best_peer"] == "torch b"
    assert rows[1]["ratio"] == pytest.approx(1.5, rel=0.02)
    assert rows[1]["share_of_matmul"] == pytest.approx(0.5, rel=0.02)
    assert "ratio" not in rows[2]


def test_table_says_what_is_missing(rows):
    text = report.table(rows)
    assert "skipped: torch not installed" in text
    assert "parity case: passed (output 1.0e-06)" in text
    assert "1.50x" in text or "1.49x" in text or "1.51x" in text


def test_table_shows_failed_checks(rows):
    rows[1]["checks"] = {"loss_finite": False}
    assert "FAILED CHECK case, ours: loss_finite" in report.table(rows)


def test_json_round_trip_and_schema(rows, tmp_path):
    path = tmp_path / "deep" / "result.json"
    report.write_json(path, rows, _ENVIRONMENT)
    assert report.read_json(path)["rows"] == rows
    path.write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match="schema 0"):
        report.read_json(path)


def test_plot(rows, tmp_path):
    pytest.importorskip("matplotlib")
    assert report.plot(tmp_path / "bars.png", rows, title="a title") is None
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert report.plot(tmp_path / "none.png", [], title="") == "no rows to plot"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1234.0, "1234 s"), (1.5, "1.5 s"), (0.0123, "12.3 ms"), (2e-6, "2 us"), (3e-9, "3 ns")],
)
def test_duration(seconds, text):
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 "), (3.14159, "3.14 "), (61.3e9, "61.3 G"), (789.6e12, "790 T")]
)
def test_quantity(value, text):
    assert report.quantity(value) == text


def test_mann_whitney_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    for m, n, shift in ((5, 7, 0.0), (10, 12, 0.8), (20, 20, 0.5), (30, 25, 0.0)):
        a, b = rng.normal(size=m).tolist(), rng.normal(shift, size=n).tolist()
        method = "exact" if max(m, n) <= 12 else "asymptotic"
        assert compare.mann_whitney(a, b) == pytest.approx(
            stats.mannwhitneyu(a, b, method=method).pvalue, rel=1e-9
        )
    a, b = rng.integers(0, 5, 20).tolist(), rng.integers(1, 6, 18).tolist()
    assert compare.mann_whitney(a, b) == pytest.approx(
        stats.mannwhitneyu(a, b, method="asymptotic").pvalue, rel=1e-9
    )
    assert compare.mann_whitney([1, 1], [1, 1]) == 1.0
    with pytest.raises(ValueError, match="both sets"):
        compare.mann_whitney([], [1.0])


def _files(tmp_path, rows, factor, **environment):
    new = copy.deepcopy(rows)
    for r in report.measured(new):
        for values in r["samples"].values():
            values[:] = [v * factor for v in values]
        r["median"] *= factor
    report.write_json(tmp_path / "old.json", rows, _ENVIRONMENT)
    report.write_json(tmp_path / "new.json", new, _ENVIRONMENT | environment)
    return [str(tmp_path / "old.json"), str(tmp_path / "new.json")]


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.05, 0), (1.2, 1), (0.8, 0)])
def test_compare_fails_only_for_slower(rows, tmp_path, factor, code):
    assert compare.main(_files(tmp_path, rows, factor)) == code


def test_compare_needs_the_rank_test_too(rows, tmp_path):
    noisy = copy.deepcopy(rows)
    rng = np.random.default_rng(2)
    for r in report.measured(noisy):
        r["samples"]["cpu_s"] = (r["median"] * (1 + rng.random(20))).tolist()
    old, new = {"rows": noisy}, {"rows": copy.deepcopy(noisy)}
    for r in report.measured(new["rows"]):
        r["median"] *= 1.2
    assert {line["verdict"] for line in compare.compare(old, new, threshold=0.07)} == {"same"}


def test_compare_refuses_other_devices(rows, tmp_path, capsys):
    files = _files(tmp_path, rows, 1.0, device="another chip", versions={"jaxlib": "2"})
    assert compare.main(files) == 2
    message = capsys.readouterr().err
    assert "device: chip against another chip" in message
    assert "jaxlib: 1 against 2" in message
    assert compare.main([*files, "--force"]) == 0


def test_fraction():
    assert compare.fraction("7%") == pytest.approx(0.07)
    assert compare.fraction("0.1") == 0.1
    with pytest.raises(ValueError):
        compare.fraction("-1%")


def test_scrub_removes_folders():
    assert env.scrub("--xla_dump_to=/home/me/x/dump --a=b") == "--xla_dump_to=…/dump --a=b"
    assert env.scrub("out/result.json") == "out/result.json"
    assert env.scrub("/tmp/r.json") == "…/r.json"
    assert env.scrub("train,input 7% a.b") == "train,input 7% a.b"


def test_environment_holds_no_paths():
    text = json.dumps(env.collect(["--json", "/tmp/secret/place/r.json"]))
    assert "secret" not in text
    assert "/home" not in text
    assert '"jax"' in text
