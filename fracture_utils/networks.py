"""The registry of networks, one row each: all that tells one from another."""

from dataclasses import dataclass
from typing import Any

from fracture_utils.errors import InputError

_ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclass(frozen=True)
class Backbone:
    """One network of keras.applications.

    `module` holds its builder and its `preprocess_input`. The top block begins behind `early`, the
    maps of about twice the grid of the last ones: all that is fine-tuned passes through them, and
    the evidence head looks at them, too. `early` is the name of a layer whose output they are,
    or, after a "<", of one whose input they are (Xception's additions have no name of their own).
    `multiply_adds` are billions per picture at the native size (Keras documentation and the
    original papers). At `radiograph_size` real pictures are looked at unless the settings say
    otherwise: the side at which trials on validation pictures were worth their minutes
    (benchmarks/README.md).
    """

    name: str
    module: str
    native_size: int
    radiograph_size: int
    smallest_size: int
    early: str
    parameters: int
    multiply_adds: float
    weights_path: str
    weights_md5: str | None

    @property
    def weights_file(self) -> str:
        """The name of the weights file without the classifier, as keras.applications has it."""
        return self.weights_path.rsplit("/", 1)[-1]

    @property
    def weights_address(self) -> str:
        """Where Keras publishes the weights file."""
        return _ADDRESS + self.weights_path

    def size(self, config: Any) -> int:
        """By the settings, the side of the input in pixels. InputError where it is too small."""
        own = self.native_size if config.source == "phantoms" else self.radiograph_size
        size = config.image_size or own
        if size < self.smallest_size:
            raise InputError(
                f"{self.name} needs pictures of at least {self.smallest_size} px and "
                f"image_size (FRACTURE_IMAGE_SIZE) is {size}; raise it, or leave {self.name} out "
                "of FRACTURE_BACKBONES."
            )
        return size


REGISTRY = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            "DenseNet121", "densenet", 224, 384, 32, "pool4_relu", 7_037_504, 2.9,
            "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "30ee3e1110167f948a6b9946edeeb738",
        ),
        Backbone(
            "ResNet50", "resnet", 224, 384, 32, "conv4_block6_out", 23_587_712, 3.9,
            "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "4d473c1dd8becc155b73f8504c6f6626",
        ),
        Backbone(
            "VGG16", "vgg16", 224, 224, 32, "block4_pool", 14_714_688, 15.3,
            "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "6d6bbae143d832006294945121d1f1fc",
        ),
        Backbone(
            "MobileNet", "mobilenet", 224, 512, 32, "conv_pw_11_relu", 3_228_864, 0.6,
            "mobilenet/mobilenet_1_0_224_tf_no_top.h5",
            None,
        ),
        Backbone(
            "InceptionV3", "inception_v3", 299, 384, 75, "mixed7", 21_802_784, 5.7,
            "inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "bcbd6486424b2319ff4ef7d526e38f63",
        ),
        Backbone(
            "Xception", "xception", 299, 320, 71, "<block13_sepconv1_act", 20_861_480, 8.4,
            "xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "b0042744bf5b25fce3cb969f33bebb97",
        ),
    )
}  # fmt: skip
"""Every network by its name. One more row, and settings, training, tables and figures know it."""
