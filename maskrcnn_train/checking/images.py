"""Decodes every image file: which are unusable, which are in two splits, which does no JSON list."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from maskrcnn_train.checking.advice import split_again
from maskrcnn_train.checking.findings import Finding, Severity
from maskrcnn_train.checking.reading import bad_image_answer
from maskrcnn_train.data.pixels import build_reader
from maskrcnn_train.data.scanning import ImageFacts, find_similar, scan_images
from maskrcnn_train.data.sources import PICTURES
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.settings.command_schema import CheckConfig
from maskrcnn_train.settings.schema import TrainConfig

Names = list[tuple[str, str]]  # split and file name of each image

FLAT = 1e-4  # std of a channel that is the same everywhere, in 0..1
OFF = 0.25  # stds by which the mean may be off, and share by which the std may

TWICE = "delete one of each"


def check_images(
    splits: dict[str, Split], config: CheckConfig, progress: Callable[[int, int], None]
) -> Iterator[Finding]:
    """Decode all images in parallel processes."""
    names = [(split.name, split.index.file_name(row)) for split in splits.values() for row in split.rows.tolist()]
    sizes = [split.index.size(row) for split in splits.values() for row in split.rows.tolist()]
    files = [splits[split].images / name for split, name in names]
    facts = scan_images(list(zip(files, sizes, strict=True)), config.workers, progress, build_reader(config.data))
    training = [fact for (split, _), fact in zip(names, facts, strict=True) if split == "train"]
    yield from check_pixels(training, config)
    for split in splits:
        faulty = [(name, fact) for (own, name), fact in zip(names, facts, strict=True) if own == split and fact.fault]
        yield from _unusable(split, faulty, config.data.on_bad_image)
    if "train" in splits:
        yield from _unlisted(splits)
    again = split_again(config.data, "duplicates=true")
    yield from _leaks(names, files, facts, config.duplicate_distance, again)


def check_pixels(facts: Sequence[ImageFacts], config: TrainConfig) -> Iterator[Finding]:
    """Mean and std of the training images, each counting the same, against the settings; not of 8-bit R G B."""
    set_mean, set_std = config.numerics.pixel_mean, config.numerics.pixel_std
    fits = len(set_mean) == len(set_std) == config.data.channels
    severity: Severity = "warning" if fits else "error"
    what = "the channels have another mean and std than the settings" if fits else "no mean and std for each channel"
    seen = [fact for fact in facts if fact.means]
    if not seen:
        if not fits:
            yield Finding(severity, "pixel-statistics", what, fix="decode=true measures them")
        return
    mean = np.mean([fact.means for fact in seen], axis=0)
    std = np.sqrt(np.maximum(np.mean([fact.squares for fact in seen], axis=0) - mean**2, 0))
    std = np.where(std < FLAT, 1.0, std)  # of a channel without contrast
    if not fits or (abs(mean - set_mean) > OFF * std).any() or (abs(np.log(set_std / std)) > OFF).any():
        means, stds = ([float(f"{value:.4g}") for value in values] for values in (mean, std))
        override = {"numerics.pixel_mean": means, "numerics.pixel_std": stds}
        yield Finding(severity, "pixel-statistics", what, "train", override=override)


def _unusable(split: str, images: list[tuple[str, ImageFacts]], on_bad_image: str) -> Iterator[Finding]:
    severity, override = bad_image_answer(on_bad_image)
    for wrong_size, kind, what, fix in (
        (False, "image-unreadable", "image file cannot be decoded", "replace the files, or leave the images out"),
        (True, "image-size-differs", "picture has another size than the JSON says", "put back the annotated picture"),
    ):
        faulty = [(name, fact.fault) for name, fact in images if fact.wrong_size == wrong_size]
        if faulty:  # of an ImageError's message neither the folder nor the advice, which the finding gives
            fix = f"{fix}; first: {Path(str(faulty[0][1]).split('; ')[0]).name}"
            yield Finding(severity, kind, what, split, "image", [name for name, _ in faulty], override, fix)


def _unlisted(splits: dict[str, Split]) -> Iterator[Finding]:
    """Pictures beside the training images that no JSON names."""
    root = splits["train"].images
    sharing = [split.index for split in splits.values() if split.images == root]
    listed = {index.file_name(row) for index in sharing for row in range(index.num_images)}
    folders = [folder for name in {Path(name).parent for name in listed} if (folder := root / name).is_dir()]
    files = [path for folder in folders for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    if names := sorted({path.relative_to(root).as_posix() for path in files} - listed):
        what, fix = "pictures in the folder that no JSON lists", "annotate them, or list them as empty images"
        yield Finding("advice", "image-unlisted", what, "train", "image", names, fix=fix)


def _leaks(names: Names, files: list[Path], facts: list[ImageFacts], distance: int, again: str) -> Iterator[Finding]:
    """Pictures that are in two splits, or twice in one. again: how to cut the data so that they are not."""
    near = find_similar(facts, distance).tolist()
    alike = [(a, b) for a, b in near if facts[a].content != facts[b].content and names[a][0] != names[b][0]]
    first: dict[bytes, int] = {}
    same = [(first.setdefault(fact.content, row), row) for row, fact in enumerate(facts) if fact.fault is None]
    shared = [(a, b) for a, b in same if names[a][0] != names[b][0]]
    yield from _leak("error", "leak", "the same picture in two splits", names, shared, again)
    yield from _leak("warning", "leak-similar", "nearly the same picture in two splits", names, alike, again)
    for split in dict.fromkeys(split for split, _ in names):
        # one file that is listed twice is a fault of the JSON, found there
        twice = [(a, b) for a, b in same if names[a][0] == names[b][0] == split and files[a] != files[b]]
        yield from _leak("warning", "picture-twice", "the same picture twice in a split", names, twice, TWICE)


def _leak(
    severity: Severity, kind: str, what: str, names: Names, pairs: list[tuple[int, int]], fix: str
) -> Iterator[Finding]:
    if pairs:
        items = [f"{names[a][0]}/{names[a][1]} = {names[b][0]}/{names[b][1]}" for a, b in pairs]
        splits = sorted({names[row][0] for pair in pairs for row in pair})
        yield Finding(severity, kind, what, "+".join(splits), "pair", items, fix=fix)
