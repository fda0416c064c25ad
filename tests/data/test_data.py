"""Data sets, splits, folders of images and augmentation."""

from __future__ import annotations

import gzip
import os
import shutil
import urllib.error
from pathlib import Path

import chz
import numpy as np
import pytest
import torch
from PIL import Image
from places import DATA
from sklearn.datasets import load_digits

from evo_robust.data.base import data_folder
from evo_robust.data.images import Augment, Images, batches, stratified_order
from evo_robust.data.sets import CIFAR10, CIFAR100, DATA_SETS, MNIST, SVHN, Digits, ImageNet, TinyImageNet
from evo_robust.parts.base import UserError


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"no {name} in {DATA}")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int, shape: tuple[int, int, int] = (3, 8, 10)) -> Images:
    x = torch.randint(1, 256, (n, *shape), dtype=torch.uint8, generator=generator(5))
    return Images(x, torch.arange(n))


def rows(images: Images) -> set[bytes]:
    return {x.numpy().tobytes() for x in images.x}


# --- splits


def test_digits_are_all_of_scikit_learns_images_each_in_one_split() -> None:
    splits = Digits().load()
    values, labels = load_digits(return_X_y=True)
    x = torch.cat([part.x for part in (splits.train, splits.val, splits.test)])
    y = torch.cat([part.y for part in (splits.train, splits.val, splits.test)])
    ours = sorted(zip(map(bytes, x.flatten(1).numpy()), y.tolist(), strict=True))
    theirs = sorted(zip(map(bytes, np.rint(values * 255 / 16).astype(np.uint8)), labels.tolist(), strict=True))
    assert ours == theirs
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [1150, 287, 360]


def test_splits_are_disjoint_and_depend_on_the_seed_alone() -> None:
    one, again, other = Digits().load(), Digits(root="elsewhere").load(), Digits(split_seed=1).load()
    assert not rows(one.train) & rows(one.val)
    assert not rows(one.test) & (rows(one.train) | rows(one.val))
    assert torch.equal(one.train.x, again.train.x) and torch.equal(one.val.y, again.val.y)
    assert rows(one.val) != rows(other.val)
    assert torch.equal(one.test.x, other.test.x), "the test images never depend on the split's seed"


@pytest.mark.parametrize("seed", [0, 7])
def test_every_beginning_of_an_order_has_the_proportions_of_the_whole(seed: int) -> None:
    y = np.repeat([0, 1, 2], [10, 40, 150])
    order = stratified_order(np.random.default_rng(seed).permutation(y), seed)
    y = np.random.default_rng(seed).permutation(y)[order]
    assert sorted(order) == list(range(200))
    for n in range(1, 201):
        share = np.bincount(y[:n], minlength=3) - n * np.array([0.05, 0.2, 0.75])
        assert np.abs(share).max() < 2


def test_limits_keep_classes_balanced() -> None:
    splits = Digits(train_limit=100, test_limit=50, val_share=0.3).load()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (70, 30, 50)
    counts = torch.cat([splits.train.y, splits.val.y]).bincount(minlength=10)
    assert counts.min() >= 9 and counts.max() <= 11
    assert len(Digits(val_share=0.0).load().val) == 0


@pytest.mark.parametrize(
    "wrong", [{"val_share": 1.0}, {"val_share": -0.1}, {"train_limit": 0}, {"test_limit": -5}, {"split_seed": -1}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))}"):
        Digits(**wrong)  # type: ignore[arg-type]


def test_names_and_shapes() -> None:
    assert sorted(DATA_SETS) == [
        "cifar10", "cifar100", "digits", "fashionmnist", "imagenet", "mnist", "svhn", "tinyimagenet",
    ]  # fmt: skip
    for name, kind in DATA_SETS.items():
        data = kind(root="nowhere")
        assert data.name == name and len(data.in_shape) == 3 and data.n_classes >= 10
        assert isinstance(data.default_augment, Augment)
    assert not Digits().default_augment.flip and not SVHN().default_augment.flip and CIFAR10().default_augment.flip


def test_root_comes_from_the_field_then_the_environment_then_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVO_ROBUST_DATA", "/data")
    monkeypatch.setenv("EVO_ROBUST_CACHE", "/cache")
    assert data_folder("/mine") == Path("/mine") and data_folder() == Path("/data")
    monkeypatch.delenv("EVO_ROBUST_DATA")
    assert data_folder() == Path("/cache/data")


# --- published files


@needs("cifar-10-batches-py")
def test_cifar10_is_read_from_a_read_only_folder() -> None:
    splits = CIFAR10(root=str(DATA), train_limit=1000, test_limit=100).load()
    assert splits.train.x.shape == (800, 3, 32, 32) and splits.test.x.shape == (100, 3, 32, 32)
    assert splits.train.y.bincount().tolist() == [80] * 10
    # published channel means of the training images: .4914 .4822 .4465
    assert splits.train.floats().mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.02)


@needs("MNIST")
def test_mnist_is_read_gzipped_or_not(tmp_path: Path) -> None:
    packed = MNIST(root=str(DATA), train_limit=500).load()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (DATA / "MNIST" / "raw").glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    plain = MNIST(root=str(tmp_path), train_limit=500, download=False).load()
    assert packed.train.x.shape == (400, 1, 28, 28) and len(packed.test) == 10_000
    assert torch.equal(packed.train.x, plain.train.x) and torch.equal(packed.test.y, plain.test.y)

    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is damaged: expected 47040016 bytes, got 47039016"):
        MNIST(root=str(tmp_path), download=False).load()


@needs("MNIST")
def test_a_torn_gzip_file_is_reported(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (DATA / "MNIST" / "raw").glob("*.gz"):
        content = file.read_bytes()
        (raw / file.name).write_bytes(content[: len(content) // 2] if "t10k-labels" in file.name else content)
    with pytest.raises(UserError, match="raw: t10k-labels-idx1-ubyte.gz is damaged: .*end-of-stream"):
        MNIST(root=str(tmp_path), download=False).load()


@pytest.mark.parametrize(
    ("kind", "folder", "file"),
    [(CIFAR10, "cifar-10-batches-py", "data_batch_1"), (CIFAR100, "cifar-100-python", "train"), (SVHN, "", "train_32")],
)
def test_missing_data_says_where_and_what(kind: type[CIFAR10], folder: str, file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as info:
        kind(root=str(tmp_path), download=False).load()
    message = str(info.value)
    assert str(tmp_path / folder) in message and f"missing: {file}" in message
    assert "data.root=" in message and "EVO_ROBUST_DATA" in message and "Put " in message
    assert not list(tmp_path.iterdir())


@needs("cifar-10-batches-py")
def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (DATA / "cifar-10-batches-py").iterdir():
        if file.name == "data_batch_2":
            (folder / file.name).write_bytes(file.read_bytes()[:10_000])
        elif file.name != "data_batch_4":
            (folder / file.name).symlink_to(file)
    with pytest.raises(UserError, match=r"missing: data_batch_4; damaged \(wrong checksum\): data_batch_2\."):
        CIFAR10(root=str(tmp_path), download=False).load()


def test_a_failed_download_is_one_reason_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(url: str, root: Path, *args: object, **kwargs: object) -> None:
        Path(root).mkdir(parents=True, exist_ok=True)  # as torchvision does before it connects
        raise urllib.error.URLError("no route to host\nmore lines")

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", no_network)
    with pytest.raises(UserError) as info:
        SVHN(root=str(tmp_path / "new" / "data")).load()
    assert "missing: train_32x32.mat" in str(info.value)
    assert str(info.value).endswith("(downloading it failed: URLError: <urlopen error no route to host)")
    assert not list(tmp_path.iterdir())


# --- folders of images


def write_image(path: Path, value: int, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    pixels[..., 2] = 255 - value
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    for label, name in enumerate(("ant", "bee", "cat")):
        for i in range(10):
            write_image(tmp_path / "data" / "imagenet" / "train" / name / f"{i}.png", 80 * label + i)
        for i in range(4):
            write_image(tmp_path / "data" / "imagenet" / "val" / name / f"v{i}.png", 80 * label + 20 + i)
    return tmp_path / "data"


def test_image_folders_are_decoded_once_into_a_mapped_file(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ImageNet(root=str(folders), size=8, val_share=0.2)
    assert data.n_classes == 3 and data.in_shape == (3, 8, 8)
    splits = data.load()
    assert "decoding 30 train images to 8×8" in capsys.readouterr().err
    assert (len(splits.train), len(splits.val), len(splits.test)) == (24, 6, 12)
    assert splits.val.y.bincount().tolist() == [2, 2, 2]
    for part in (splits.train, splits.val, splits.test):
        assert torch.equal(part.x[:, 0, 0, 0].long() // 80, part.y), "each image kept its label"
        assert torch.equal(part.x[:, 0].long() + part.x[:, 2], torch.full((len(part), 8, 8), 255))
    values = torch.cat([splits.train.x, splits.val.x])[:, 0, 4, 4].tolist()
    assert sorted(values) == [80 * label + i for label in range(3) for i in range(10)]

    again = chz.replace(data, train_limit=15).load()
    assert capsys.readouterr().err == "", "decoded once"
    assert torch.equal(torch.cat([again.train.x, again.val.x]), splits.train.x[:15])
    assert not rows(again.train) & rows(again.val)

    write_image(folders / "imagenet" / "train" / "ant" / "new.png", 11)
    os.utime(folders / "imagenet" / "train" / "ant", (1, 1))  # a clock tick may not have passed
    ImageNet(root=str(folders), size=8, test_limit=5).load()
    assert "decoding 31 train images" in capsys.readouterr().err


def test_images_keep_their_middle_and_their_shape(folders: Path) -> None:
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 200
    for file in (folders / "imagenet").rglob("*.png"):
        Image.fromarray(pixels).save(file)
    x = ImageNet(root=str(folders), size=16, split_seed=3).load().train.x
    assert (x == 200).all(), "the shorter side fits, the longer one is cut on both sides alike"


def test_tiny_imagenet_comes_with_a_table_of_labels(folders: Path) -> None:
    tiny = folders / "tiny-imagenet-200"
    for label, name in enumerate(("n01", "n02")):
        for i in range(5):
            write_image(tiny / "train" / name / "images" / f"{name}_{i}.JPEG", 100 * label + 10, (64, 64))
    for i in range(4):
        write_image(tiny / "val" / "images" / f"val_{i}.JPEG", 100 * (i % 2) + 10, (64, 64))
    table = "".join(f"val_{i}.JPEG\tn0{i % 2 + 1}\t0\t0\t62\t62\n" for i in range(4))
    (tiny / "val" / "val_annotations.txt").write_text(table)
    splits = TinyImageNet(root=str(folders)).load()
    assert splits.train.x.shape == (8, 3, 64, 64) and len(splits.test) == 4
    assert torch.equal(splits.test.y, (splits.test.x[:, 0, 5, 5] > 60).long())

    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn07\t0\t0\t62\t62\n")
    with pytest.raises(UserError, match=r"val_annotations.txt, line 1: unknown class 'n07'"):
        TinyImageNet(root=str(folders), size=32).load()


def test_faults_of_image_folders_are_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder as .*tiny-imagenet-200"):
        TinyImageNet(root=str(folders)).load()
    broken = folders / "imagenet" / "train" / "bee" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError, match=r"1 of 30 image files are damaged, the first: .*bee.3\.png"):
        ImageNet(root=str(folders), size=8).load()
    assert not list((tmp_path / "cache" / "images").iterdir()), "nothing half made stays"
    broken.unlink()
    (folders / "imagenet" / "val" / "dog").mkdir()
    with pytest.raises(UserError, match="dog is no class of"):
        ImageNet(root=str(folders), size=8).load()
    shutil.rmtree(folders / "imagenet" / "val")
    with pytest.raises(UserError, match="no images in .*val; expected in"):
        ImageNet(root=str(folders), size=8).load()
    shutil.rmtree(folders / "imagenet" / "train" / "cat")
    (folders / "imagenet" / "train" / "cat").mkdir()
    with pytest.raises(UserError, match="no images in .*cat"):
        ImageNet(root=str(folders), size=8).load()


def test_a_torn_cache_file_is_named(folders: Path, tmp_path: Path) -> None:
    ImageNet(root=str(folders), size=8).load()
    (file,) = (tmp_path / "cache" / "images").glob("*/train.npy")
    with file.open("r+b") as torn:
        torn.truncate(500)
    with pytest.raises(UserError, match="is damaged .*; delete it"):
        ImageNet(root=str(folders), size=8, test_limit=2).load()


# --- batches and augmentation


def test_batches_hold_every_image_once_as_channels_last_floats() -> None:
    images = random_images(23)
    seen = list(batches(images, 5, generator()))
    assert [len(y) for _, y in seen] == [5, 5, 5, 5, 3]
    order = torch.cat([y for _, y in seen])
    assert sorted(order.tolist()) == list(range(23)) and order.tolist() != list(range(23))
    x = torch.cat([x for x, _ in seen])
    assert x.dtype == torch.float32 and torch.equal(x, images.x[order].float() / 255)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in seen)
    in_order = torch.cat([y for _, y in batches(images, 5)])
    assert in_order.tolist() == list(range(23))


def test_batches_are_the_same_whatever_the_pieces_they_are_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(40)
    whole = [y.tolist() for _, y in batches(images, 4, generator(3))]
    monkeypatch.setattr("evo_robust.data.images._CHUNK_VALUES", 1)
    assert [y.tolist() for _, y in batches(images, 4, generator(3))] == whole


def shift_and_mirror(image: torch.Tensor, pad: int, top: int, left: int, mirrored: bool) -> torch.Tensor:
    _, h, w = image.shape
    padded = torch.nn.functional.pad(image, (pad,) * 4)
    cut = padded[:, top : top + h, left : left + w]
    return cut.flip(2) if mirrored else cut


def test_each_image_is_one_of_its_shifts_and_mirror_images_exactly() -> None:
    images, pad = random_images(300), 2
    out = Augment(crop_padding=pad, flip=True).apply(images.x, generator())
    drawn = set()
    for before, after in zip(images.x, out, strict=True):
        options = [(t, s, m) for t in range(5) for s in range(5) for m in (False, True)]
        fits = [option for option in options if torch.equal(shift_and_mirror(before, pad, *option), after)]
        assert len(fits) == 1
        drawn.add(fits[0])
    assert len(drawn) == 50, "every shift and both mirror images occur"


def test_flip_alone_mirrors_about_half() -> None:
    images = random_images(400)
    out = Augment(crop_padding=0, flip=True).apply(images.x, generator())
    mirrored = torch.tensor([torch.equal(a.flip(2), b) for a, b in zip(images.x, out, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(images.x, out, strict=True)])
    assert bool((mirrored ^ same).all()) and 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_is_one_black_square_cut_at_the_border(side: int) -> None:
    images = random_images(500, (3, 12, 12))
    out = Augment(crop_padding=0, flip=False, cutout=side).apply(images.x, generator())
    black = (out == 0).all(1)
    assert torch.equal(out, images.x * ~black[:, None]), "nothing else changed"
    heights, widths = black.any(2).sum(1), black.any(1).sum(1)
    assert torch.equal(black.sum((1, 2)), heights * widths), "a rectangle"
    assert int(heights.max()) == side and int(heights.min()) >= 1 and int(heights.min()) >= side // 2
    whole = (black.sum((1, 2)) == side * side).float().mean()
    # the centre's distance from the border decides: 12 − side + 1 of 12 places per direction are whole
    assert float(whole) == pytest.approx(((13 - side) / 12) ** 2, abs=0.08)


def test_augmentation_depends_on_the_generator_alone() -> None:
    images, augment = random_images(50), Augment(crop_padding=1, cutout=3)
    torch.manual_seed(1)
    one = torch.cat([x for x, _ in batches(images, 16, generator(9), augment)])
    before = torch.get_rng_state()
    torch.manual_seed(2)
    two = torch.cat([x for x, _ in batches(images, 16, generator(9), augment)])
    other = torch.cat([x for x, _ in batches(images, 16, generator(8), augment)])
    assert torch.equal(one, two) and not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(before, torch.get_rng_state())


def test_wrong_use_is_refused() -> None:
    images = random_images(4)
    with pytest.raises(ValueError, match="batch_size >= 1"):
        next(batches(images, 0))
    with pytest.raises(ValueError, match="generator"):
        next(batches(images, 2, augment=Augment()))
    with pytest.raises(ValueError, match="crop_padding and cutout >= 0"):
        Augment(crop_padding=-1)
    with pytest.raises(ValueError, match="uint8 images"):
        Images(images.x.float(), images.y)
    with pytest.raises(ValueError, match="int64 labels"):
        Images(images.x, images.y[:2])
