"""Videos: frames in, annotated frames and results out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import predicted as run
from PIL import Image
from tiny import untrained_checkpoint

from maskrcnn_train.data.images import ImageError
from maskrcnn_train.prediction.video import Video, VideoWriter
from maskrcnn_train.settings.errors import UserError

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of 65 x 91 pixels, each brighter than the one before."""
    path = tmp_path / "clip.mp4"
    with closing(VideoWriter(path, 10)) as writer:
        for number in range(5):
            writer.add(Image.fromarray(np.full((65, 91, 3), 40 * number + 20, np.uint8)))
    return path


def test_frames_come_back_in_order(clip: Path) -> None:
    video = Video(clip)
    assert video.rate == 10
    assert video.num_frames == 5
    frames = list(video.frames())
    assert [frame.size for frame in frames] == [(90, 64)] * 5  # even sides
    assert [round(np.asarray(frame).mean() / 40 - 0.5) for frame in frames] == [0, 1, 2, 3, 4]


def test_a_model_of_other_channels_refuses_a_video_at_once(clip: Path, tmp_path: Path) -> None:
    deep = untrained_checkpoint(tmp_path, "data.channels=1", "numerics.pixel_mean=[0.5]", "numerics.pixel_std=[0.2]")
    with pytest.raises(UserError, match="is a video, in R G B; the model takes images of 1 channels"):
        run(deep, clip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_video_becomes_an_annotated_video_and_results_by_frame(
    checkpoint: Path,
    clip: Path,
    tmp_path: Path,
) -> None:
    done = run(checkpoint, clip, tmp_path / "out", "roi_head.detections_per_image=2", "save.csv=true", "batch_size=2")
    assert len(done.images) == 5
    assert {result["image_id"] for result in done.results} == {1, 2, 3, 4, 5}
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == done.results
    frames = list(Video(tmp_path / "out/clip.mp4").frames())
    assert len(frames) == 5
    assert min(frames[0].size) > 300  # enlarged, as small pictures are
    assert np.asarray(frames[0]).std() > 5  # something is drawn
    assert "clip_000001" in (tmp_path / "out/detections.csv").read_text()
    assert not (tmp_path / "out/pictures").exists()


def test_a_video_without_pictures_gives_results_only(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    done = run(checkpoint, clip, tmp_path / "out", "save.pictures=false")
    assert len(done.images) == 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.json",
        "images.json",
        "classes.json",
        "predict.log",
    }


class Damaged:
    """A container whose decoder gives up after two frames."""

    def __init__(self, container: Any) -> None:
        self.container = container

    def decode(self, stream: Any) -> Iterator[Any]:
        yield from itertools.islice(self.container.decode(stream), 2)
        raise av.error.InvalidDataError(1, "Invalid data", "clip.mp4")

    def close(self) -> None:
        self.container.close()


def test_a_damaged_video_is_done_as_far_as_it_goes(
    checkpoint: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = Video.__init__

    def open_damaged(self: Any, path: Path) -> None:
        opened(self, path)
        self._container = Damaged(self._container)

    monkeypatch.setattr(Video, "__init__", open_damaged)
    done = run(checkpoint, clip, tmp_path / "out", "roi_head.detections_per_image=1")
    assert len(done.images) == 2
    assert {result["image_id"] for result in done.results} == {1, 2}
    assert len(done.failed) == 1
    assert "damaged after frame 2: Invalid data" in done.failed[0]


def noisy(path: Path, frames: int) -> bytes:
    """A clip in which every frame takes as many bytes."""
    rng = np.random.default_rng(0)
    with closing(VideoWriter(path, 10)) as writer:
        for _ in range(frames):
            writer.add(Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)))
    return path.read_bytes()


def test_a_video_that_was_cut_off_or_overwritten_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    content = noisy(path, 60)
    assert len(list(Video(path).frames())) == 60
    half = len(content) // 2
    for damaged in (content[:half], content[:half] + bytes(2000) + content[half + 2000 :]):
        path.write_bytes(damaged)
        seen: list[Image.Image] = []
        with pytest.raises(ImageError, match=r"clip\.mkv .*after frame"):
            seen.extend(Video(path).frames())
        assert 10 < len(seen) < 50


def test_time_without_frames_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clip.webm"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in (*range(20), *range(40, 60)):  # as where a block of the file is lost
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (number, 0, 0)))
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert len(list(Video(path).frames())) == 40
    said = f"{path}: no frames for more than 1.0 s, 1 times, first after frame 20, 1.9 s: damaged, or the picture"
    assert [text.startswith(said) for text in caplog.messages] == [True]
    caplog.clear()
    noisy(tmp_path / "whole.mkv", 20)
    assert len(list(Video(tmp_path / "whole.mkv").frames())) == 20
    assert not caplog.messages


def test_what_is_no_video_is_one_line(clip: Path) -> None:
    clip.write_text("no video")
    with pytest.raises(ValueError, match=r"clip\.mp4 cannot be read as a video"):
        Video(clip)


def test_without_the_extra_one_line_says_so(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskrcnn_train.prediction.video.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"maskrcnn-train\[video\]"):
        Video(clip)
