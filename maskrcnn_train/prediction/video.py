"""Video files, in and out, with PyAV (extra `video`)."""

import logging
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from maskrcnn_train.data.images import ImageError
from maskrcnn_train.settings.errors import UserError

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
LONGEST_GAP = 1.0  # seconds between two frames; a slow video has them further apart
MISSING = 2  # seconds at the end that may be without a frame: the last frame may be shown for long
CODECS = ("libx264", "mpeg4")  # the first that this PyAV has
logger = logging.getLogger("maskrcnn_train")


def is_video(given: str) -> bool:
    path = Path(given).expanduser()
    return path.suffix.lower() in SUFFIXES and path.is_file()


class Video:
    """A file's picture stream. Raises UserError without PyAV or a picture stream.

    rate: frames per second. num_frames: as the file says; None where it doesn't.
    """

    def __init__(self, path: Path) -> None:
        if not find_spec("av"):
            raise UserError(f"images={path} is a video and needs the package av; pip install 'maskrcnn-train[video]'")
        self._av = av = import_module("av")
        self.path = path
        try:
            self._container = av.open(str(path))
        except av.error.FFmpegError as error:
            raise UserError(f"{path} cannot be read as a video: {error.strerror}") from error
        if not self._container.streams.video:
            raise UserError(f"{path} holds no pictures, only other streams")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or self._stream.guessed_rate or 25
        self.num_frames = int(self._stream.frames) or None

    def frames(self) -> Iterator[Image.Image]:
        """R G B frames in order, upright. Raises ImageError where the file is damaged, or ends too early.

        FFmpeg leaves out what it cannot read of a .webm or .mkv; only time without frames shows it, which is warned of.
        """
        number, end, gaps = 0, 0.0, list[str]()
        longest = max(LONGEST_GAP, 3 / float(self.rate))
        try:
            for frame in self._container.decode(self._stream):
                if frame.is_corrupt:  # FFmpeg goes on, with frames missing
                    raise ImageError(f"{self.path} is damaged after frame {number}")
                if number and (frame.time or 0) > end + longest:
                    gaps.append(f"frame {number}, {end:.1f} s")
                number += 1
                end = max(end, frame.time or 0)
                picture: Image.Image = frame.to_image()
                turn = getattr(frame, "rotation", 0) % 360
                yield picture.rotate(turn, expand=True) if turn else picture
            if end + MISSING < self._last_second():  # FFmpeg takes a file that was cut off for a shorter one
                raise ImageError(f"{self.path} ends after frame {number}, {end:.1f} s, before its end: it is damaged")
        except self._av.error.FFmpegError as error:
            raise ImageError(f"{self.path} is damaged after frame {number}: {error.strerror}") from error
        finally:
            self._container.close()
            if gaps:
                what = (
                    "%s: no frames for more than %.1f s, %d times, first after %s: damaged, or the picture stood still"
                )
                logger.warning(what, self.path, longest, len(gaps), gaps[0])

    def _last_second(self) -> float:
        """When the pictures end, as the file says; 0 where it says nothing of them alone."""
        if self._stream.duration is not None:
            return float(((self._stream.start_time or 0) + self._stream.duration) * self._stream.time_base)
        if len(self._container.streams) > 1 or self._container.duration is None:  # sound may go on longer
            return 0.0
        return float(((self._container.start_time or 0) + self._container.duration) / self._av.time_base)


class VideoWriter:
    """Writes pictures of one size as H.264, or MPEG-4 where the build of PyAV has no other; `close` ends the file."""

    def __init__(self, path: Path, rate: Any) -> None:
        self._av = av = import_module("av")
        self._container = av.open(str(path), "w")
        codec = next(name for name in CODECS if name in av.codecs_available)
        self._stream: Any = self._container.add_stream(codec, rate=rate)
        self._stream.pix_fmt = "yuv420p"
        self._size: tuple[int, int] | None = None

    def add(self, picture: Image.Image) -> None:
        if self._size is None:  # the format halves colours, so both sides are even
            self._size = picture.width // 2 * 2, picture.height // 2 * 2
            self._stream.width, self._stream.height = self._size
        frame = self._av.VideoFrame.from_image(picture.crop((0, 0, *self._size)))
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        if self._size is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
