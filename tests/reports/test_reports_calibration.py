"""Figures of uncertainty draw what they are given; runs are compared over their seeds."""

import json

import numpy as np
import pytest

from vaesr import reports


def predictions(count=300, classes=4, sharpness=1.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(count, classes))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probs.astype(np.float32), rng.integers(0, classes, count)


def red_share(picture):
    """How much of the picture has the hue of the gap's hatching."""
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return float(((red - green > 25) & (red - blue > 25)).mean())


def test_the_gap_is_drawn_where_confidence_is_not_accuracy():
    confident = np.log(np.full((100, 2), 0.05) + np.array([[0.9, 0.0]])).astype(np.float32)
    calibrated = (np.arange(100) >= 95).astype(np.int32)  # 95 % sure and 95 % right
    wrong = (np.arange(100) >= 30).astype(np.int32)
    good = reports.reliability_diagram({"a": confident}, calibrated)
    bad = reports.reliability_diagram({"a": confident}, wrong)
    assert red_share(bad) > 2 * red_share(good)


def test_reliability_panels_stand_side_by_side():
    log_probs, labels = predictions()
    one = reports.reliability_diagram({"a": log_probs}, labels)
    three = reports.reliability_diagram(dict.fromkeys("abc", log_probs), labels, bins=5, title="Test split")
    assert one.dtype == three.dtype == np.uint8 and three.shape[1] > 2 * one.shape[1]
    reports.reliability_diagram({"one example": log_probs[:1]}, labels[:1])
    with pytest.raises(ValueError, match="predictions must hold at least one model"):
        reports.reliability_diagram({}, labels)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        reports.reliability_diagram({"a": log_probs}, labels, bins=0)


def test_regression_bands_widen_with_their_deviations():
    x = np.linspace(0, 1, 50)
    narrow, wide = np.full(50, 0.05), np.full(50, 0.5)
    draw = lambda aleatoric, epistemic: reports.regression_bands(
        x, 0 * x, aleatoric, epistemic, data=([0.5, 0.5], [-2.0, 2.0]), truth=x, title="curve"
    )
    blue = lambda picture: (picture[..., 2].astype(int) - picture[..., 0] > 20).mean()
    green = lambda picture: (picture[..., 1].astype(int) - picture[..., 2] > 5).mean()
    assert blue(draw(narrow, wide)) > 3 * blue(draw(narrow, narrow))
    assert green(draw(wide, narrow)) > 3 * green(draw(narrow, narrow))
    with pytest.raises(ValueError, match="must be vectors of one length"):
        reports.regression_bands(x, x[:9], narrow, wide)


def test_entropy_histograms_and_pruning_curves_draw():
    rng = np.random.default_rng(0)
    values = {"a": rng.uniform(size=90), "b": rng.uniform(size=90)}
    foreign = {"a": rng.uniform(size=30), "b": rng.uniform(size=30)}
    assert reports.entropy_histograms(values, foreign, limit=1.0, title="Entropy").std() > 1
    with pytest.raises(ValueError, match="must name the same models"):
        reports.entropy_histograms(values, {"a": foreign["a"]}, limit=1.0)
    picture = reports.pruning_curve([0, 0.5, 0.95], {"a": [1.0, 1.5, 40.0], "b": [1.0, 9.0, 80.0]}, title="t")
    assert picture.std() > 1
    with pytest.raises(ValueError, match="curves of 3 values"):
        reports.pruning_curve([0, 0.5, 0.95], {"a": [1.0]})


def write_run(folder, seed, values, lr=0.1, preset="default", split="test"):
    folder.mkdir()
    config = {"data": "embedded:digits", "seed": seed, "workdir": str(folder), "optim": {"lr": lr}}
    content = {"experiment": "experiments.bnn", "preset": preset, "config": config}
    (folder / "config.json").write_text(json.dumps(content))
    rows = [{"step": 5, "split": "train", "loss": 1.0}, {"step": 9, "split": split, "time": 1.0, **values}]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


def test_runs_are_grouped_by_everything_but_the_seed(tmp_path):
    errors = [10.0, 11.0, 15.0]
    same = [write_run(tmp_path / f"s{i}", i, {"error_percent": e}) for i, e in enumerate(errors)]
    other = write_run(tmp_path / "other", 0, {"error_percent": 9.0, "ece": 0.5}, lr=0.2)
    third = write_run(tmp_path / "third", 0, {"error_percent": 8.0}, preset="paper")
    first, second, paper = reports.group_runs([*same, other, third])
    assert first.seeds == [0, 1, 2] and first.name == "experiments.bnn default"
    assert second.name == "experiments.bnn default (optim.lr=0.2)" and paper.name == "experiments.bnn paper"
    assert first.mean("error_percent") == pytest.approx(12.0)
    assert first.deviation("error_percent") == pytest.approx(np.std(errors, ddof=1))
    assert np.isnan(second.deviation("error_percent")) and np.isnan(first.mean("ece"))
    lines = reports.compare_runs([*same, other, third]).splitlines()
    assert lines[0] == "A: experiments.bnn default, 3 runs, seeds 0, 1, 2"
    assert lines[1] == "B: experiments.bnn default (optim.lr=0.2), 1 run, seed 0"
    table = [line.split() for line in lines[4:]]
    assert table[0] == ["test", "metric", "A", "B", "C"]
    assert table[1] == ["error_percent", "12", "±", "2.6", "9", "8"]
    assert table[2] == ["ece", "–", "0.5000", "–"]


def test_a_resumed_run_counts_its_last_evaluation(tmp_path):
    run = write_run(tmp_path / "run", 0, {"ece": 0.5})
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 12, "split": "test", "ece": 0.25}) + "\n")
    assert reports.group_runs([run])[0].mean("ece") == 0.25


def test_what_cannot_be_compared_is_a_sentence(tmp_path):
    run = write_run(tmp_path / "run", 0, {"ece": 0.5})
    unfinished = write_run(tmp_path / "open", 0, {"ece": 0.5}, split="validation")
    with pytest.raises(ValueError, match="has no test metrics: the run is unfinished"):
        reports.compare_runs([run, unfinished])
    assert "validation metric" in reports.compare_runs([unfinished], split="validation")
    with pytest.raises(FileNotFoundError, match="nowhere is no run folder"):
        reports.compare_runs([run, tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="one run given twice"):
        reports.compare_runs([run, tmp_path / "open" / ".." / "run"])
    with pytest.raises(ValueError, match="at least one run folder"):
        reports.compare_runs([])
