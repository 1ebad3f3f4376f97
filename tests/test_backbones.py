"""The registry, initial weights, precision and devices."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from fracture_utils import artifacts
from fracture_utils.config import BACKBONES, Config, InputError
from fracture_utils.models import backbones, builder
from fracture_utils.models.backbones import REGISTRY


def test_the_registry_has_the_backbones_of_the_settings():
    assert Config().backbones == BACKBONES == tuple(REGISTRY)


@pytest.mark.parametrize(
    ("name", "module", "early"),
    [
        ("EfficientNetB0", "efficientnet", (4, 4, 672)),
        ("MobileNetV2", "mobilenet_v2", (4, 4, 576)),
    ],
)
def test_another_network_of_keras_is_found_by_its_name(name, module, early):
    row = backbones.find(name)
    assert (row.module, row.native_size, row.smallest_size) == (module, 224, 32)
    for head in builder.HEADS:
        model = builder.build(name, head, size=64)
        assert model.get_layer(builder.EARLY).output.shape[1:] == early
        builder.unfreeze(model, "top")
        tuned = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        assert builder.MIN_TOP < tuned / model.count_params() < 0.8


@pytest.mark.parametrize(("wrong", "right"), [("mobilenet", "MobileNet"), ("VGG17", "VGG1")])
def test_an_unknown_network_is_a_sentence_with_the_nearest_name(wrong, right):
    with pytest.raises(InputError, match=f"no network '{wrong}' .* did you mean '{right}") as it:
        backbones.sizes(Config(source="phantoms", backbones=f"MobileNet,{wrong}"))
    assert "\n" not in str(it.value)


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        ({"source": "images"}, ["0"], (backbones.GPU_EPOCHS, "all")),
        ({"source": "images"}, [], (backbones.CPU_EPOCHS, "top")),
        ({"source": "images"}, ["-1"], (backbones.CPU_EPOCHS, "top")),
        ({"source": "phantoms", "quick": True}, [], (backbones.CPU_EPOCHS, "top")),
        ({"source": "images", "quick": True}, ["0"], (1, "all")),
        ({"fine_tune_epochs": 3}, [], (3, "top")),
        ({"fine_tune_epochs": 0, "fine_tune_depth": "top"}, ["0"], (0, "top")),
    ],
)
def test_fine_tuning_follows_the_hardware_unless_it_is_set(monkeypatch, settings, gpus, expected):
    monkeypatch.setattr(backbones, "gpus", lambda: gpus)
    config = backbones.by_hardware(Config(**settings))
    assert (config.fine_tune_epochs, config.fine_tune_depth) == expected
    monkeypatch.setattr(backbones, "gpus", lambda: [])
    assert backbones.by_hardware(config) == config


def test_sizes_follow_the_source_and_the_settings():
    images = Config(source="images")
    assert backbones.size("MobileNet", images) == REGISTRY["MobileNet"].radiograph_size
    assert backbones.size("MobileNet", Config(source="phantoms")) == 224
    assert backbones.sizes(Config(source="phantoms")) == [224, 299]
    assert backbones.sizes(Config(source="phantoms", image_size=96)) == [96]


@pytest.mark.parametrize("name", ["InceptionV3", "Xception"])
def test_too_small_an_input_names_the_smallest_size(name):
    smallest = REGISTRY[name].smallest_size
    with pytest.raises(InputError, match=f"{name} needs images of at least {smallest} px"):
        backbones.size(name, Config(source="phantoms", image_size=64))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No Keras cache, no released weights; every download is refused and recorded."""
    requested = []

    def refuse(origin, *_):
        requested.append((origin, socket.getdefaulttimeout()))
        raise OSError("no internet")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(backbones, "RELEASED_DIR", tmp_path / "released")
    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", refuse)
    return requested


def weights_folder(tmp_path, name="MobileNet"):
    """A folder with a weights file in the format of the official ones, and the network in it."""
    folder = tmp_path / "weights"
    folder.mkdir()
    keras.utils.set_random_seed(7)
    build = getattr(getattr(keras.applications, REGISTRY[name].module), name)
    network = build(weights=None, include_top=False, input_shape=(32, 32, 3))
    network.save(folder / REGISTRY[name].weights_file)
    return folder, network


def radiographs_config(tmp_path, **settings):
    (tmp_path / "mine/train/normal").mkdir(parents=True)
    (tmp_path / "mine/train/normal/a.png").touch()
    return Config(data_dir=tmp_path / "mine", **settings)


def test_imagenet_weights_come_from_the_folder(offline, tmp_path):
    folder, network = weights_folder(tmp_path)
    config = Config(source="phantoms", weights_dir=folder, backbones="MobileNet")
    available, missing = backbones.find_weights(config)
    weights = available["MobileNet"]
    assert (weights.initialization, weights.path.parent, missing) == ("imagenet", folder, {})
    assert weights.sha256 == artifacts.digest(weights.path)
    body = builder.build_body("MobileNet", 32, weights)
    np.testing.assert_array_equal(body.get_weights()[0], network.get_weights()[0])
    assert not offline


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("VGG16", REGISTRY["VGG16"].weights_file),
        ("EfficientNetB0", "efficientnetb0_notop.h5"),
        ("ResNet101", "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        ("MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"),
        ("MobileNetV3Small", "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"),
    ],
)
def test_weights_are_downloaded_by_keras_once(offline, tmp_path, monkeypatch, name, file):
    def load(weights, include_top):
        assert (weights, include_top) == ("imagenet", False)
        calls.append(name)
        for other in (file, "mobilenet_1_0_224_tf_no_top.h5", "resnet101v2_notop.h5"):
            artifacts.write_text(tmp_path / "keras" / "models" / other, other)

    calls = []
    backbones.find(name)
    monkeypatch.setattr(keras.applications, name, load)
    for _ in range(2):
        available, _ = backbones.find_weights(Config(source="phantoms", backbones=name))
        assert available[name].path == tmp_path / "keras" / "models" / file
    assert calls == [name]
    assert not offline


def test_another_network_that_keras_cannot_load_is_a_sentence(offline, tmp_path, monkeypatch):
    backbones.find("MobileNetV2")
    monkeypatch.setattr(keras.applications, "MobileNetV2", lambda **_: 1 / 0)
    with pytest.raises(InputError, match=r"put Keras's MobileNetV2\*notop.h5 into .*models"):
        backbones.find_weights(radiographs_config(tmp_path, backbones="MobileNetV2"))


def test_a_file_other_than_the_official_one_is_noted(offline, tmp_path):
    folder, _ = weights_folder(tmp_path, "VGG16")
    config = Config(source="phantoms", weights_dir=folder, backbones="VGG16")
    provenance = backbones.find_weights(config)[0]["VGG16"].provenance
    assert "differs from Keras's official file" in provenance


def test_phantoms_are_trained_from_random_weights_if_none_are_available(offline):
    available, missing = backbones.find_weights(Config(source="phantoms"))
    assert not missing
    assert {weights.initialization for weights in available.values()} == {"random"}
    assert all(REGISTRY[n].weights_file in w.provenance for n, w in available.items())
    ((address, timeout),) = offline  # one refusal is enough
    assert address.startswith(backbones.ADDRESS) and timeout == backbones.TIMEOUT
    assert socket.getdefaulttimeout() is None


def test_radiographs_stop_without_weights(offline, tmp_path):
    config = radiographs_config(tmp_path, weights_dir=tmp_path / "w")
    with pytest.raises(InputError) as caught:
        backbones.find_weights(config)
    for part in (*(b.weights_file for b in REGISTRY.values()), str(tmp_path / "w")):
        assert part in str(caught.value)
    assert "FRACTURE_INITIALIZATION=random" in str(caught.value)


def test_backbones_without_weights_are_left_out_unless_named(offline, tmp_path):
    folder, _ = weights_folder(tmp_path)
    config = radiographs_config(tmp_path, weights_dir=folder)
    available, missing = backbones.find_weights(config)
    assert set(available) == {"MobileNet"}
    assert set(missing) == set(REGISTRY) - {"MobileNet"}
    named = Config(data_dir=config.data_dir, weights_dir=folder, backbones="MobileNet,VGG16")
    with pytest.raises(InputError, match="VGG16: its ImageNet weights"):
        backbones.find_weights(named)


def test_random_weights_on_request(offline, tmp_path):
    available, missing = backbones.find_weights(
        radiographs_config(tmp_path, initialization="random")
    )
    assert {weights.initialization for weights in available.values()} == {"random"}
    assert not missing
    assert not offline


@pytest.mark.parametrize("usable", [True, False])
def test_released_weights_come_last_and_only_if_they_cannot_leak(offline, tmp_path, usable):
    (tmp_path / "released").mkdir()
    body = builder.build_body("MobileNet", 32)
    arrays = {f"{k}/w": array for k, array in enumerate(body.get_weights())}
    artifacts.write_arrays(tmp_path / "released/MobileNet.npz", **arrays)
    card = {"usable_as_initialization": usable}
    artifacts.write_json(tmp_path / "released/MobileNet.json", card)
    available, _ = backbones.find_weights(Config(source="phantoms", backbones="MobileNet"))
    assert available["MobileNet"].initialization == ("released" if usable else "random")


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx512_bf16 x", "graph_bfloat16"), ("amx_bf16", "graph_bfloat16"), ("sse", "float32")],
)
def test_automatic_precision_on_a_cpu_is_never_float16(cpu, monkeypatch, flags, expected):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the graph rewrite is TensorFlow's")
    monkeypatch.setattr(backbones, "_processor", lambda field: flags)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert backbones.resolve_precision("auto") == expected
    assert backbones.resolve_precision("mixed_float16") == "mixed_float16"
    assert backbones.hardware() == flags


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("AVX512_CORE", "float32"), ("avx2", "float32"), ("AVX512_CORE_BF16", "graph_bfloat16"),
     ("AVX10_1_512_AMX", "graph_bfloat16"), ("DEFAULT", "graph_bfloat16"), ("", "graph_bfloat16")],
)  # fmt: skip
def test_automatic_precision_respects_the_limit_of_onednn(cpu, monkeypatch, limit, expected):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(backbones, "_processor", lambda field: "avx512_bf16 amx_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert backbones.resolve_precision("auto") == expected


def test_the_graph_rewrite_is_float32_where_there_is_no_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert backbones.resolve_precision("graph_bfloat16") == "float32"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [(["9.0"], "mixed_bfloat16"), (["7.5", "9.0"], "mixed_float16"), (["6.1"], "float32"),
     ([], "float32")],
)  # fmt: skip
def test_automatic_precision_follows_the_gpu(monkeypatch, capabilities, expected):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0"])
    monkeypatch.setattr(backbones, "_nvidia", lambda field: capabilities)
    assert backbones.resolve_precision("auto") == expected
    assert backbones.hardware() == (capabilities or ["GPU"])[0]


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """Put a shell script in the place of nvidia-smi."""

    def write(script):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return write


@pytest.mark.skipif(os.name != "posix", reason="writes a script in the place of nvidia-smi")
@pytest.mark.parametrize(
    ("listed", "code", "expected"),
    [
        ("GPU-aa\nGPU-bb\n", 0, ["GPU-aa", "GPU-bb"]),
        ("No devices were found\n", 0, []),
        ("GPU-aa\n", 9, []),  # the driver is not loaded
    ],
)
def test_gpus_are_those_that_nvidia_smi_lists(nvidia, listed, code, expected):
    nvidia(f"cat <<'END'\n{listed}END\nexit {code}\n")
    assert backbones.gpus() == expected


@pytest.mark.skipif(os.name != "posix", reason="writes a script in the place of nvidia-smi")
def test_a_driver_that_hangs_means_no_gpu(nvidia, monkeypatch):
    nvidia("exec sleep 600\n")
    monkeypatch.setattr(backbones, "NVIDIA_TIMEOUT", 0.2)
    assert backbones.gpus() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0, 1", ["0", "1"]), ("", []), ("-1", ["-1"]), ("GPU-aa", ["GPU-aa"])],
)
def test_gpus_are_those_of_the_environment_variable(monkeypatch, value, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert backbones.gpus() == expected


def test_keras_in_the_notebook_is_quiet_and_ignores_keras_json(tmp_path):
    own = {"backend": "jax", "floatx": "float64", "image_data_format": "channels_first"}
    artifacts.write_text(tmp_path / "keras.json", json.dumps(own))
    code = (
        "from fracture_utils.models import backbones; keras = backbones.import_keras();"
        "print(keras.backend.backend(), keras.config.floatx(), keras.config.image_data_format(),"
        "keras.config.dtype_policy().name)"
    )
    environment = {k: v for k, v in backbones.environment().items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"KERAS_HOME": str(tmp_path)}
    environment.pop("KERAS_BACKEND")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["tensorflow", "float32", "channels_last", "float32"]
    assert not done.stderr


def test_a_subprocess_gets_defaults_but_keeps_what_is_set(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    variables = backbones.environment()
    assert (variables["KERAS_BACKEND"], variables["TF_ENABLE_ONEDNN_OPTS"]) == ("jax", "1")
    assert variables["PYTHONPATH"].split(os.pathsep)[1] == "somewhere"
