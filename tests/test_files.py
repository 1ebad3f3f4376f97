import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fracture_utils import files
from fracture_utils.errors import InputError
from fracture_utils.ledger import Ledger


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.weights.h5"
    path.write_text("old")
    script = (
        "import os, sys; from pathlib import Path; from fracture_utils import files\n"
        "with files.replacing(Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    root = str(files.Path(files.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=False, env={"PYTHONPATH": root}
    )
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_the_temporary_name_keeps_the_suffix_that_writers_choose_by(tmp_path):
    with files.replacing(tmp_path / "a.weights.h5") as temporary:
        assert temporary.name.endswith(".weights.h5")
        assert temporary.name.startswith(files.TEMPORARY_PREFIX)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*FRACTURE_RESULTS_DIR"):
        files.write_text(tmp_path / "file" / "table.csv", "a")


def test_arrays_come_back_and_damage_is_noticed(tmp_path):
    path = tmp_path / "state.npz"
    values = np.random.default_rng(0).normal(size=(40, 30))
    files.write_arrays(path, {"epoch": 3, "best": 0.1 + 0.2}, {"values": values})
    meta, arrays = files.read_arrays(path)
    assert meta == {"epoch": 3, "best": 0.1 + 0.2}
    assert np.array_equal(arrays["values"], values)
    whole = path.read_bytes()
    for damaged in (whole[:-200], whole[:3000] + b"\xff\xfe" + whole[3002:], b"", b"PK\x03\x04"):
        path.write_bytes(damaged)
        assert files.read_arrays(path) is None
    assert files.read_arrays(tmp_path / "absent.npz") is None


def test_arrays_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", meta_json=np.array("{}"), values=np.array([{}], object))
    assert files.read_arrays(tmp_path / "evil.npz") is None


def test_tables_read_back_with_six_digits(tmp_path):
    table = pd.DataFrame({"path": ["a,b.png", 'ü"%.png'], "auc": [1 / 3, np.nan], "n": [10**9, 1]})
    files.write_table(tmp_path / "t.csv", table)
    back = pd.read_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(back, table.assign(auc=[0.333333, np.nan]), check_exact=True)


def test_the_ledger_says_why_a_stage_has_to_be_done_again(tmp_path):
    ledger, output = Ledger(tmp_path), tmp_path / "out.bin"
    key = {"data": "1", "settings": "2"}
    assert ledger.why("head", key) == "not done yet"
    output.write_bytes(b"result")
    ledger.record("head", key, [output], seconds=1.26)
    assert ledger.finished("head", key)
    assert ledger.seconds() == {"head": 1.3}
    assert ledger.why("head", key | {"settings": "3"}) == "settings changed"
    output.write_bytes(b"resulT")
    assert ledger.why("head", key) == "out.bin is damaged"
    output.unlink()
    assert ledger.why("head", key) == "out.bin is missing"


def test_a_ledger_cut_short_means_nothing_is_done(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.record("head", {}, [])
    (tmp_path / "ledger.json").write_text(json.dumps({"head": {}})[:-3])
    assert ledger.why("head", {}) == "not done yet"
