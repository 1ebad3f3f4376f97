"""Pictures that are copies of one another, however they were re-encoded, resized or turned.

Works on small thumbnails, so that memory and time do not grow with the number of pixels:
nearest neighbours of a coarse descriptor are the candidates, and a candidate counts only if
the two thumbnails, laid over one another by the best affine map near the identity, agree in
their details. Similar radiographs (two patients, two views) agree coarsely but not in detail.

Why not imagehash: of 100 planted copies among 150 phantoms (tests/test_audit.py) this finds 98
without a false pair; the best hash of imagehash 4.3.2 (phash of 256 bits) finds 64 without one, and
96 with 32 false among 306 pairs.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage, sparse
from sklearn.neighbors import NearestNeighbors

from fracture_utils import files
from fracture_utils.ledger import Ledger, maker

SIDE = 64
"""Side of a thumbnail in pixels."""
COARSE = 16
"""Side of the descriptor that finds candidates."""
NEIGHBOURS = 4
"""Candidates of each picture, as it is and mirrored."""
FARTHEST = np.sqrt(2 * (1 - 0.7))
"""Distance of two descriptors (of length 1) above which a candidate is not looked at: at a cosine
of 0.7."""
LEAST_SHAPE = 0.86
"""Correlation of two blurred thumbnails below which their alignment is given up."""
LEAST_AGREEMENT = 0.92
"""Correlation of the details above which two thumbnails show the same exposure. Of 3,658
radiographs of FracAtlas, pairs above it are double exposures or copies when looked at."""
DETAIL = 2.0
"""Structures wider than this (standard deviation, thumbnail pixels) are no evidence: all hands
are alike."""
MARGIN = 6
"""Pixels of a thumbnail's rim that are not compared: turned and cropped copies differ there."""
CHUNK = 512
CLOSELY = 64
"""Pairs that are looked at closely at once, by each core: half a mebibyte each."""
CODE, LIBRARIES = ("data/duplicates",), ("numpy", "scipy", "scikit-learn")
"""What the pairs depend on, beside the thumbnails."""
COLUMNS = ["first", "second", "mirrored", "agreement"]


def find(thumbnails: np.ndarray, folder: Path) -> pd.DataFrame:
    """`pairs` of thumbnails (n, SIDE, SIDE), kept in `folder` until they or the search change."""
    cache, ledger = folder / "duplicates.json", Ledger(folder)
    key = maker(CODE, LIBRARIES) | {"pictures": files.fingerprint(thumbnails)}
    if not ledger.finished("duplicates", key):
        files.write_json(cache, pairs(thumbnails).to_dict("records"))
        ledger.record("duplicates", key, [cache])
    return pd.DataFrame(files.read_json(cache), columns=COLUMNS)


def pairs(thumbnails: np.ndarray) -> pd.DataFrame:
    """Near duplicates among thumbnails (n, SIDE, SIDE), each pair once.

    Columns: first, second (positions, first < second), mirrored, agreement (correlation of
    the details after alignment, at least LEAST_AGREEMENT). Equal thumbnails are each paired
    with the first of them only. Sorted by first and second.
    """
    seen: dict[bytes, int] = {}
    digests = [hashlib.sha256(small.tobytes()).digest() for small in thumbnails]
    origin = np.array([seen.setdefault(digest, n) for n, digest in enumerate(digests)], int)
    same = np.flatnonzero(origin != np.arange(len(origin)))
    equal = pd.DataFrame({"first": origin[same], "second": same, "mirrored": False, "agreement": 1})
    distinct = np.array(list(seen.values()), int)
    normalised = _normalised(thumbnails, distinct)
    jobs = []
    for mirrored in (False, True):
        candidates = _candidates(normalised, mirrored)
        for start in range(0, candidates.shape[1], CLOSELY):
            jobs.append((mirrored, *candidates[:, start : start + CLOSELY]))

    def check(job: tuple[bool, np.ndarray, np.ndarray]) -> pd.DataFrame:
        mirrored, first, second = job
        one = normalised[first].astype(np.float32)
        agreement = _agreement(one, _flipped(normalised[second], mirrored))
        columns = (distinct[first], distinct[second], mirrored, agreement.round(4))
        table = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
        return table[agreement >= LEAST_AGREEMENT]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [table for table in [equal, *pool.map(check, jobs)] if len(table)]
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    best = pd.concat(found).sort_values("agreement", ascending=False, kind="stable")
    best = best.drop_duplicates(["first", "second"])
    return best.sort_values(["first", "second"], ignore_index=True)


def polarity(thumbnails: np.ndarray) -> np.ndarray:
    """By how much (n,) each picture is more like its nearest neighbour than its negative is:
    below 0 it is probably inverted, because most pictures of a set are not.
    """
    described = _descriptors(_normalised(thumbnails, np.arange(len(thumbnails))), False)
    result = np.empty(len(described), np.float32)
    for start in range(0, len(described), CHUNK):
        cosines = described[start : start + CHUNK] @ described.T
        opposed = -cosines.min(axis=1)
        np.fill_diagonal(cosines[:, start:], -1)  # itself
        result[start : start + CHUNK] = cosines.max(axis=1) - opposed
    return result


def contrast(thumbnails: np.ndarray) -> np.ndarray:
    """The standard deviation (n,) of the grey levels of each thumbnail."""
    parts = (thumbnails[start : start + CHUNK] for start in range(0, len(thumbnails), CHUNK))
    flat = [part.reshape(len(part), -1).std(1) for part in parts]  # float64, so never all at once
    return np.concatenate([np.zeros(0), *flat])


def clusters(table: pd.DataFrame, count: int) -> np.ndarray:
    """The cluster number of each of `count` pictures: those linked by pairs share one."""
    links = (np.ones(len(table)), (table["first"].astype(int), table["second"].astype(int)))
    graph = sparse.coo_matrix(links, shape=(count, count))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _flipped(images: np.ndarray, mirrored: bool) -> np.ndarray:
    return (images[..., ::-1] if mirrored else images).astype(np.float32)


def _normalised(thumbnails: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Local contrast of the thumbnails of some rows, mean 0 and variance about 1, as float16;
    exposure and window drop out.
    """
    result = np.empty((len(rows), *thumbnails.shape[1:]), np.float16)
    for start in range(0, len(rows), CHUNK):
        values = thumbnails[rows[start : start + CHUNK]].astype(np.float32)
        values -= ndimage.gaussian_filter(values, (0, 6, 6))
        spread = np.sqrt(ndimage.gaussian_filter(values**2, (0, 8, 8))) + 3
        result[start : start + CHUNK] = values / spread
    return result


def _descriptors(normalised: np.ndarray, mirrored: bool) -> np.ndarray:
    step = SIDE // COARSE
    result = np.empty((len(normalised), COARSE * COARSE), np.float32)
    for start in range(0, len(normalised), CHUNK):
        images = _flipped(normalised[start : start + CHUNK], mirrored)
        blurred = ndimage.gaussian_filter(images, (0, 2, 2))
        points = blurred[:, step // 2 :: step, step // 2 :: step]
        result[start : start + CHUNK] = points.reshape(len(images), -1)
    norm = np.linalg.norm(result, axis=1, keepdims=True)
    return np.divide(result, norm, out=np.zeros_like(result), where=norm > 1e-3)


def _candidates(normalised: np.ndarray, mirrored: bool) -> np.ndarray:
    """Positions (2, m) of pictures whose descriptors are near neighbours, each pair once."""
    if len(normalised) < 2:
        return np.zeros((2, 0), int)
    count = min(NEIGHBOURS + 1, len(normalised))  # one of them may be the picture itself
    nearest = NearestNeighbors(n_neighbors=count, algorithm="brute")
    nearest.fit(_descriptors(normalised, False))
    distance, best = nearest.kneighbors(_descriptors(normalised, mirrored))
    other = best != np.arange(len(best))[:, None]
    near = other & (other.cumsum(axis=1) <= NEIGHBOURS) & (distance <= FARTHEST)
    first, place = np.nonzero(near)
    return np.unique(np.sort([first, best[first, place]], axis=0), axis=1)


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation (n,) of the details of two stacks (n, SIDE, SIDE) after the best alignment."""
    result = np.zeros(len(first), np.float32)
    near, warp = np.arange(len(first)), np.tile(np.eye(2, 3), (len(first), 1, 1))
    for blur, stride, steps in ((2.0, 4, 10), (1.0, 2, 6), (0.7, 1, 4)):
        warp, shape = _align(first, second, warp, blur, stride, steps)
        kept = (shape >= LEAST_SHAPE) & _is_mild(warp)
        near, first, second, warp = near[kept], first[kept], second[kept], warp[kept]
        if not len(near):  # nothing is left to align, and NumPy reshapes no empty stack
            return result
    moved, inside = _sample(second, warp, 1)
    rim = np.s_[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    agreement = _correlation(_details(first)[rim], _details(moved)[rim], inside[rim])
    result[near] = agreement
    return result


def _details(images: np.ndarray) -> np.ndarray:
    fine = images - ndimage.gaussian_filter(images, (0, DETAIL, DETAIL))
    return ndimage.gaussian_filter(fine, (0, 0.6, 0.6))


def _grid(stride: int) -> np.ndarray:
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)[::stride]
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return np.stack([x, y, np.ones_like(x)])


def _sample(images: np.ndarray, warp: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear samples of (n, SIDE, SIDE) under affine maps (n, 2, 3), and which lie inside."""
    x, y = np.moveaxis(np.einsum("nij,jhw->nihw", warp, _grid(stride)), 1, 0)
    x, y = (x + 1) * (SIDE - 1) / 2, (y + 1) * (SIDE - 1) / 2
    inside = (x >= 0) & (x <= SIDE - 1) & (y >= 0) & (y <= SIDE - 1)
    image = np.broadcast_to(np.arange(len(images))[:, None, None], x.shape)
    return ndimage.map_coordinates(images, [image, y, x], order=1, mode="nearest"), inside


def _align(
    first: np.ndarray, second: np.ndarray, warp: np.ndarray, blur: float, stride: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Affine maps (n, 2, 3) that carry `second` onto `first`, blurred and every `stride`-th
    pixel, starting from `warp`, and the correlation (n,) reached: the inverse compositional
    algorithm of Baker and Matthews, Lucas-Kanade 20 years on, 2004.
    """
    first = ndimage.gaussian_filter(first, (0, blur, blur))
    second = ndimage.gaussian_filter(second, (0, blur, blur))
    down, across = np.gradient(first, 2 / (SIDE - 1), axis=(1, 2))
    target, down, across = (a[:, ::stride, ::stride] for a in (first, down, across))
    grid = _grid(stride)
    slopes = [slope * axis for slope in (across, down) for axis in grid]
    steepest = np.stack(slopes, axis=1).reshape(len(first), 6, -1)
    hessian = steepest @ steepest.transpose(0, 2, 1)
    damping = 2e-3 * np.trace(hessian, axis1=1, axis2=2) + 1e-3
    hessian += damping[:, None, None] * np.eye(6, dtype=np.float32)
    for _ in range(steps):
        moved, inside = _sample(second, warp, stride)
        error = ((moved - target) * inside).reshape(len(first), -1, 1)
        step = np.linalg.solve(hessian, steepest @ error)
        warp = _compose(warp, np.clip(step, -0.1, 0.1).reshape(-1, 2, 3))
    return warp, _correlation(target, *_sample(second, warp, stride))


def _compose(warp: np.ndarray, step: np.ndarray) -> np.ndarray:
    last = np.broadcast_to(np.array([0, 0, 1], np.float32), (len(warp), 1, 3))
    change = np.concatenate([np.eye(2, 3) + step, last], 1)
    return (np.concatenate([warp, last], 1) @ np.linalg.inv(change))[:, :2].astype(np.float32)


def _is_mild(warp: np.ndarray) -> np.ndarray:
    """Whether the maps (n, 2, 3) stay within what copying does: 10 % scale, 6°, 10 % shift."""
    linear, shift = warp[..., :2] - np.eye(2), warp[..., 2]
    return (np.abs(linear).max((1, 2)) < 0.16) & (np.abs(shift).max(1) < 0.2)


def _correlation(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> np.ndarray:
    weight = inside / np.maximum(inside.sum((1, 2), keepdims=True), 1)
    first = first - (first * weight).sum((1, 2), keepdims=True)
    second = second - (second * weight).sum((1, 2), keepdims=True)
    power = (first**2 * weight).sum((1, 2)) * (second**2 * weight).sum((1, 2))
    return (first * second * weight).sum((1, 2)) / np.sqrt(power + 1e-6)
