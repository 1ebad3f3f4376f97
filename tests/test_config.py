from pathlib import Path

import pytest

from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.networks import REGISTRY


def test_defaults_use_phantoms_where_data_has_no_pictures():
    config = Config()
    assert config.source == "phantoms"
    assert config.pictures_dir.parts == ("data", "phantoms")
    assert config.backbones == tuple(REGISTRY)


def test_pictures_of_the_user_are_preferred(tmp_path):
    (tmp_path / "mine/train/normal/deep").mkdir(parents=True)
    (tmp_path / "mine/train/normal/deep/a.png").touch()
    config = Config(data_dir=tmp_path / "mine")
    assert config.source == "pictures"
    assert config.fine_tune_epochs < Config().fine_tune_epochs


def test_keyword_beats_environment_beats_file_beats_quick(tmp_path, monkeypatch):
    (tmp_path / "s.toml").write_text("batch_size = 7\nseed = 5\nviews = 4\n")
    monkeypatch.setenv("FRACTURE_CONFIG", str(tmp_path / "s.toml"))
    monkeypatch.setenv("FRACTURE_SEED", "6")
    monkeypatch.setenv("FRACTURE_QUICK", "1")
    config = Config(views=3, batch_size=None)
    assert (config.views, config.seed, config.batch_size) == (3, 6, 7)
    assert config.image_size == 96  # quick, because nobody named another


def test_settings_travel_to_another_process_unchanged():
    config = Config(quick=True, backbones="MobileNet, VGG16", weights_dir="w")
    assert Config(**config.model_dump()) == config


def test_frozen():
    with pytest.raises(Exception, match="frozen"):
        Config().seed = 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": "many"}, r"batch_size \(FRACTURE_BATCH_SIZE\) is 'many'.*integer"),
        ({"backbones": "Foo"}, "'Foo' is no known backbone; choose from DenseNet121"),
        ({"backbones": "VGG16,VGG16"}, "each backbone once"),
        ({"bach_size": 3}, "no setting 'bach_size'; did you mean 'batch_size'"),
        ({"data_dir": "nowhere"}, "data folder nowhere does not exist"),
        ({"data_dir": "."}, "data folder . has no pictures"),
        ({"image_size": 3}, "image_size"),
        ({"validation_share": 0.9}, "validation_share"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        Config(**settings)
    assert "\n" not in str(caught.value)


def test_a_misspelt_variable_is_named(monkeypatch):
    monkeypatch.setenv("FRACTURE_BATCHSIZE", "3")
    with pytest.raises(InputError, match="did you mean FRACTURE_BATCH_SIZE"):
        Config()


def test_the_table_explains_every_setting():
    table = Config().table()
    assert set(table.index) == set(Config.model_fields)
    assert table["meaning"].str.len().min() > 10


def test_the_word_for_the_positive_class_is_the_data_sets_unless_a_setting_says_otherwise():
    assert Config().positive_name == "fractured"
    folder = Path("data/train/normal")
    folder.mkdir(parents=True)
    (folder / "a.png").touch()
    for text, word in (
        ('{"positive": "abnormal"}', "abnormal"),
        ("{}", "fractured"),
        ("[", "fractured"),
    ):
        Path("data/source.json").write_text(text)
        assert Config().positive_name == word
    Path("data/source.json").write_text('{"positive": "abnormal", "neighbours": 25}')
    assert Config().neighbours == 25
    assert Config(neighbours=0).neighbours == 0
    assert Config(positive_name="broken").positive_name == "broken"
    assert Config(source="phantoms").positive_name == "fractured"
