"""What became of the jobs of a sweep: a file for each, by which the same command knows what is left to do."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Optional

from filelock import FileLock

from maskrcnn_train.files import write_json
from maskrcnn_train.settings.errors import UserError

JOBS = "jobs"


@dataclass
class JobRecord:
    """One job. number: also its folder's name. settings: all of them, resolved. overrides: what sets it apart.

    state: running, which a stopped job is too; finished; failed, with a reason. is_bug: the reason is a bug of ours.
    value: what a sweeper optimises.
    """

    number: int
    settings: dict[str, Any]
    overrides: list[str]
    state: str = "running"
    reason: str = ""
    is_bug: bool = False
    value: Optional[float] = None


def read_jobs(sweep_dir: Path) -> list[JobRecord]:
    """All jobs of a sweep's folder. Raises UserError for a damaged file."""
    found = []
    for path in (sweep_dir / JOBS).glob("*.json"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if not text:
            continue  # just claimed
        try:
            found.append(JobRecord(**json.loads(text) | {"number": int(path.stem)}))
        except (TypeError, ValueError):
            raise UserError(f"{path} is not the file of a job; remove it, and the job is repeated") from None
    return sorted(found, key=lambda job: job.number)


def find_job(sweep_dir: Path, settings: dict[str, Any], overrides: Sequence[str], number: int) -> JobRecord:
    """The job with these settings, whatever its number; a new one gets `number`, or the next that is free."""
    plain = json.loads(json.dumps(settings))
    (sweep_dir / JOBS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(sweep_dir / JOBS / ".lock")  # two commands that begin at once must not both make the job
    with suppress(OSError):  # a file system without locks
        lock.acquire()
    try:
        known = next((job for job in read_jobs(sweep_dir) if job.settings == plain), None)
        return known or _new_job(sweep_dir, plain, overrides, number)
    finally:
        lock.release()


def _new_job(sweep_dir: Path, plain: dict[str, Any], overrides: Sequence[str], number: int) -> JobRecord:
    job = JobRecord(next(free for free in count(number) if _claim(sweep_dir, free)), plain, list(overrides))
    try:
        save_job(sweep_dir, job)
    except OSError:  # a full disk: the number is free again
        (sweep_dir / JOBS / f"{job.number}.json").unlink()
        raise
    return job


def _claim(sweep_dir: Path, number: int) -> bool:
    """Whether a number was free, and is now taken: other processes may look for one at the same time."""
    folder = sweep_dir / str(number)
    if folder.is_dir() and any(folder.iterdir()):
        return False
    try:
        (sweep_dir / JOBS / f"{number}.json").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def save_job(sweep_dir: Path, job: JobRecord) -> None:
    write_json(sweep_dir / JOBS / f"{job.number}.json", asdict(job), indent=2)
