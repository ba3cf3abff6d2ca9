"""The data of captioning: rendered scenes, real images, batches, features."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from captioning_runs import greedy, use
from PIL import Image
from programs import Program, of
from typing_extensions import override

from captioning import dataset, scenes
from captioning.dataset import Dataset, Shard
from captioning.features import VGG16, Cache
from captioning.images import read_pictures
from captioning.model import DIM_IN, Captioner
from captioning.options import Options, parse
from captioning.train import Trainer
from common.cluster import Cluster
from common.errors import BadInput
from common.log import Log
from common.program import Session
from common.training import prefetch

captioning = Program("captioning")

pytestmark = pytest.mark.tensorflow


def test_no_combination_of_the_held_out_scenes_is_trained_on() -> None:
    """But every colour, shape, size and layout is."""
    train = scenes.make_scenes(9600, 1, held_out=False)
    held = scenes.make_scenes(400, 1, held_out=True)
    assert not {_combination(one) for one in train} & {_combination(one) for one in held}
    assert not {t for one in train for t in one.captions()} & {
        t for one in held for t in one.captions()
    }
    for which in range(4):
        assert {_words(one)[which] for one in held} <= {_words(one)[which] for one in train}


def _combination(scene: Any) -> tuple[Any, ...]:
    parts = sorted((thing.colour, thing.shape) for thing in scene.things)
    return (*parts, scene.layout if len(parts) == 1 else None)


def _words(scene: Any) -> tuple[Any, ...]:
    return (scene.things[0].colour, scene.things[0].shape, scene.things[0].size, scene.layout)


@pytest.mark.parametrize("step", [0, 1, 7, 8, 40])
def test_the_global_batch_is_the_same_for_any_number_of_workers(step: int) -> None:
    shard = Shard
    whole = shard(100, 12, 0, 1).at(step, 5)
    assert shard(100, 12, 0, 1).at(step, 5) == whole
    for workers in (2, 3, 4, 5, 7):
        parts = [shard(100, 12, worker, workers).at(step, 5) for worker in range(workers)]
        assert [i for part in parts for i in part] == whole


def test_batch_order_does_not_depend_on_the_first_step() -> None:
    """A resumed run asks for its first batch in the middle of an epoch."""
    shard = Shard
    one = shard(96, 12, 0, 1)
    went_through = [one.at(step, 5) for step in range(40)]
    assert [shard(96, 12, 0, 1).at(step, 5) for step in range(40)] == went_through
    assert sorted(i for batch in went_through[:8] for i in batch) == list(range(96))


def test_batches_are_prefetched_one_step_ahead() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step * 10

    batches = prefetch(make, range(3, 6))
    assert next(batches) == (3, 30)
    assert list(batches) == [(4, 40), (5, 50)]
    assert made == [3, 4, 5]
    assert list(prefetch(lambda step: step, range(3, 3))) == []


def test_failing_input_pipeline_ends_the_run() -> None:
    batches = prefetch(lambda step: 1 // step, range(-1, 1))
    assert next(batches) == (-1, -1)
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_each_scene_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset(None, 20, 1)
    fresh, render = data.images(data.train), scenes.render
    rendered: list[scenes.Scene] = []

    def counted(one: scenes.Scene) -> np.ndarray:
        rendered.append(one)
        return render(one)

    monkeypatch.setattr(scenes, "render", counted)
    data.cache(data.train)
    assert len(rendered) == 20
    assert np.array_equal(data.images(data.train), fresh)
    assert np.array_equal(data.images(data.train[3:5], perturb=True), 255 - fresh[3:5])
    assert len(rendered) == 20


def test_data_too_large_for_memory_is_computed_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset, "CACHE_BYTES", 5 * 64 * 64 * 3)
    data = Dataset(None, 20, 1)
    fresh = data.images(data.train)
    data.cache(data.train)
    assert data._pixels.nbytes == dataset.CACHE_BYTES
    assert np.array_equal(data.images(data.train), fresh)


class Normalized(Captioner):
    """Only its normalization."""

    def __init__(self) -> None:
        self.means: list[np.ndarray] = []

    @override
    def set_normalization(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        self.means.append(mean)


class Numbered(Trainer):
    """Without a network: all features of an example are its number."""

    def __init__(self, session: Session, options: Options, data: Dataset) -> None:
        self.session, self.options, self.data = session, options, data
        self.captioner = self.normalized = Normalized()

    @override
    def features(self, examples: Sequence[Any], *, perturb: bool = False) -> np.ndarray:
        return np.stack([np.full(DIM_IN, int(one.id[-5:]), np.float16) for one in examples])


@pytest.mark.parametrize("worker", [0, 3])
def test_each_image_is_encoded_once(worker: int, tmp_path: Path) -> None:
    """Also the first ones, which all workers normalize by."""
    options = parse(["--out", str(tmp_path)])
    log = Log(tmp_path / "timings.jsonl")
    session = Session("captioning", None, None, log, tmp_path, Cluster(worker, "abcd"))
    trainer = Numbered(session, options, Dataset(None, 400, 1))
    members = Shard(400, 8, worker, 4).members()
    trainer.compute_features(members)
    log._file.close()
    assert trainer.normalized.means[0][0] == pytest.approx(np.arange(256).mean())
    assert set(trainer._rows) == {*range(256), *members}
    assert [trainer._features[trainer._rows[i], 0] for i in members] == members


ONE_DOG = (
    '{"images": [{"id": 1, "file_name": "a.jpg"}],'
    ' "annotations": [{"image_id": 1, "caption": "a dog"}]}'
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no dataset.json, captions.json"),
        ("{", "not JSON"),
        ('{"images": [], "annotations": []}', "'annotations' is missing or empty"),
        (ONE_DOG, "image 'a.jpg' is not there"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "captions.json").write_text(content)
    process = captioning.start(tmp_path / "out", "--data", str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def _pictures(folder: Path, count: int = 60) -> list[str]:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(1)
    names = [f"{number:03d}.jpg" for number in range(count)]
    for name in names:
        Image.fromarray(draw.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / name)
    return names


def test_flickr_layouts_are_equivalent(tmp_path: Path) -> None:
    found = []
    for layout in ("captions.txt", "Flickr8k.token.txt", "results_20130124.token"):
        _flickr(tmp_path / layout, layout)
        pictures = read_pictures(tmp_path / layout)
        assert pictures.split == "a tenth of the images, by a hash of their id"
        halves = (pictures.train, pictures.held_out)
        found.append([[(one.id, one.texts) for one in half] for half in halves])
    assert found[0] == found[1] == found[2]
    assert all(found[0])


def _split_file(folder: Path, name: str = "dataset.json") -> list[str]:
    """Karpathy's: train, restval, val and test in turn."""
    names = _pictures(folder / "images")
    parts = ("train", "restval", "val", "test")
    images = [
        {
            "filename": one,
            "split": parts[n % 4],
            "imgid": n,
            "sentences": [{"raw": f"A dog, {n}.", "tokens": ["no"]}, {"raw": "A cat"}],
        }
        for n, one in enumerate(names)
    ]
    (folder / name).write_text(json.dumps({"dataset": "own", "images": images}))
    return names


@pytest.mark.parametrize("name", ["dataset.json", "dataset_flickr8k.json"])
def test_karpathys_split_file_is_read_and_its_split_used(tmp_path: Path, name: str) -> None:
    names = _split_file(tmp_path / "data", name)
    found = read_pictures(tmp_path / "data")
    assert [one.id for one in found.held_out] == names[3::4]
    assert {one.id for one in found.train} == {*names[0::4], *names[1::4]}
    assert found.held_out[0].texts == ("a dog 3", "a cat")
    assert found.split == f"the test images of {name}; its val images, 15, are not used"


def test_pictures_of_karpathys_coco_are_in_the_folders_that_it_names(tmp_path: Path) -> None:
    names = _pictures(tmp_path / "val2014", 2)
    images = [
        {"filename": one, "filepath": "val2014", "split": split, "sentences": [{"raw": "a"}]}
        for one, split in zip(names, ("restval", "val"), strict=True)
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    found = read_pictures(tmp_path)
    assert found.held_out[0].file == tmp_path / "val2014" / "001.jpg"
    assert found.split == "the val images of dataset_coco.json"


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"split": "odd"}, r"images\[0\]: its split 'odd' is none of train, restval, val, test"),
        ({"filename": 7}, r"images\[0\] has no filename or no sentences"),
        ({"sentences": [{"tokens": ["a"]}, 5]}, r"\[0\]: 000.jpg has no sentence with a 'raw'"),
        ({"filename": "elsewhere.jpg"}, "image 'elsewhere.jpg' is not there"),
    ],
)
def test_a_split_file_that_is_wrong_is_named(
    tmp_path: Path, image: dict[str, Any], said: str
) -> None:
    _split_file(tmp_path / "data")
    file = tmp_path / "data" / "dataset.json"
    whole = json.loads(file.read_text())
    whole["images"][0] |= image
    file.write_text(json.dumps(whole))
    with pytest.raises(BadInput, match=said):
        read_pictures(tmp_path / "data")


def _coco(folder: Path, part: str, count: int) -> None:
    """The file of ``part``, such as train2017, with its pictures."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    names = _pictures(folder / part, count)
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    notes = [{"image_id": n, "caption": f"A {part}, {n}."} for n in range(count)]
    file = folder / "annotations" / f"captions_{part}.json"
    file.write_text(json.dumps({"images": images, "annotations": notes}))


def test_cocos_own_split_is_used(tmp_path: Path) -> None:
    _coco(tmp_path, "train2017", 20)
    _coco(tmp_path, "val2017", 5)
    found = read_pictures(tmp_path)
    assert (len(found.train), len(found.held_out)) == (20, 5)
    assert found.held_out[0].texts == ("a val2017 0",)
    assert found.split == "the images of captions_val2017.json"


def test_without_cocos_val_images_some_of_train_are_held_out_and_it_is_said(
    tmp_path: Path,
) -> None:
    _coco(tmp_path, "train2017", 40)
    (tmp_path / "annotations" / "captions_val2017.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "elsewhere.jpg"}], "annotations": []})
    )
    found = read_pictures(tmp_path)
    assert len(found.train) + len(found.held_out) == 40
    assert found.split.endswith("; the images of captions_val2017.json are not there")


@pytest.mark.parametrize("below", ["", "Flickr8k_text"])
def test_flickr8ks_own_split_is_used(tmp_path: Path, below: str) -> None:
    data, lists = tmp_path / "data", tmp_path / "data" / below
    _flickr(data, "Flickr8k.token.txt")
    lists.mkdir(exist_ok=True)
    names = [f"{n:03d}.jpg" for n in range(60)]
    for part, some in (("train", names[:40]), ("dev", names[40:50]), ("test", names[50:])):
        (lists / f"Flickr_8k.{part}Images.txt").write_text("\n".join(some) + "\n")
    found = read_pictures(data)
    assert [one.id for one in found.train] == names[:40]
    assert [one.id for one in found.held_out] == names[50:]
    assert found.split == "the images of Flickr_8k.testImages.txt"
    (lists / "Flickr_8k.testImages.txt").write_text("050.jpg\nelsewhere.jpg\n")
    with pytest.raises(BadInput, match=r"testImages.txt:2: 'elsewhere.jpg' has no caption"):
        read_pictures(data)
    (lists / "Flickr_8k.testImages.txt").write_text("001.jpg\n")
    with pytest.raises(BadInput, match=r"'001.jpg' is both to train on and to test on"):
        read_pictures(data)
    (lists / "Flickr_8k.testImages.txt").unlink()
    with pytest.raises(BadInput, match=r"Flickr_8k.testImages.txt is missing"):
        read_pictures(data)


def test_a_flickr_layout_is_trained_on_and_evaluated(tmp_path: Path) -> None:
    _flickr(tmp_path / "data", "captions.txt")
    few = ("--encoder-steps", "2", "--steps", "2", "--batch-size", "16")
    found = captioning(tmp_path / "out", "--data", str(tmp_path / "data"), *few)
    assert of(found, "end")[0]["ok"] is True
    (split,) = of(found, "split")
    assert split["train"] + split["held_out"] == 60
    assert split["by"] == "a tenth of the images, by a hash of their id"
    words = json.loads((tmp_path / "out" / "model.json").read_text())["words"]
    assert "grey" in words
    elsewhere = (tmp_path / "data").rename(tmp_path / "moved")
    done = use("evaluate", "--run", str(tmp_path / "out"), "--data", str(elsewhere), "--json")
    assert json.loads(done.stdout) == pytest.approx(greedy(found)), done.stderr


def _flickr(folder: Path, layout: str) -> None:
    names = _pictures(folder / "Images")
    pairs = [(name, f"A small, grey picture of number {n % 7}.") for n, name in enumerate(names)]
    if layout == "captions.txt":
        text = "image,caption\n" + "".join(f'{name},"{caption}"\n' for name, caption in pairs)
    else:
        text = "".join(f"{name}#0\t{caption}\n" for name, caption in pairs)
    (folder / layout).write_text(text)


@pytest.mark.parametrize("weights", ["/nowhere.h5", __file__])
def test_wrong_vgg16_weights_are_one_line(tmp_path: Path, weights: str) -> None:
    message = captioning.refused(tmp_path, "--vgg16-weights", weights)
    assert "no such file" in message or "not the weights of a VGG16" in message
    assert "Traceback" not in message


def test_features_are_kept_by_image_and_network(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 255, (5, 8, 8, 3), np.uint8)
    asked: list[int] = []

    def counted(few: np.ndarray) -> np.ndarray:
        asked.append(len(few))
        return _sums(few)

    for number, (network, some, missing) in enumerate(
        [("a", images[:3], 3), ("a", images, 2), ("b", images[:1], 1)]
    ):
        cache = Cache(tmp_path)
        found = cache.features(some, network, counted)
        assert np.array_equal(found, _sums(some))
        assert (cache.made, cache.found) == (missing, len(some) - missing)
        assert asked[number] == missing
    assert not list(tmp_path.rglob(".*"))


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    cache = Cache(None)
    for _ in range(2):
        cache.features(images, "a", _sums)
    assert (cache.made, cache.found) == (4, 0)


def _sums(images: np.ndarray) -> np.ndarray:
    sums: np.ndarray = images.sum((1, 2, 3))
    return sums.astype(np.float16)[:, None]


def test_vgg16_encodes_few_images_at_a_time(tmp_path: Path) -> None:
    """With a network of one layer in its place: the real one's weights have 528 MB."""
    sizes: list[int] = []
    file = tmp_path / "weights.h5"
    file.write_bytes(b"weights")
    network = VGG16(_stand_in(sizes), file)
    images = np.random.default_rng(1).integers(0, 255, (40, 4, 4, 3), np.uint8)
    assert np.array_equal(network(images), _sums(images) / 2)
    assert sizes == [16, 16, 8]
    assert network.sha256 == hashlib.sha256(b"weights").hexdigest()


def _stand_in(sizes: list[int]) -> Any:
    """What VGG16 uses of TensorFlow; its pictures are halved before they are seen."""

    def see(images: np.ndarray) -> Any:
        sizes.append(len(images))
        return SimpleNamespace(numpy=lambda: _sums(images))

    whole = SimpleNamespace(input=None, get_layer=lambda _: SimpleNamespace(output=None))
    vgg16 = SimpleNamespace(preprocess_input=lambda images: images / 2)
    made = SimpleNamespace(VGG16=lambda **_: whole, vgg16=vgg16)
    return SimpleNamespace(keras=SimpleNamespace(applications=made, Model=lambda *_: see))
