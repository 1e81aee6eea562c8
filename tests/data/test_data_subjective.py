"""Databases of rated images in the layouts in which they are published."""

import csv

import numpy as np
import pytest

from vaesr.data import read_subjective


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def table(path, columns, *rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def shown(database):
    return [(p.reference.name, p.distorted.name, p.score, p.distortion) for p in database.pairs]


def test_tid2013(tmp_path):
    root = tmp_path / "tid2013"
    # As published, names differ in case.
    touch(root, "reference_images/I01.BMP", "distorted_images/i01_01_1.bmp", "distorted_images/I01_24_5.bmp")
    (root / "mos_with_names.txt").write_text("5.51429 I01_01_1.bmp\n3.25000 i01_24_5.bmp\n")
    # Also from the folder above.
    for place in (root, tmp_path):
        database = read_subjective(place)
        assert database.name == "tid2013" and database.scale.startswith("MOS")
        assert shown(database) == [
            ("I01.BMP", "i01_01_1.bmp", 5.51429, "type 1"),
            ("I01.BMP", "I01_24_5.bmp", 3.25, "type 24"),
        ]
    (root / "mos_with_names.txt").write_text("5.5 I01_01_2.bmp\n")
    with pytest.raises(FileNotFoundError, match="I01_01_2"):
        read_subjective(root)
    (root / "mos_with_names.txt").write_text("5.5 something.bmp\n")
    with pytest.raises(ValueError, match="not of the form"):
        read_subjective(root)


def test_kadid10k_is_not_flipped(tmp_path):
    touch(tmp_path, "images/I01.png", "images/I01_01_01.png", "images/I01_25_05.png")
    rows = [("I01_01_01.png", "I01.png", "4.57", "0.5"), ("I01_25_05.png", "I01.png", "1.2", "0.1")]
    table(tmp_path / "dmos.csv", ("dist_img", "ref_img", "dmos", "var"), *rows)
    database = read_subjective(tmp_path)
    assert database.name == "kadid10k"
    assert [p.score for p in database.pairs] == [4.57, 1.2] and database.pairs[1].distortion == "type 25"


def csiq_files(root):
    touch(root, "src_imgs/1600.png", "src_imgs/lake.png")
    touch(root, "dst_imgs/awgn/1600.AWGN.1.png", "dst_imgs/jpeg2000/lake.jpeg2000.5.png")


def test_csiq_is_flipped(tmp_path):
    csiq_files(tmp_path)
    columns = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
    rows = [("1600", 1, "noise", 1, 0.05, 0.062), ("lake", 3, "jpeg 2000", 5, 0.1, 0.9)]
    expected = [
        ("1600.png", "1600.AWGN.1.png", -0.062, "awgn"),
        ("lake.png", "lake.jpeg2000.5.png", -0.9, "jpeg2000"),
    ]
    table(tmp_path / "csiq.DMOS.csv", columns, *rows)
    assert shown(read_subjective(tmp_path)) == expected
    (tmp_path / "csiq.DMOS.csv").unlink()
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("all_by_image")
    for line in (
        (None,),
        (None, None, None),
        (None, None, None, *columns),
        *((None, None, None, *r) for r in rows),
    ):
        sheet.append(line)
    book.save(tmp_path / "csiq.DMOS.xlsx")
    assert shown(read_subjective(tmp_path)) == expected


def test_live_leaves_out_the_originals(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    counts = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
    touch(tmp_path, "refimgs/bikes.bmp", "refimgs/lighthouse.bmp")
    for kind, count in counts.items():
        touch(tmp_path, *(f"{kind}/img{i}.bmp" for i in range(1, count + 1)))
    total = sum(counts.values())
    originals = np.zeros((1, total))
    originals[0, 0] = 1
    names = np.array([["bikes.bmp" if i % 2 else "lighthouse.bmp" for i in range(total)]], dtype=object)
    savemat(tmp_path / "dmos.mat", {"dmos": np.arange(total)[None] / 10.0, "orgs": originals})
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": names})
    database = read_subjective(tmp_path)
    assert len(database.pairs) == total - 1
    first, last = database.pairs[0], database.pairs[-1]
    assert (first.reference.name, first.distorted.parent.name, first.distorted.name) == (
        "bikes.bmp",
        "jp2k",
        "img2.bmp",
    )
    assert first.score == pytest.approx(-0.1) and last.distorted.name == "img174.bmp"
    # The first image of the second kind comes after all of the first.
    assert database.pairs[226].distorted == tmp_path / "jpeg" / "img1.bmp"
    savemat(tmp_path / "dmos.mat", {"dmos": np.zeros((1, 5)), "orgs": np.zeros((1, 5))})
    with pytest.raises(ValueError, match="must list 982"):
        read_subjective(tmp_path)


def test_own_lists_and_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="no database that is known"):
        read_subjective(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_subjective(tmp_path / "nowhere")
    touch(tmp_path, "a/ref.png", "b/one.png")
    table(tmp_path / "scores.csv", ("Reference", "Distorted", "Score"), ("a/ref.png", "b/one.png", "3"))
    assert shown(read_subjective(tmp_path)) == [("ref.png", "one.png", 3.0, "")]
    for rows, words in (
        ([("a/ref.png", "b/two.png", "3")], "two.png"),
        ([("a/ref.png", "b/one.png", "good")], "good"),
        ([("a/ref.png", "b/one.png", "nan")], "nan"),
        ([], "lists no"),
    ):
        table(tmp_path / "scores.csv", ("reference", "distorted", "score"), *rows)
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            read_subjective(tmp_path)
    table(tmp_path / "scores.csv", ("reference", "name", "score"), ("a/ref.png", "b/one.png", "3"))
    with pytest.raises(ValueError, match="lacks the column distorted"):
        read_subjective(tmp_path)
