"""Curves and `report.html`: of whole, unfinished, empty and damaged runs."""

import html.parser
import json
import math
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from vaesr import reports
from vaesr.reports.curves import series, split_unit
from vaesr.reports.glossary import explain
from vaesr.reports.page import format_number, write_report


class Page(html.parser.HTMLParser):
    """Checks nesting and collects addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def read_page(path: pathlib.Path) -> Page:
    page = Page()
    source = path.read_text("utf-8")
    page.feed(source)
    assert page.open == []
    assert not re.search(r"https?:|@import|url\(", source), "the page must not reach outside"
    assert "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith("data:image/png;base64,") for address in page.sources)
    return page


def make_run(folder: pathlib.Path, *, finished: bool) -> pathlib.Path:
    rows: list[dict[str, Any]] = []
    for step in range(1, 40):
        rows.append(
            {"step": step, "split": "train", "time": 1e9 + step, "loss": 1 / step, "kl_nats": float(step)}
        )
    rows[3]["loss"] = None
    rows[4]["loss"] = math.nan
    rows += [{"step": s, "split": "validation", "time": 1e9, "psnr_db": 20 + s / 10} for s in (10, 20, 30)]
    rows += [{"step": s, "split": "validation", "time": 1e9, "bicubic_psnr_db": 21.5} for s in (10, 20, 30)]
    if finished:
        rows.append({"step": 39, "split": "test", "time": 1e9 + 4000, "psnr_db": 28.123456})
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"step": 41, "spl')
    config = {
        "experiment": "experiments.edsr",
        "preset": "smoke",
        "config": {"data": "<b>&", "optim": {"lr": 1e-4}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_finished_report(tmp_path: pathlib.Path) -> None:
    run = make_run(tmp_path / "my <run>", finished=True)
    for name in ("10_late", "2_early"):
        reports.save_image(
            run / "figures" / f"{name}.png", np.zeros((8, 8, 3)), caption=f"about {name} & more"
        )
    reports.save_image(run / "figures" / "3_no_caption.png", np.zeros((8, 8, 3)))
    (run / "figures" / "9_broken.png").write_bytes(b"\x89PNG nonsense")
    page = read_page(reports.write_report(run))
    assert page.tags.count("img") == 4  # curves and three figures
    for words in ("my <run>", "finished", "28.123", "optim.lr", "<b>&", "about 2_early & more", "No caption"):
        assert words in page.text, words
    assert page.text.index("2_early") < page.text.index("No caption") < page.text.index("10_late")
    assert "9_broken.png cannot be read" in page.text
    assert "unfinished" not in page.text
    assert "train loss was not finite 2 times, first at step 4" in page.text


def test_unfinished_empty_and_damaged_runs_have_a_report(tmp_path: pathlib.Path) -> None:
    page = read_page(reports.write_report(make_run(tmp_path / "open", finished=False)))
    assert "unfinished" in page.text and "last validation" in page.text
    (tmp_path / "empty").mkdir()
    assert "No measurements yet" in read_page(reports.write_report(tmp_path / "empty")).text
    (tmp_path / "empty" / "config.json").write_text("{broken")
    (tmp_path / "empty" / "metrics.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"step": 1}\n{"step": "x"}\n\n')
    read_page(reports.write_report(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="run_dir"):
        reports.write_report(tmp_path / "none")


def test_series_survive_resume_and_nan(tmp_path: pathlib.Path) -> None:
    records = reports.read_metrics(make_run(tmp_path / "run", finished=False))
    assert len(records) == 45
    again = [*records, {"step": 2, "split": "train", "loss": 9.0}]
    steps, values = series(again, "train", "loss")
    assert steps.tolist() == list(range(1, 40)) and values[1] == 9.0
    assert np.isnan(values[3:5]).all() and np.isfinite(values[5:]).all()


@pytest.mark.parametrize("count", [2, 5000])
def test_curves_draw_long_and_short_series(tmp_path: pathlib.Path, count: int) -> None:
    rows = [
        {"step": s, "split": "train", "a_nats": math.sin(s), "b": 1e30 if s == 1 else s} for s in range(count)
    ]
    rows += [{"step": count, "split": "validation", "a_nats": math.nan}]
    picture = reports.plot_curves(rows, tmp_path / "curves.png", columns=2)
    assert picture.std() > 1 and (tmp_path / "curves.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="no metrics"):
        reports.plot_curves([])


def test_names_for_people() -> None:
    assert split_unit("kl_nats") == ("KL", "nats")
    assert split_unit("psnr_y_db") == ("PSNR y", "dB")
    assert split_unit("bits_per_dim") == ("Bits per dimension", "")
    assert split_unit("images_per_s") == ("Images", "per second")
    assert [format_number(v) for v in (0.00001, 28.123456, 123456.7, 3, 20000, None, math.inf)] == [
        *("1.000e-05", "28.123", "123\u202f457", "3", "20\u202f000", "not finite", "not finite")
    ]


def test_errors_stand_beside_their_metrics_and_all_is_explained(tmp_path):
    row = {
        "step": 5,
        "split": "test",
        "time": 0.0,
        "elbo_nats": -108.61,
        "elbo_se_nats": 1.437,
        "ssim_y": 0.9,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "experiments.vae", "preset": "smoke"}))
    page = write_report(tmp_path).read_text("utf-8")
    assert "-108.61 ± 1.4" in page and "standard error" in page and "elbo_se" not in page
    assert "evidence lower bound" in page and "structural similarity" in page
    assert "Only a smoke test" in page
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "experiments.vae", "preset": "default"}))
    assert "Only a smoke test" not in write_report(tmp_path).read_text("utf-8")


def test_the_longest_words_explain_a_metric():
    assert explain("epoch_usage_bottom_percent") == "share of the codes that were used over the whole split"
    assert explain("bicubic_psnr_y_db").startswith("peak signal") and "bicubic" in explain(
        "bicubic_psnr_y_db"
    )
    assert explain("bnn/kl_weight").startswith("weight of the KL") and explain("zebra") == ""
