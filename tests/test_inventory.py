import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import radiographs
from radiographs import make, picture, save

from fracture_utils.data import inventory, reader
from fracture_utils.errors import InputError


def test_every_file_is_read_or_has_a_reason(monkeypatch):
    config = make()
    train = Path("data/train")
    (train / "normal/notes.txt").write_text("x")
    (train / "normal/text.png").write_text("x")
    (train / "normal/empty.png").touch()
    (train / "normal/._x.png").write_bytes(b"x")
    (train / "loose.png").write_bytes(b"x")
    (train / "Broken").mkdir()
    (train / "Broken/a.png").write_bytes(b"x")
    (train / "normal/loop").symlink_to(train.resolve())
    (train / "normal/self.png").symlink_to("self.png")
    save(train / "normal/deep/er/ü %41 patient3.png", 999)
    Path(os.fsdecode(b"data/train/normal/\xff.png")).write_bytes(b"x")
    (train / "normal/locked").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = inventory.take(config).files.set_index("path")
    reasons = found["reason"][found["reason"] != ""]
    assert len(reasons) == 10
    assert (found["reason"] == "").sum() == 53
    assert "Permission denied" in reasons["train/normal/locked"]
    assert "link to a folder above" in reasons["train/normal/loop"]
    assert "hidden" in reasons["train/normal/._x.png"]
    assert "empty" in reasons["train/normal/empty.png"]
    assert "neither" in reasons["train/Broken/a.png"]
    assert "ending .txt" in reasons["train/normal/notes.txt"]
    assert "no valid text" in reasons["train/normal/\\udcff.png"]
    with pytest.raises(InputError, match=r"holds 2 files .* train \(1\), train/Broken \(1\)"):
        radiographs.table(config)
    shutil.rmtree(train / "Broken")
    (train / "loose.png").unlink()
    assert len(radiographs.table(config)) == 53


def test_the_second_time_reads_only_what_changed(monkeypatch):
    config = make()
    first = inventory.take(config)
    read = []
    load = reader.load
    monkeypatch.setattr(reader, "load", lambda path: read.append(path) or load(path))
    second = inventory.take(config)
    assert read == []
    pd.testing.assert_frame_equal(first.files, second.files)
    np.testing.assert_array_equal(first.thumbnails, second.thumbnails)
    if os.name == "posix":
        assert isinstance(first.thumbnails, np.memmap)  # so they are not held
    changed = Path(first.files["path"][0])
    picture(5000, 44).save(config.pictures_dir / changed)
    third = inventory.take(config)
    assert read == [config.pictures_dir / changed]
    assert third.files["width"][0] == 44
    inventory.take(config)
    assert len(read) == 1
    (config.cache_dir / "inventory.npz").write_bytes(b"damaged")
    assert len(inventory.take(config).files) == 52
    assert len(read) == 53


def test_a_run_takes_it_once_and_hands_it_on():
    """The fault: the images table, two sidecars, the audit and the probe each read it anew."""
    root = Path(inventory.__file__).parents[2]
    takes = re.compile(r"\binventory\.take\(|\btake\(config")
    calling = [
        path.name
        for path in root.joinpath("fracture_utils").rglob("*.py")
        if path.name != "inventory.py" and takes.search(path.read_text())
    ]
    assert calling == []
    assert len(takes.findall((root / "fracture-detection.ipynb").read_text())) == 1
