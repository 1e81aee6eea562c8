"""`vaesr evaluate`: folders as users have them, runs, and databases of rated images."""

import csv
import errno
import io
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vaesr import metrics
from vaesr.app.cli import main
from vaesr.app.metric_names import find_metrics, read_protocol
from vaesr.app.pairing import match_files
from vaesr.files.images import Photo, write_photo


def photo(seed: int, height: int = 40, width: int = 44, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4, width // 4, channels)).repeat(4, 0).repeat(4, 1)
    return coarse.astype(np.uint8)


def damaged(image: np.ndarray, amount: float) -> np.ndarray:
    noise = np.random.default_rng(9).normal(size=image.shape) * amount
    top = np.iinfo(image.dtype).max
    return np.clip(image + noise * top / 255, 0, top).astype(image.dtype)


def save(path: pathlib.Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(path, Photo(pixels))


@pytest.mark.slow
def test_folders_with_everything(tmp_path, capsys):
    hr, sr, out = tmp_path / "hr", tmp_path / "sr", tmp_path / "out"
    for i in range(5):
        save(hr / f"photo{i}.png", photo(i))
        save(sr / f"photo{i}x4.png", damaged(photo(i), 3 + 3 * i))
    save(hr / "same.png", photo(7, 36, 36))
    save(sr / "same_out.png", photo(7, 36, 36))
    save(hr / "grey.png", photo(8, channels=1))
    save(sr / "grey.png", damaged(photo(8, channels=1), 4).repeat(3, 2))
    deep = photo(9).astype(np.uint16) * 257
    save(hr / "deep.png", deep)
    save(sr / "deep.png", damaged(deep, 2))
    for folder in (hr, sr):
        save(folder / "alpha.png", np.concatenate([photo(10), photo(11)[..., :1]], 2))
    save(hr / "small.png", photo(12, 8, 8))
    save(sr / "small.png", damaged(photo(12, 8, 8), 5))
    save(hr / "other.png", photo(13))
    save(sr / "other.png", photo(13, 40, 40))
    save(hr / "alone.png", photo(14))
    save(sr / "stranger.png", photo(15))
    save(hr / "broken.png", photo(16))
    (sr / "broken.png").write_bytes(b"no image")
    command = [
        "evaluate",
        "-r",
        str(hr),
        "-i",
        str(sr),
        "-o",
        str(out),
        "--metrics",
        "psnr,ssim",
        "--pictures",
        "3",
    ]
    assert main(command) == 1
    said = capsys.readouterr()
    for words in ("alone.png: no image", "stranger.png: no reference", "sizes differ: other.png has 44x40",
                  "broken.png is not an image"):  # fmt: skip
        assert words in said.err
    assert "psnr: " in said.out and "2 identical" in said.out and "none for 1" in said.out
    with open(out / "scores.csv") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert len(rows) == 10
    for i in range(5):
        x, y = (jnp.asarray(p / 255, jnp.float32)[None] for p in (photo(i), damaged(photo(i), 3 + 3 * i)))
        row = rows[f"photo{i}x4.png"]
        assert float(row["psnr"]) == pytest.approx(float(metrics.psnr(x, y)[0]), abs=1e-4)
        assert float(row["ssim"]) == pytest.approx(float(metrics.ssim(x, y)[0]), abs=1e-5)
    assert rows["same_out.png"]["psnr"] == "inf" and "grey beside colour" in rows["grey.png"]["remarks"]
    assert "16 bits" in rows["deep.png"]["remarks"] and "transparency" in rows["alpha.png"]["remarks"]
    assert rows["small.png"]["ssim"] == "nan" and "no ssim" in rows["small.png"]["remarks"]
    # Worst first; where there is no figure, at the very end.
    found = json.loads((out / "scores.json").read_text())
    order = [image["psnr"] for image in found["images"]]
    assert order == sorted(order, key=lambda v: np.inf if v == "identical" else v)
    assert found["metrics"]["ssim"]["missing"] == 1 and found["metrics"]["psnr"]["identical"] == 2
    assert len(found["problems"]) == 4
    page = (out / "report.html").read_text()
    assert page.count("<figure>") == 3 and 'class="sortable"' in page and "sizes differ" in page
    assert "http" not in page


def test_names_are_never_formulas_and_need_not_be_text(tmp_path, capsys):
    names = ["=1+1.png", "+a.png", "-b.png", "@c.png", "\td.png", os.fsdecode(b"caf\xe9.png"), "e.png"]
    for name in names:
        save(tmp_path / "in" / name, photo(0))
    (tmp_path / "in" / os.fsdecode(b"bad\xff.png")).write_bytes(b"no image")
    command = ["evaluate", "-i", str(tmp_path / "in"), "-r", str(tmp_path / "in"), "--metrics", "psnr"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    assert r"bad\xff.png" in capsys.readouterr().err
    with open(tmp_path / "out" / "scores.csv", encoding="utf-8", newline="") as file:
        written = {row["image"] for row in csv.DictReader(file)}
    assert written == {"'=1+1.png", "'+a.png", "'-b.png", "'@c.png", "'\td.png", r"caf\xe9.png", "e.png"}
    found = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert {image["name"] for image in found["images"]} >= {"=1+1.png", r"caf\xe9.png"}


def test_a_full_disk_loses_no_figures(tmp_path, capsys, monkeypatch):
    save(tmp_path / "in" / "a.png", photo(0))
    save(tmp_path / "ref" / "a.png", damaged(photo(0), 9))
    command = ["evaluate", "-i", str(tmp_path / "in"), "-r", str(tmp_path / "ref"), "--metrics", "psnr"]
    assert main([*command, "-o", str(tmp_path / "whole")]) == 0
    mean = capsys.readouterr().out.splitlines()[0]
    assert mean.startswith("psnr: 2")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refuse)
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [mean] and said.err.count("\n") == 1
    assert "scores.csv: No space left on device" in said.err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_protocols_of_the_papers(tmp_path):
    save(tmp_path / "hr" / "a.png", photo(1))
    save(tmp_path / "sr" / "a.png", damaged(photo(1), 6))
    x, y = (jnp.asarray(p / 255, jnp.float32)[None] for p in (photo(1), damaged(photo(1), 6)))
    for name, protocol in (("sr:4", metrics.SR_BENCHMARK(4)), ("y", metrics.Protocol(channels="y"))):
        out = tmp_path / name.replace(":", "")
        command = ["evaluate", "-r", str(tmp_path / "hr"), "-i", str(tmp_path / "sr"), "-o", str(out)]
        assert main([*command, "--protocol", name]) == 0
        found = json.loads((out / "scores.json").read_text())
        expected = float(metrics.psnr(x, y, protocol=protocol)[0])
        assert found["metrics"]["psnr"]["mean"] == pytest.approx(expected, abs=1e-4)
    for wrong in ("sr", "sr:0", "luma"):
        with pytest.raises(ValueError, match="the protocol must be"):
            read_protocol(wrong)


@pytest.mark.slow
def test_no_reference(tmp_path, capsys):
    for i in range(2):
        save(tmp_path / "in" / f"{i}.png", damaged(photo(i, 100, 120), 10))
    assert main(["evaluate", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    assert "niqe: " in capsys.readouterr().out
    assert main(["evaluate", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "x"), "--metrics", "ssim"]) == 2
    assert "ssim needs references" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_judged(edsr_folder, tmp_path):
    for i in range(2):
        save(tmp_path / "hr" / f"{i}.png", photo(i, 41, 44))
    save(tmp_path / "hr" / "1.webp", photo(2, 41, 44))
    out = tmp_path / "out"
    assert main(["evaluate", "-r", str(tmp_path / "hr"), "--run", str(edsr_folder), "-o", str(out)]) == 0
    found = json.loads((out / "scores.json").read_text())
    assert [i["height"] for i in found["images"]] == [40, 40, 40]
    # 1.png and 1.webp both keep their result.
    assert {p.name for p in (out / "upscaled").iterdir()} == {"0.png", "1_2.png", "1_3.png"}
    made = np.asarray(Image.open(out / "upscaled" / "0.png"))
    x, y = (jnp.asarray(p / 255, jnp.float32)[None] for p in (photo(0, 41, 44)[:40], made))
    image = next(i for i in found["images"] if i["name"] == "0.png")
    assert image["psnr"] == pytest.approx(float(metrics.psnr(x, y)[0]), abs=1e-4)


def rated_folder(root: pathlib.Path) -> int:
    """Three photographs, each with twelve strengths of blur, noise and JPEG together: the order is known."""
    from scipy import ndimage

    data = pytest.importorskip("skimage.data")
    crops = {"cat": data.chelsea()[20:276, 100:356], "rocket": data.rocket()[100:356, 200:456],
             "coffee": data.coffee()[72:328, 172:428]}  # fmt: skip
    rng, rows = np.random.default_rng(0), []
    for name, image in crops.items():
        save(root / f"{name}.png", image)
        for strength in np.sort(rng.uniform(0.05, 1, 12)):
            soft = ndimage.gaussian_filter(image.astype(float), (*[2.5 * strength] * 2, 0))
            rough = soft + rng.normal(size=image.shape) * 25 * strength
            buffer = io.BytesIO()
            Image.fromarray(np.rint(rough).clip(0, 255).astype(np.uint8)).save(
                buffer, format="JPEG", quality=round(90 - 80 * strength)
            )
            rows.append((f"{name}.png", f"{name}_{len(rows)}.jpg", -strength, name))
            (root / rows[-1][1]).write_bytes(buffer.getvalue())
    with open(root / "scores.csv", "w", newline="") as file:
        csv.writer(file).writerows([("reference", "distorted", "score", "distortion"), *rows])
    return len(rows)


@pytest.mark.slow
def test_fusion_is_at_least_its_best_member(tmp_path, capsys):
    """Of members that err apart: one compares pixels, the other features."""
    (tmp_path / "db").mkdir()
    count = rated_folder(tmp_path / "db")
    command = ["evaluate", "--iqa", str(tmp_path / "db"), "-o", str(tmp_path / "out"), "--pictures", "1"]
    assert main([*command, "--metrics", "psnr,fsimc"]) == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["database"]["agreement"]
    members = [found[name]["srcc"] for name in ("psnr", "fsimc")]
    assert min(members) > 0.8
    fused = {name: row for name, row in found.items() if "(" in name}
    joined = "psnr+fsimc"
    assert sorted(fused) == [f"borda({joined})", f"rrf60({joined})", f"rrf60({joined}), in units of psnr"]
    for row in fused.values():
        assert row["srcc"] >= max(members) + 0.02
    assert found["fsimc"]["number"] == count and found["fsimc"]["fit"] == "logistic5"
    # Within one photograph the order of strengths is plain to all of them.
    assert all(value > 0.9 for value in found["fsimc"]["srcc_by_distortion"].values())
    said = capsys.readouterr().out
    assert "PLCC (logistic5)" in said and "rrf60(psnr+fsimc)" in said
    with open(tmp_path / "out" / "scores.csv") as file:
        assert len(list(csv.DictReader(file))) == count
    knobs = ["--weights", "gmsd=3", "--rrf-k", "10", "--fit", "none"]
    assert main([*command, "--metrics", "gmsd,psnr", *knobs]) == 0
    again = json.loads((tmp_path / "out" / "scores.json").read_text())["database"]["agreement"]
    assert "rrf10(gmsd+psnr)" in again and again["gmsd"]["rmse"] is None
    assert not again["rrf10(gmsd+psnr), in units of gmsd"]["higher_is_better"]
    assert again["gmsd"]["srcc"] < 0 and not again["gmsd"]["higher_is_better"]
    assert main([*command, "--metrics", "psnr,gmsd", "--weights", "vsi=1"]) == 2
    assert "--weights must name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "OUT"], "give one of -i"),
        (["-i", "IN", "--iqa", "IN", "-o", "OUT"], "give one of -i"),
        (["--run", "IN", "-o", "OUT"], "--run needs -r"),
        (["-r", "IN", "-i", "IN", "-o", "OUT", "--metrics", "vmaf"], "vmaf"),
        (["-r", "IN", "-i", "IN", "-o", "OUT", "--metrics", "lpips-alex"], "vaesr convert lpips-alex"),
        (["-r", "IN", "-i", "NONE", "-o", "OUT"], "no file or folder"),
        (["--iqa", "IN", "-o", "OUT"], "no database"),
        (["-r", "IN", "-i", "IN", "-o", "FILE"], "is a file"),
        # Before anything is scored.
        (["-r", "IN", "-i", "IN", "-o", "OUT", "--weights", "vsi=1"], "--weights must name"),
        (["-r", "IN", "-i", "IN", "-o", "OUT", "--weights", "ssim=0,psnr=0"], "not all 0"),
        (["-r", "IN", "-i", "IN", "-o", "OUT", "--weights", "ssim"], "of the form"),
    ],
)
def test_usage_errors_are_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    save(tmp_path / "in" / "a.png", photo(0))
    (tmp_path / "file").write_text("")
    places = {
        "IN": tmp_path / "in",
        "OUT": tmp_path / "out",
        "NONE": tmp_path / "none",
        "FILE": tmp_path / "file",
    }
    assert main(["evaluate", *(str(places.get(a, a)) for a in arguments)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_that_belong_together(tmp_path):
    for name in ("img_1", "img_12", "baby"):
        save(tmp_path / "r" / f"{name}.png", photo(0, 8, 8))
    for name in ("img_1_out", "img_12x4", "babyface", "BABY"):
        save(tmp_path / "i" / f"{name}.png", photo(0, 8, 8))
    found = match_files(str(tmp_path / "r"), str(tmp_path / "i"))
    assert {(a.stem, b.stem) for a, b in found.pairs} == {
        ("img_1", "img_1_out"), ("img_12", "img_12x4"), ("baby", "BABY"),
    }  # fmt: skip
    assert [p.stem for p in found.without_reference] == ["babyface"]
    save(tmp_path / "i" / "baby_2.png", photo(0, 8, 8))
    with pytest.raises(ValueError, match="all belong to baby"):
        match_files(str(tmp_path / "r"), str(tmp_path / "i"))
    # Two files belong together whatever they are called.
    assert match_files(str(tmp_path / "r" / "baby.png"), str(tmp_path / "i" / "img_12x4.png")).pairs


def test_judges_know_their_direction():
    chosen = find_metrics("psnr, GMSD,niqe,psnr")
    assert [(j.name, j.higher_is_better, j.needs_reference) for j in chosen] == [
        ("psnr", True, True), ("gmsd", False, True), ("niqe", False, False),
    ]  # fmt: skip
    assert len(find_metrics("all")) == 9
