"""Folders of image files as people have them: hidden leftovers, odd formats, damaged and replaced files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evo_robust.data.images import Splits
from evo_robust.data.sets import TinyImageNet
from evo_robust.parts.base import UserError

CLASSES = ("ant", "bee")


def put(path: Path, grey: int = 90, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (grey,) * 3).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    for part in ("train", "val"):
        for label, name in enumerate(CLASSES):
            for k in range(5):
                put(tmp_path / "data" / part / name / f"{k}.png", 10 * k + 100 * label)
    return tmp_path / "data"


def load(root: Path) -> Splits:
    return TinyImageNet(root=str(root), size=16).load()


def count(splits: Splits) -> int:
    return len(splits.train) + len(splits.val)


def test_names_that_begin_with_a_dot_are_no_data(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("train", "val", "train/ant", "val/bee/deeper"):
        put(root / place / ".ipynb_checkpoints" / "0.png")
    put(root / "train" / ".thumbs.png")
    (root / "train" / "ant" / "._0.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    (root / "val" / ".DS_Store").write_bytes(b"x")
    splits = load(root)
    assert TinyImageNet(root=str(root), size=16).n_classes == 2
    assert count(splits) == len(splits.test) == 10
    assert "not read" not in capsys.readouterr().err


def test_what_is_read_and_what_is_counted_aloud(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("bmp", "gif", "JFIF", "jpe", "pgm", "tga", "TIF", "tiff", "webp", "jp2"):
        form = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix.lower())
        put(root / "train" / "ant" / f"x.{suffix}", 33, **({"format": form} if form else {}))
    for name in ("train/ant/a.heic", "train/ant/b.heic", "train/bee/notes.txt", "train/bee/plain", "train/c.png"):
        (root / name).write_bytes(b"?")
    (root / "train" / "bee" / "more").symlink_to(root / "val")
    (root / "val" / "bee" / "doc.psd").write_bytes(b"?")
    assert count(load(root)) == 20
    said = capsys.readouterr().err
    assert (
        f"not read in {root / 'train'}: 2 .heic, 1 .txt, 1 linked folder, 1 outside of the classes' folders, "
        "1 without suffix" in said
    )
    assert f"not read in {root / 'val'}: 1 .psd (formats read: .apng" in said


def test_grey_images_of_sixteen_bits_are_scaled(root: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for path in root.rglob("*.png"):
        Image.fromarray(ramp).save(path)
    expected = torch.from_numpy((ramp / 257).round().astype(np.uint8))
    assert (load(root).train.x == expected).all()


@pytest.mark.parametrize("ending", ["tif", "pgm"])
def test_sixteen_bits_in_other_formats(root: Path, ending: str) -> None:
    grey = np.full((16, 16), 30_000, np.uint16)
    for path in list((root / "train").rglob("*.png")):
        path.unlink()
        if ending == "tif":
            Image.fromarray(grey).save(path.with_suffix(".tif"))
        else:
            path.with_suffix(".pgm").write_bytes(b"P5 16 16 65535\n" + grey.astype(">u2").tobytes())
    assert (load(root).train.x == 117).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_of_no_known_range_are_refused_by_name(root: Path, kind: type) -> None:
    path = root / "train" / "bee" / "depth.tif"
    Image.fromarray(np.full((16, 16), 1000, kind)).save(path)
    with pytest.raises(UserError, match=rf"1 of 11 .*{path} \(its values are of mode [FI].*: expected 8 or 16 bits"):
        load(root)


def html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>")


def torn(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])


def no_file(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.png"))


def bomb(path: Path) -> None:
    Image.new("L", (100, 100)).save(path)


@pytest.mark.parametrize("spoil", [html, torn, no_file, bomb])
def test_a_file_that_cannot_be_read_is_named(root: Path, spoil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    path = root / "train" / "ant" / "odd.png"
    spoil(path)
    with pytest.raises(UserError, match=rf"1 of 11 image files are damaged, the first: {path} \("):
        load(root)
    assert not list((root.parent / "cache" / "images").iterdir()), "nothing half made stays"


def test_warnings_and_further_pictures_are_told_with_the_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    large = root / "train" / "ant" / "large.png"
    Image.new("L", (80, 80)).save(large)
    moving = root / "train" / "bee" / "moving.gif"
    frames = [Image.new("L", (16, 16), grey) for grey in (10, 200, 90)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    assert count(load(root)) == 12
    said = capsys.readouterr().err
    assert f"warning: 1 of 12 image files were read with a warning, the first: {large} (Image size" in said
    assert f"the first such file: {moving} (3 pictures)" in said


def test_replaced_and_deeper_files_are_seen(root: Path) -> None:
    data = TinyImageNet(root=str(root), size=16)
    before = data.load()
    assert data.load() is before
    for path in root.rglob("*.png"):
        put(path, 200)
    assert (data.load().train.x == 200).all()
    put(root / "train" / "ant" / "morning" / "deep" / "new.png", 7)
    assert count(data.load()) == 11
    (root / "train" / "ant" / "morning" / "deep" / "new.png").unlink()
    assert count(data.load()) == 10


def test_a_table_of_labels_is_checked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(4):
        put(root / "val" / "images" / f"{k}.JPEG")
    put(root / "val" / "images" / "._0.JPEG")
    table = root / "val" / "val_annotations.txt"
    rows = [f"{k}.JPEG\t{CLASSES[k % 2]}\t0\t0\t9\t9" for k in range(3)]
    table.write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    assert len(load(root).test) == 3 and "1 not in val_annotations.txt" in capsys.readouterr().err
    table.write_text("\n".join([*rows, rows[1]]))
    with pytest.raises(UserError, match=r"val_annotations.txt: 1.JPEG is listed twice"):
        load(root)


def test_classes_of_train_and_val_agree(root: Path) -> None:
    for path in (root / "val" / "bee").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(UserError, match=r"no images of bee in .*val; expected images of each class of train"):
        load(root)
    for part in ("train", "val"):
        for path in (root / part / "bee").iterdir():
            path.unlink()
        (root / part / "bee").rmdir()
    with pytest.raises(UserError, match="expected two classes or more, got 1"):
        load(root)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot take a file's space beforehand")
def test_a_full_disk_is_met_before_pixels_are_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Met later, in a mapped file, it would end the process without a word (SIGBUS)."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        load(root)
    assert Path(caught.value.filename).name == "train.npy"
    images = root.parent / "cache" / "images"
    assert not any(images.iterdir())
