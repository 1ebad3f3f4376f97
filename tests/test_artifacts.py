"""Files are complete or absent; an artifact counts only under its key and with its bytes."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fracture_utils
from fracture_utils import artifacts
from fracture_utils.config import InputError

ROOT = Path(fracture_utils.__file__).parents[1]


def start(code: str, *arguments: object, **options) -> subprocess.Popen:
    """Python in another process, with artifacts and Path imported."""
    code = f"import os, sys, time; from pathlib import Path; {code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **options)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "state.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), artifacts.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_leaves_the_old_file_and_a_leftover_that_can_be_removed(tmp_path):
    path = tmp_path / "deep" / "model.weights.h5"
    path.parent.mkdir()
    path.write_text("old")
    code = (
        "from fracture_utils import artifacts\n"
        "with artifacts.replacing(Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert start(code, path).wait() == -9
    assert path.read_text() == "old"
    (leftover,) = set(path.parent.iterdir()) - {path}
    assert leftover.name.startswith(artifacts.TEMPORARY)
    assert leftover.name.endswith(".weights.h5")  # Keras chooses the format by it
    artifacts.remove_leftovers(tmp_path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 245 + ".weights.h5", "1." + "2" * 252, "ü" * 125 + ".png"])
def test_any_name_that_the_file_system_accepts_can_be_written(tmp_path, name):
    artifacts.write_text(tmp_path / name[-255:], "a")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(InputError, match=r"cannot be written .*shorten"):
        artifacts.write_text(tmp_path / f"{name}{'x' * 10}", "a")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .* choose another folder"):
        artifacts.write_text(tmp_path / "file" / "table.csv", "a")


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
def test_a_file_gets_the_mode_that_the_user_asked_for(tmp_path):
    mask = os.umask(0o027)
    try:
        artifacts.write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_json_is_readable_and_a_damaged_one_is_named(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"name": "Łódź", "path": Path("x")})
    assert "Łódź" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert artifacts.read_json(tmp_path / "a.json") == {"name": "Łódź", "path": "x"}
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "absent.json"):
        with pytest.raises(InputError, match=f"{name} cannot be read .*run the notebook again"):
            artifacts.read_json(tmp_path / name)


def test_arrays_are_read_back_and_damage_is_detected(tmp_path):
    path, values = tmp_path / "a.npz", np.random.default_rng(0).normal(size=(40, 30))
    artifacts.write_arrays(path, values=values)
    assert np.array_equal(artifacts.read_arrays(path)["values"], values)
    complete = path.read_bytes()
    half = len(complete) // 2
    flipped = complete[:half] + b"\xff\xfe" + complete[half + 2 :]
    for damaged in (complete[:-200], flipped, b"", b"PK\x03\x04"):
        path.write_bytes(damaged)
        assert artifacts.read_arrays(path) is None
    assert artifacts.read_arrays(tmp_path / "absent.npz") is None


def test_arrays_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", values=np.array([{}], object))
    assert artifacts.read_arrays(tmp_path / "evil.npz") is None


def test_tables_have_six_significant_digits(tmp_path):
    table = pd.DataFrame({"path": ["a,b.png", 'ü"%.png'], "auc": [1 / 3, np.nan], "n": [10**9, 1]})
    artifacts.write_csv(tmp_path / "t.csv", table)
    back = pd.read_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(back, table.assign(auc=[0.333333, np.nan]), check_exact=True)


def test_a_fingerprint_changes_with_every_part_of_its_value():
    values = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, [1], [1, 2], [2, 1], None]
    prints = [artifacts.fingerprint(value) for value in values]
    assert len(set(prints)) == len(values)
    assert prints == [artifacts.fingerprint(value) for value in values]
    assert artifacts.fingerprint({"b": 1, "a": 2}) == artifacts.fingerprint({"a": 2, "b": 1})


def test_a_key_names_inputs_code_and_libraries():
    key = artifacts.key(code=["config.py"], libraries=["numpy"], data=[1], settings={"a": 2})
    assert {"data", "settings", "code", "libraries"} == set(key)
    assert key["libraries"]["numpy"] == np.__version__
    assert key["code"] != artifacts.key(code=["artifacts.py"])["code"]
    assert key["code"] != artifacts.key(code=["config.py", "data"])["code"]
    assert json.loads(json.dumps(key)) == key


def test_an_artifact_is_valid_only_under_its_key_and_with_its_bytes(tmp_path):
    path, key = tmp_path / "out.bin", artifacts.key(data=1)
    assert not artifacts.is_valid(path, key)
    path.write_bytes(b"result")
    assert not artifacts.is_valid(path, key)
    artifacts.seal(path, key, seconds=1.5)
    assert artifacts.is_valid(path, key)
    assert artifacts.facts(path)["seconds"] == 1.5
    assert not artifacts.is_valid(path, artifacts.key(data=2))
    path.write_bytes(b"resulT")
    assert not artifacts.is_valid(path, key)
    path.unlink()
    assert not artifacts.is_valid(path, key)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path, key, hashed, real = tmp_path / "out.bin", {"a": 1}, [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: hashed.append(1) or real(*given))
    path.write_bytes(b"result")
    artifacts.seal(path, key)
    assert [artifacts.is_valid(path, key) for _ in range(3)] == [True] * 3
    assert len(hashed) == 1
    path.write_bytes(b"resulT")
    os.utime(path, (1, 1))
    assert not artifacts.is_valid(path, key)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 1}', "null"])
def test_an_artifact_with_a_damaged_seal_is_invalid(tmp_path, text):
    path, key = tmp_path / "out.bin", artifacts.key(data=1)
    path.write_bytes(b"result")
    artifacts.seal(path, key)
    (sealed,) = set(tmp_path.iterdir()) - {path}
    sealed.write_text(text)
    assert not artifacts.is_valid(path, key)


LOCK = (
    "from fracture_utils import artifacts; held = artifacts.lock(Path(sys.argv[1])); "
    "print('locked', flush=True); time.sleep(60)"
)


def test_a_folder_is_locked_until_its_process_dies(tmp_path):
    other = start(LOCK, tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="Another run is using") as caught:
            artifacts.lock(tmp_path)
        assert "choose another folder" in str(caught.value)
    finally:
        other.kill()
        other.communicate()
    deadline = time.monotonic() + 10
    while True:  # the system releases the lock a moment after the kill
        try:
            artifacts.lock(tmp_path).release()
            break
        except InputError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_same_process_may_lock_a_folder_again(tmp_path):
    first, second = artifacts.lock(tmp_path), artifacts.lock(tmp_path)
    second.release()
    first.release()


def test_a_lock_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        artifacts.lock(tmp_path / "file" / "cache")


CONTENT = b"weights" * 1000


def test_versions_name_package_python_and_libraries():
    versions = artifacts.versions(["numpy", "nonsense"])
    assert versions["fracture_utils"] == fracture_utils.__version__
    assert versions["nonsense"] == "not installed"
    assert {"python", "numpy"} < set(versions)
