"""Judging upscalers on photos: pairs, figures beside bicubic, tiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from vaesr import evaluators
from vaesr.data import Bank, open_bank
from vaesr.imaging import imresize, quantise, to_float
from vaesr.metrics import Protocol, psnr, ssim


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Photos of odd sizes; two in test, smooth enough for upscaling to make sense."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    sizes = {"train/a": (40, 40), "val/b": (40, 40), "test/c": (47, 61), "test/d": (50, 38)}
    for name, (height, width) in sizes.items():
        (root / name).parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
        smooth = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
        smooth.save(root / f"{name}.png")
    return open_bank(f"folder:{root}", cache_dir=root / "cache", progress=False)


def bicubic(scale: int) -> Any:
    return lambda x: imresize(x, scale)


def first_pair(pictures: Bank, longest: int) -> evaluators.PhotoPair:
    return next(iter(evaluators.photo_pairs(pictures, "test", scale=2, longest=longest)))


def test_photos_too_small_to_measure_are_left_out_and_named(
    pictures: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = evaluators.photo_pairs(pictures, "test", scale=2, longest=60)
    assert len(pairs) == 2 and capsys.readouterr().err == ""
    # At scale 14 SSIM needs 11 + 2 * 14 = 39 pixels; of c, 47x61, 42 remain, of d, 50x38, only 28.
    pairs = evaluators.photo_pairs(pictures, "test", scale=14, longest=60)
    assert [pair.name for pair in pairs] == ["test/c.png"] and len(pairs) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "left out of test, too small to be measured at scale 14: test/d.png 38x50" in error
    for pair in pairs:  # what is kept can be measured, and drawn
        sr = imresize(pair.lr, 14)
        assert np.isfinite(list(evaluators.measure_pair(pair, sr).values())).all()
        assert evaluators.compare_pair(pair, sr, label="ours").dtype == np.uint8
    with pytest.raises(ValueError, match=r"no photo in test .* at scale 20, .* 60 pixels a side; .* have 47"):
        evaluators.photo_pairs(pictures, "test", scale=20, longest=60)


@pytest.mark.slow
def test_bicubic_is_computed_once_a_photo(pictures: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    from vaesr.evaluators import pairs as evaluation

    calls = []
    monkeypatch.setattr(evaluation, "imresize", lambda *a, **k: (calls.append(a), imresize(*a, **k))[1])
    monkeypatch.setattr(evaluation, "ssim", lambda *a, **k: (calls.append("ssim"), ssim(*a, **k))[1])
    pairs = list(evaluators.photo_pairs(pictures, "test", scale=2, longest=40))
    assert len(calls) == 2  # the reductions
    first = evaluators.measure_pairs(pairs, bicubic(2))
    assert len(calls) == 2 + 2 + 4
    assert evaluators.measure_pairs(pairs, bicubic(2)) == first
    evaluators.compare_pair(pairs[0], pairs[0].hr, label="ours")
    assert len(calls) == 2 + 2 + 4 + 2


def test_pairs_are_central_crops_and_their_reductions(pictures: Bank) -> None:
    first, second = evaluators.photo_pairs(pictures, "test", scale=3, longest=40)
    assert (first.name, second.name) == ("test/c.png", "test/d.png") and first.scale == 3
    assert first.hr.shape == (39, 39, 3) and first.lr.shape == (13, 13, 3)
    assert second.hr.shape == (39, 36, 3) and second.lr.shape == (13, 12, 3)
    whole = pictures.image(int(pictures.split("test")[0]))
    np.testing.assert_array_equal(first.hr, to_float(whole[4:43, 11:50]))
    np.testing.assert_array_equal(first.lr, quantise(imresize(first.hr, 1 / 3)))
    with pytest.raises(ValueError, match="scale must be an integer of at least 1, got 0"):
        evaluators.photo_pairs(pictures, "test", scale=0, longest=40)
    with pytest.raises(ValueError, match=r"longest must leave crops of 19 pixels .* scale, 4, got 19"):
        evaluators.photo_pairs(pictures, "test", scale=4, longest=19)
    with pytest.raises(ValueError, match="no split 'dev'"):
        evaluators.photo_pairs(pictures, "dev", scale=4, longest=30)


def test_scores_are_the_benchmarks_beside_bicubic(pictures: Bank) -> None:
    pair = first_pair(pictures, 40)
    sr = jnp.clip(pair.hr + 0.03, 0, 1)
    scores = evaluators.measure_pair(pair, sr)
    protocol = Protocol(channels="y", shave=2, quantise=True)
    smooth = imresize(pair.lr, 2)
    for prefix, image in (("", sr), ("bicubic_", smooth)):
        expected = psnr(pair.hr[None], image[None], protocol=protocol)[0]
        np.testing.assert_allclose(scores[f"{prefix}psnr_y_db"], expected, rtol=1e-6)
        expected = ssim(pair.hr[None], image[None], protocol=protocol)[0]
        np.testing.assert_allclose(scores[f"{prefix}ssim_y"], expected, rtol=1e-6)
    assert scores["gain_db"] == scores["psnr_y_db"] - scores["bicubic_psnr_y_db"]
    assert evaluators.measure_pair(pair, smooth)["gain_db"] == 0.0


def test_means_count_each_photo_once(pictures: Bank) -> None:
    pairs = list(evaluators.photo_pairs(pictures, "test", scale=2, longest=40))
    lines: list[str] = []
    mean = evaluators.measure_pairs(pairs, bicubic(2), say=lines.append)
    each = [evaluators.measure_pair(pair, imresize(pair.lr, 2)) for pair in pairs]
    assert mean == {name: np.mean([scores[name] for scores in each]) for name in each[0]}
    shown = f"{each[0]['psnr_y_db']:.2f} dB"
    assert lines[0] == f"  test/c.png: {shown}, bicubic {shown}" and len(lines) == 2
    with pytest.raises(ValueError, match="at least one photo"):
        evaluators.measure_pairs([], bicubic(2))


def test_names_by_scale() -> None:
    named = evaluators.name_by_scale({"psnr_y_db": 30.0, "bicubic_ssim_y": 0.9, "gain_db": 1.0}, 3)
    assert named == {"psnr_y_x3_db": 30.0, "bicubic_ssim_y_x3": 0.9, "gain_x3_db": 1.0}


def test_tiles_give_the_whole_photo(pictures: Bank) -> None:
    pair = first_pair(pictures, 60)
    sizes = set()

    def apply(x: jax.Array) -> jax.Array:
        sizes.add(x.shape)
        blurred = x + jnp.roll(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 1, axis=1)[:, 1:-1, 1:-1]
        return jnp.repeat(jnp.repeat(blurred, 2, axis=1), 2, axis=2)

    upscaler = evaluators.tiled_upscaler(apply, scale=2, halo=1, tile=8)
    np.testing.assert_allclose(upscaler(pair.lr), apply(pair.lr[None])[0], atol=1e-6)
    assert sizes == {(1, 10, 10, 3), (1, *pair.lr.shape)}


def test_a_comparison_shows_three_panels(pictures: Bank) -> None:
    pair = first_pair(pictures, 40)
    strip = evaluators.compare_pair(pair, np.asarray(imresize(pair.lr, 2)), label="ours")
    assert strip.dtype == np.uint8 and strip.ndim == 3 and strip.shape[1] > 600
    other = evaluators.compare_pair(pair, pair.hr, label="ours")
    assert (strip != other).any()
