"""Settings: precedence, one sentence for a wrong one, and what a data set's source.json adds."""

from pathlib import Path

import pytest

from fracture_utils.config import BACKBONES, QUICK_DEFAULTS, Config, InputError


def image(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()


def test_phantoms_are_the_default_where_data_has_no_images():
    config = Config()
    assert config.source == "phantoms"
    assert config.images_dir.parts == ("data", "phantoms")
    assert config.backbones == BACKBONES


def test_images_of_the_user_are_preferred():
    image("mine/train/normal/deep/a.png")
    config = Config(data_dir="mine")
    assert (config.source, config.images_dir) == ("images", Path("mine"))


def test_keyword_beats_environment_beats_quick(monkeypatch):
    monkeypatch.setenv("FRACTURE_SEED", "6")
    monkeypatch.setenv("FRACTURE_ROTATION", "4")
    monkeypatch.setenv("FRACTURE_BATCH_SIZE", "7")
    monkeypatch.setenv("FRACTURE_QUICK", "1")
    config = Config(rotation=3, batch_size=None)
    assert (config.rotation, config.seed, config.batch_size) == (3, 6, 7)
    assert config.image_size == QUICK_DEFAULTS["image_size"]


def test_settings_survive_the_way_to_another_process():
    config = Config(quick=True, backbones="MobileNet, VGG16", weights_dir="w")
    assert Config(**config.model_dump()) == config


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Config().seed = 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": "many"}, r"batch_size \(FRACTURE_BATCH_SIZE\) is 'many'.*integer"),
        ({"backbones": ""}, "backbones .* at least 1 item"),
        ({"bach_size": 3}, "no setting 'bach_size'; did you mean 'batch_size'"),
        ({"data_dir": "nowhere"}, "data folder nowhere does not exist"),
        ({"image_size": 3}, "image_size"),
        ({"target_sensitivity": 1.5}, "target_sensitivity"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        Config(**settings)
    assert "\n" not in str(caught.value)


def test_a_named_folder_without_images_is_an_error_even_if_tables_are_there():
    Path("mine").mkdir()
    with pytest.raises(InputError, match=r"mine has no images\. Put them into train/fractured"):
        Config(data_dir="mine")
    Path("data").mkdir()
    Path("data/boxes.csv").touch()
    with pytest.raises(InputError, match="data has no images"):
        Config()


def test_a_misspelled_variable_is_named(monkeypatch):
    monkeypatch.setenv("FRACTURE_BATCHSIZE", "3")
    with pytest.raises(InputError, match="did you mean 'FRACTURE_BATCH_SIZE'"):
        Config()


def test_the_table_explains_every_setting():
    table = Config().table()
    assert set(table.index) == set(Config.model_fields)
    assert table["meaning"].str.len().min() > 10


def test_source_json_gives_the_positive_class_and_the_runs_of_neighbors():
    assert (Config().positive, Config().run_length) == ("fractured", 0)
    image("data/train/normal/a.png")
    for text, word in (('{"positive": "abnormal"}', "abnormal"), ("{}", "fractured"), ("[", None)):
        Path("data/source.json").write_text(text)
        assert Config().positive == (word or "fractured")
    Path("data/source.json").write_text('{"positive": "abnormal", "neighbors": 25}')
    assert Config().run_length == 25
    assert Config(neighbors=0).run_length == 0
    assert Config(source="phantoms").positive == "fractured"
