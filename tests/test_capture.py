"""An answer as a Secondary Capture: of the same patient and study, new, marked, and readable."""

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, SecondaryCaptureImageStorage, generate_uid
from radiographs import bone, dicom, saved

from fracture_utils import capture, files
from fracture_utils.__main__ import main
from fracture_utils.data import reader

STUDY = {
    "PatientName": "Müller^Jürgen",
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientID": "4711",
    "PatientBirthDate": "19700101",
    "PatientSex": "M",
    "StudyInstanceUID": generate_uid(),
    "StudyDate": "20240229",
    "StudyTime": "235959",
    "AccessionNumber": "A1",
    "SOPClassUID": ComputedRadiographyImageStorage,
}


@pytest.fixture
def answers(tmp_path):
    """An answers table about two X-rays of one study, and the heat maps that go with it."""
    rows = []
    for name in ("one.dcm", "two.dcm"):
        dicom(name, **STUDY, SOPInstanceUID=generate_uid())
        overlay = saved(np.hstack([bone(), bone()]), f"{name}.png")
        row = {"path": name, "model": "VGG16", "probability": 0.25, "threshold": 0.5}
        row |= {"decision": "normal", "warning": "", "warning_rate": 0.1, "overlay": str(overlay)}
        rows.append(row)
    return pd.DataFrame(rows)


def test_a_capture_belongs_to_the_study_of_its_source_and_leaves_that_alone(answers):
    digests = {path: files.sha256(path) for path in answers["path"]}
    written, problems = capture.write(answers, Path("out"), ["Take care."])
    assert not problems
    assert {path: files.sha256(path) for path in answers["path"]} == digests
    captures = [pydicom.dcmread(path) for path in written]
    for source, made, path in zip(map(pydicom.dcmread, digests), captures, written, strict=True):
        for name in STUDY:
            if name not in ("SOPClassUID", "SpecificCharacterSet"):
                assert made[name].value == source[name].value, name
        assert str(made.PatientName) == "Müller^Jürgen"
        assert made.SOPClassUID == SecondaryCaptureImageStorage
        assert made.SOPInstanceUID not in ("", source.SOPInstanceUID)
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
        assert path.stem == made.SOPInstanceUID
        assert made.BurnedInAnnotation == "YES"
        assert "NOT FOR DIAGNOSIS" in made.DerivationDescription
        reference = made.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert made.SeriesInstanceUID != source.get("SeriesInstanceUID")
    assert len({made.SOPInstanceUID for made in captures}) == 2
    assert len({made.SeriesInstanceUID for made in captures}) == 2
    again, _ = capture.write(answers, Path("out"), [])
    assert not set(again) & set(written)  # each is an instance of its own


def test_picture_words_and_warning_are_burnt_in(answers, monkeypatch):
    drawn, text = [], capture.ImageDraw.ImageDraw.text

    def heard(draw, place, words, *rest, **more):
        drawn.append(words)
        text(draw, place, words, *rest, **more)

    monkeypatch.setattr(capture.ImageDraw.ImageDraw, "text", heard)
    answers.loc[0, "warning"] = "size"
    path = capture.write(answers.head(1), Path("out"), ["Take care.", ""])[0][0]
    stamp, words = drawn
    assert stamp.startswith("NOT FOR DIAGNOSIS")
    assert words.splitlines()[0].startswith("No decision: the picture is unlike those")
    assert "VGG16        0.250  normal (threshold 0.500)" in words.splitlines()
    assert words.splitlines()[-1] == "Take care."
    pixels = pydicom.dcmread(path).pixel_array
    assert pixels.shape[1:] == (capture.WIDTH, 3)
    top, line = 2 * capture.LINE, capture.LINE * (len(words.splitlines()) + 1)
    assert (pixels[:top] == (139, 0, 0)).all(-1).mean() > 0.5  # a red bar with white letters
    assert (pixels[:top].min(-1) > 200).mean() > 0.02
    assert (pixels[-line:].min(-1) > 200).mean() > 0.005
    with Image.open(answers["overlay"][0]) as overlay:
        shown = overlay.convert("RGB").resize((capture.WIDTH, len(pixels) - top - line))
    difference = pixels[top:-line].astype(int) - np.asarray(shown)
    assert np.abs(difference).mean() < 2
    assert reader.read(path).shape == pixels.shape[:2]  # and this package reads it, too


def test_a_picture_without_a_study_is_told_and_left_out(answers):
    dicom("nameless.dcm")
    saved(bone(), "plain.png")
    others = [answers.assign(path=name).head(1) for name in ("nameless.dcm", "plain.png")]
    written, problems = capture.write(pd.concat([answers, *others]), Path("out"), [])
    assert len(written) == 2
    assert problems[0].startswith("nameless.dcm does not name its study")
    assert problems[1].startswith("plain.png is no DICOM file")


def test_what_a_source_says_against_the_standard_is_no_fault_and_no_chatter(answers):
    """Warnings are errors here; a number that is none is left out, other words are kept."""
    path = Path("odd.dcm")
    given = {"StudyDate": "20240229", "LossyImageCompression": "01"}
    dicom(path, **STUDY | given, SOPInstanceUID=generate_uid(), LossyImageCompressionRatio="1010")
    whole = path.read_bytes()
    assert whole.count(b"20240229") == whole.count(b"1010") == 1
    path.write_bytes(whole.replace(b"20240229", b"29.2.24 ").replace(b"1010", b"10:1"))
    written, problems = capture.write(answers.assign(path=str(path)).head(1), Path("out"), [])
    assert not problems
    made = pydicom.dcmread(written[0])
    assert "LossyImageCompressionRatio" not in made
    assert made.LossyImageCompression == "01"
    assert b"29.2.24" in written[0].read_bytes()


def test_the_command_line_leaves_a_capture_beside_its_answer(small_released, capsys):
    dicom("x.dcm", **STUDY, SOPInstanceUID=generate_uid())
    folders = ["--models-dir", str(small_released), "--results-dir", "results"]
    assert main(["predict", "x.dcm", "--dicom-out", "out", *folders]) == 0
    (path,) = Path("out").iterdir()
    assert str(path) in capsys.readouterr().out.splitlines()
    assert pydicom.dcmread(path).StudyInstanceUID == STUDY["StudyInstanceUID"]
    assert main(["predict", "x.dcm", "--dicom-out", "out", "--numbers-only", *folders]) == 2
    assert capsys.readouterr().err == "--dicom-out shows heat maps; leave --numbers-only away.\n"
