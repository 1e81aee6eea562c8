"""Methods of predictive uncertainty side by side on labelled images: scores, a table and figures."""

import functools
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import data, distributions, metrics, reports
from vaesr.data.evaluation import evenly_spread
from vaesr.evaluators.uncertainty import (
    Members,
    Predict,
    detect_foreign,
    foreign_images,
    measure_members,
    predict_images,
    predict_split,
)

METHOD_TITLES = {
    "bnn": "Bayesian net",
    "deterministic": "one network",
    "ensemble": "ensemble",
    "dropout": "MC dropout",
}
_DRAWN = {"bnn", "dropout"}
PRUNED = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98)
_EXTREMES = 10
_COLUMNS = {
    "error_percent": "error, %", "nll_nats": "NLL, nats", "ece": "ECE", "brier": "Brier",
    "ood_auroc": "OOD AUROC",
}  # fmt: skip


class ClassificationEvaluator:
    """Measures several methods on the same labelled images; the figures show what was measured last.

    `predict` are `{name: compiled (params, images, position) -> log-probabilities [R, B, K]}`, the names
    among "bnn", "ensemble" and "dropout". An ensemble's first member counts as the method "deterministic".
    `limit` images of the validation split are read; `foreign` is a source of images that are foreign to the
    networks, or None. The test split is predicted `repeats` times, each with other draws, by the methods that
    draw ("bnn" and "dropout"), by the argument `repeat` of their `predict`; pictures and foreign images are
    of the first. `params` are `{name: parameters}`, and variables are not used.
    """

    def __init__(
        self,
        bank: data.Bank,
        predict: Mapping[str, Predict],
        *,
        limit: int,
        foreign: str | None,
        repeats: int = 1,
    ) -> None:
        self.bank, self.predict, self.limit, self.foreign_source = bank, dict(predict), limit, foreign
        self.repeats = repeats
        self.split = "validation"
        self.members: dict[str, Members] = {}
        self.foreign: dict[str, Members] = {}
        self.pruned: dict[str, list[float]] = {}

    def evaluate(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """Score every method on the validation split: `{"NAME_METRIC": value}`, as `measure_members`."""
        return self._measure(params, "validation", self.limit)

    def evaluate_test(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """Score every method on the test split, on foreign images and after pruning; prints a table.

        As `evaluate`, with `NAME_ood_auroc` and `bnn_pruned_PERCENT_error_percent`, which has its error, too.
        """
        results = self._measure(params, "test", None)
        if self.repeats > 1:
            results |= self._repeated(params)
        if self.foreign_source is not None:
            images = foreign_images(self.foreign_source, self.bank.pixels.shape[1:])
            self.foreign = _by_method(
                {
                    name: predict_images(predict, params[name], images)
                    for name, predict in self.predict.items()
                }
            )
            for name, members in self.members.items():
                found = detect_foreign(members, self.foreign[name])
                results |= {f"{name}_{metric}": value for metric, value in found.items()}
        if "bnn" in params:
            pruned = self._prune("bnn", params["bnn"])
            self.pruned["Bayesian net, by |mean| / σ"] = [found["error_percent"] for found in pruned]
            for fraction, found in zip(PRUNED, pruned, strict=True):
                errors = {name: value for name, value in found.items() if name.startswith("error")}
                results |= {f"bnn_pruned_{100 * fraction:.0f}_{name}": v for name, v in errors.items()}
        if "ensemble" in params:
            pruned = self._prune("ensemble", params["ensemble"])
            self.pruned["one network, by size"] = [found["error_percent"] for found in pruned]
        if jax.process_index() == 0:
            print(_table(results, list(self.members)), flush=True)
        return results

    def _measure(self, params: dict[str, Any], split: str, limit: int | None) -> dict[str, float]:
        self.split = split
        self.members = _by_method(
            {
                name: predict_split(predict, params[name], self.bank, split, limit=limit)
                for name, predict in self.predict.items()
            }
        )
        return {
            f"{name}_{metric}": value
            for name, members in self.members.items()
            for metric, value in measure_members(members).items()
        }

    def _repeated(self, params: dict[str, Any]) -> dict[str, float]:
        """Means over all draws of the methods that draw, and the deviations from one set to another."""
        found = {}
        for name in filter(_DRAWN.__contains__, self.predict):
            rows = [measure_members(self.members[name])]
            for repeat in range(1, self.repeats):
                predict = functools.partial(self.predict[name], repeat=repeat)
                rows.append(measure_members(predict_split(predict, params[name], self.bank, "test")))
            for metric in rows[0]:
                values = [row[metric] for row in rows]
                found[f"{name}_{metric}"] = float(np.mean(values))
                if metric in _COLUMNS:
                    found[f"{name}_over_draws_{metric}"] = float(np.std(values, ddof=1))
        return found

    def _prune(self, name: str, params: Any) -> list[dict[str, float]]:
        """Scores after removing weights: by |mean| / sigma, or by size where no sigma is known."""
        scores = []
        for fraction in PRUNED:
            if name == "bnn":
                left = distributions.prune(params, fraction=fraction)
            else:
                only = jax.tree.map(lambda leaf: leaf[:1], params)
                equal = {"mean": only, "rho": jax.tree.map(jnp.zeros_like, only)}
                left = distributions.prune(equal, fraction=fraction)["mean"]
            members = predict_split(self.predict[name], left, self.bank, "test")
            scores.append(measure_members(members))
        return scores

    def figures(
        self, params: dict[str, Any], variables: Any, directory: str | os.PathLike[str], step: int
    ) -> None:
        """Draw reliability, extreme images, entropies and pruned networks of the last measurement."""
        directory = pathlib.Path(directory)
        titled = {METHOD_TITLES[name]: members for name, members in self.members.items()}
        (title, first), labels = next(iter(titled.items())), next(iter(titled.values())).labels
        assert labels is not None
        picture = reports.reliability_diagram({name: each.mean for name, each in titled.items()}, labels)
        caption = f"Accuracy against confidence on the {self.split} split; below, how often each occurs."
        reports.save_image(directory / "1_reliability.png", picture, caption=caption)
        picture = _extremes(self.bank, self.split, first)
        caption = (
            f"The {self.split} images of which the method “{title}” is least and most certain: "
            "true → predicted label, and the probability of the prediction."
        )
        reports.save_image(directory / "2_extremes.png", picture, caption=caption)
        if self.foreign:
            inside = {name: _entropy(each) for name, each in titled.items()}
            outside = {METHOD_TITLES[name]: _entropy(each) for name, each in self.foreign.items()}
            limit = math.log(first.log_probs.shape[-1])
            caption = f"Predictive entropy on test images of {self.bank.spec} and on {self.foreign_source}."
            picture = reports.entropy_histograms(inside, outside, limit=limit)
            reports.save_image(directory / "3_entropies.png", picture, caption=caption)
        if self.pruned:
            caption = "Test error after setting weights to zero, those of least signal or size first."
            picture = reports.pruning_curve(PRUNED, self.pruned)
            reports.save_image(directory / "4_pruning.png", picture, caption=caption)


def _by_method(members: dict[str, Members]) -> dict[str, Members]:
    """The ensemble's first network as a method of its own; an ensemble of one is only that."""
    named: dict[str, Members] = {}
    for name, each in members.items():
        if name == "ensemble":
            named["deterministic"] = each.only(1)
        if name != "ensemble" or len(each.log_probs) > 1:
            named[name] = each
    return named


def _entropy(members: Members) -> np.ndarray:
    return np.asarray(metrics.predictive_entropy(members.mean))


def _table(results: dict[str, float], names: list[str]) -> str:
    """The methods side by side."""
    lines = [f"{'test split':<16}" + "".join(f"{title:>12}" for title in _COLUMNS.values())]
    for name in names:
        cells = [results.get(f"{name}_{metric}", math.nan) for metric in _COLUMNS]
        lines.append(f"{METHOD_TITLES[name]:<16}" + "".join(f"{cell:>12.4f}" for cell in cells))
    return "\n".join(lines)


def _extremes(bank: data.Bank, split: str, members: Members) -> np.ndarray:
    """Two rows of images: least and most certain."""
    assert members.labels is not None
    index = bank.split(split)
    index = index[evenly_spread(len(index), len(members.labels))]  # as where the evaluation was limited
    order, probs = np.argsort(-_entropy(members), kind="stable"), np.exp(members.mean)
    strips = []
    for title, chosen in (("Least certain", order[:_EXTREMES]), ("Most certain", order[::-1][:_EXTREMES])):
        labels = [f"{members.labels[i]}→{probs[i].argmax()} {100 * probs[i].max():.0f}%" for i in chosen]
        images = bank.pixels[index[chosen]]
        strips.append(reports.labelled_grid(images, columns=len(chosen), column_labels=labels, title=title))
    return reports.stack_strips(strips)
