"""Databases of images that people have rated, read from the folders in which they are published."""

import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class RatedPair:
    """One rated image's file and the pristine one's; a score is what people said: the higher, the better.

    The distortion is its kind, as the database names it.
    """

    reference: pathlib.Path
    distorted: pathlib.Path
    score: float
    distortion: str


@dataclasses.dataclass(frozen=True)
class SubjectiveDatabase:
    """A database of rated images: "tid2013", "csiq", "live", "kadid10k" or "scores".

    `scale` says what the scores are, for example "MOS" or "DMOS, negated".
    """

    name: str
    pairs: tuple[RatedPair, ...]
    scale: str


def read_subjective(folder: str | pathlib.Path) -> SubjectiveDatabase:
    """Reads a database's list of images and scores; which database it is, its files tell.

    Known are TID2013 (`mos_with_names.txt`), CSIQ (`csiq.DMOS.xlsx`, which needs openpyxl, or the same
    columns as `.csv`), LIVE release 2 (`dmos.mat` or `dmos_realigned.mat`), KADID-10k (`dmos.csv`), and any
    folder with a `scores.csv` of columns reference, distorted, score (the higher, the better) and, if you
    like, distortion; file names there are relative to the folder. Differential scores (DMOS, 0 for pristine)
    are negated; KADID-10k's, so called, are mean opinions from 1 to 5 and stay.

    The folder is that of the file with the scores, or one above it. Images are not opened; every file that is
    listed exists, or there is a FileNotFoundError, as where there is no known list.
    """
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {str(root)!r}")
    for names, reader in _READERS:
        for place in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
            files = {p.name.lower(): p for p in place.iterdir() if p.is_file()}
            found = [files[name] for name in names if name in files]
            if found:
                database = reader(place, found[0])
                if not database.pairs:
                    raise ValueError(f"{found[0]} lists no rated image")
                return database
    known = ", ".join(names[0] for names, _ in _READERS)
    raise FileNotFoundError(f"{root} is no database that is known: it holds none of {known}")


class _Files:
    """Files below a folder by their names, whatever the case: databases differ from their lists there."""

    def __init__(self, root: pathlib.Path, *places: str) -> None:
        folders = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
        self._root = next((folders[place] for place in places if place in folders), root)
        self._by_name = {p.name.lower(): p for p in sorted(self._root.rglob("*")) if p.is_file()}

    def __getitem__(self, name: str) -> pathlib.Path:
        if name.lower() not in self._by_name:
            raise FileNotFoundError(f"{name} is listed, but is not below {self._root}")
        return self._by_name[name.lower()]


def _rows(path: pathlib.Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file, with column names in lower case."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [
            {str(k).strip().lower(): str(v).strip() for k, v in row.items()} for row in csv.DictReader(file)
        ]
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(rows[0])}")
    return rows


def _number(text: object, path: pathlib.Path) -> float:
    with contextlib.suppress(ValueError):
        if np.isfinite(value := float(str(text))):
            return value
    raise ValueError(f"{path}: {text!r} is no score")


def _tid2013(root: pathlib.Path, path: pathlib.Path) -> SubjectiveDatabase:
    references, distorted = _Files(root, "reference_images"), _Files(root, "distorted_images")
    pairs = []
    for line in path.read_text("utf-8").splitlines():
        if not line.strip():
            continue
        score, *names = line.split()
        parts = pathlib.PurePath(names[0] if names else "").stem.split("_")
        if len(parts) != 3:
            raise ValueError(f"{path}: {line!r} is not of the form '5.51429 I01_01_1.bmp'")
        files = references[f"{parts[0]}.bmp"], distorted[names[0]]
        pairs.append(RatedPair(*files, _number(score, path), f"type {int(parts[1])}"))
    return SubjectiveDatabase("tid2013", tuple(pairs), "MOS, 0 to 9")


def _kadid10k(root: pathlib.Path, path: pathlib.Path) -> SubjectiveDatabase:
    files = _Files(root, "images")
    pairs = [
        RatedPair(
            files[row["ref_img"]],
            files[row["dist_img"]],
            _number(row["dmos"], path),
            f"type {int(pathlib.PurePath(row['dist_img']).stem.split('_')[1])}",
        )
        for row in _rows(path, ("dist_img", "ref_img", "dmos"))
    ]
    return SubjectiveDatabase("kadid10k", tuple(pairs), "MOS (called DMOS), 1 to 5")


def _csiq(root: pathlib.Path, path: pathlib.Path) -> SubjectiveDatabase:
    columns = ("image", "dst_type", "dst_lev", "dmos")
    rows = _sheet_rows(path, columns) if path.suffix.lower() == ".xlsx" else _rows(path, columns)
    references, distorted = _Files(root, "src_imgs"), _Files(root, "dst_imgs")
    pairs = []
    for row in rows:
        # As in `1600.AWGN.1.png`; the list writes some types otherwise than the files.
        kind = row["dst_type"].replace(" ", "").lower()
        kind = {"noise": "awgn"}.get(kind, kind)
        name = f"{row['image'].removesuffix('.0')}.{kind}.{int(float(row['dst_lev']))}.png"
        reference = references[f"{row['image'].removesuffix('.0')}.png"]
        pairs.append(RatedPair(reference, distorted[name], -_number(row["dmos"], path), kind))
    return SubjectiveDatabase("csiq", tuple(pairs), "DMOS, negated, -1 to 0")


def _sheet_rows(path: pathlib.Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of the sheet that lists every image, below the line that names the columns."""
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            f"reading {path.name} needs openpyxl (pip install openpyxl); or save its sheet all_by_image as "
            f"csiq.DMOS.csv"
        ) from error
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    for sheet in book.worksheets:
        lines = [
            [str("" if c is None else c).strip() for c in line] for line in sheet.iter_rows(values_only=True)
        ]
        for number, line in enumerate(lines):
            names = [cell.lower() for cell in line]
            if all(column in names for column in columns):
                at = {column: names.index(column) for column in columns}
                below = [line for line in lines[number + 1 :] if line[at["dmos"]]]
                return [{column: line[place] for column, place in at.items()} for line in below]
    raise ValueError(f"{path} has no sheet with the columns {', '.join(columns)}")


_LIVE = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))


def _live(root: pathlib.Path, path: pathlib.Path) -> SubjectiveDatabase:
    from scipy.io import loadmat

    content = loadmat(path)
    name = next((n for n in ("dmos_new", "dmos") if n in content), None)
    names_file = root / "refnames_all.mat"
    if name is None or "orgs" not in content or not names_file.is_file():
        raise ValueError(f"{path} must hold dmos (or dmos_new) and orgs, with refnames_all.mat beside it")
    scores, originals = (np.asarray(content[n], float).reshape(-1) for n in (name, "orgs"))
    references = [str(np.asarray(r).reshape(-1)[0]) for r in loadmat(names_file)["refnames_all"].reshape(-1)]
    places = [(kind, number) for kind, count in _LIVE for number in range(1, count + 1)]
    if not len(scores) == len(originals) == len(references) == len(places):
        raise ValueError(
            f"{path} must list {len(places)} images, but lists {len(scores)}, and refnames_all.mat "
            f"{len(references)}"
        )
    folder = _Files(root, "refimgs")
    distorted = {kind: _Files(root, kind) for kind, _ in _LIVE}
    pairs = tuple(
        RatedPair(folder[reference], distorted[kind][f"img{number}.bmp"], -float(score), kind)
        for (kind, number), score, original, reference in zip(
            places, scores, originals, references, strict=True
        )
        if not original
    )
    return SubjectiveDatabase("live", pairs, "DMOS, negated")


def _own(root: pathlib.Path, path: pathlib.Path) -> SubjectiveDatabase:
    def file(name: str) -> pathlib.Path:
        if not (root / name).is_file():
            raise FileNotFoundError(f"{name} is listed in {path}, but there is no {root / name}")
        return root / name

    pairs = tuple(
        RatedPair(
            file(row["reference"]),
            file(row["distorted"]),
            _number(row["score"], path),
            row.get("distortion", ""),
        )
        for row in _rows(path, ("reference", "distorted", "score"))
    )
    return SubjectiveDatabase("scores", pairs, "as given, the higher, the better")


_READERS: tuple[tuple[tuple[str, ...], Callable[[pathlib.Path, pathlib.Path], SubjectiveDatabase]], ...] = (
    (("scores.csv",), _own),
    (("mos_with_names.txt",), _tid2013),
    (("csiq.dmos.csv", "csiq.dmos.xlsx"), _csiq),
    (("dmos_realigned.mat", "dmos.mat"), _live),
    (("dmos.csv",), _kadid10k),
)
