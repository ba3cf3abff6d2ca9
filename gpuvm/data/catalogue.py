"""Data for the shipped workloads: files that gpuvm can fetch, and files that the user must get.

All of it is optional: ``without`` is what the workload uses instead, and notes in its results.
"""

from dataclasses import dataclass
from pathlib import Path

from gpuvm import paths


@dataclass(frozen=True)
class Entry:
    """``file`` is its file or folder in the cache; ``use`` is an example command."""

    name: str
    workload: str
    file: str
    use: str
    without: str

    @property
    def path(self) -> Path:
        """Its path in the cache."""
        return paths.cache_dir() / "data" / self.file


@dataclass(frozen=True)
class Known(Entry):
    """``digest`` is ALGORITHM:HEX as published."""

    url: str
    digest: str
    size_mib: int


@dataclass(frozen=True)
class ByHand(Entry):
    """``source``: where to download it and its licence; ``layout``: the files it must have."""

    source: str
    layout: str


_KERAS = "https://storage.googleapis.com/tensorflow"
_FLICKR = (
    "on request from the University of Illinois, or with a Kaggle account; for research and "
    "teaching only"
)
_SCENES = "rendered scenes with generated captions"
# Names and hashes are from Keras (keras/src/applications, keras/src/datasets).
KNOWN = {
    known.name: known
    for known in (
        Known(
            "vgg19",
            "style",
            "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "gpuvm run style -- --weights @vgg19",
            "random weights: the style is transferred, the content only roughly",
            f"{_KERAS}/keras-applications/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:253f8cb515780f3b799900260a226db6",
            77,
        ),
        Known(
            "vgg16",
            "captioning",
            "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
            "gpuvm run captioning -- --vgg16-weights @vgg16",
            "a small encoder that is trained on the run's own pictures",
            f"{_KERAS}/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
            "md5:64373286793e3c8b2b4e3219cbf3544b",
            528,
        ),
        Known(
            "mnist",
            "mnist",
            "mnist.npz",
            "gpuvm run mnist -- --data @mnist",
            "scikit-learn's 1,797 digits of 8 x 8 pixels",
            f"{_KERAS}/tf-keras-datasets/mnist.npz",
            "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            11,
        ),
    )
}
BY_HAND = {
    own.name: own
    for own in (
        ByHand(
            "stocks",
            "stock",
            "data_stocks.csv",
            "gpuvm run stock -- --data @stocks",
            "generated prices, in the paper's format",
            "the paper's minute prices of the S&P 500, April to August 2017, published without a "
            "checksum with the article 'A simple deep learning model for stock price prediction "
            "using TensorFlow'",
            "one CSV file with a header: DATE, the index, then a column per stock",
        ),
        ByHand(
            "coco",
            "captioning",
            "coco",
            "gpuvm run captioning -- --data @coco",
            _SCENES,
            "cocodataset.org, under its terms of use; each picture has its own licence",
            "a folder with annotations/captions_train2017.json and train2017/*.jpg, and to "
            "score on what others do captions_val2017.json and val2017/*.jpg; or with "
            "dataset_coco.json",
        ),
        ByHand(
            "flickr8k",
            "captioning",
            "flickr8k",
            "gpuvm run captioning -- --data @flickr8k",
            _SCENES,
            _FLICKR,
            "a folder with captions.txt or Flickr8k.token.txt, and Images/*.jpg or "
            "Flicker8k_Dataset/*.jpg; Flickr_8k.trainImages.txt and the like, or "
            "dataset_flickr8k.json",
        ),
        ByHand(
            "flickr30k",
            "captioning",
            "flickr30k",
            "gpuvm run captioning -- --data @flickr30k",
            _SCENES,
            _FLICKR,
            "a folder with results_20130124.token and flickr30k_images/*.jpg",
        ),
    )
}
