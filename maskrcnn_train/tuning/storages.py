"""Where a search keeps its trials: Optuna's storages, each with a way to tell which workers are dead."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
)
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from maskrcnn_train.settings.errors import UserError

JOURNAL = "trials.log"
LOCKS = "locks"
MAX_ATTEMPTS = 5  # at a trial whose workers are killed
BEAT, SILENCE = 10, 60  # seconds between signs of life in a database, and without one until a worker counts as dead
CONNECTING = 10  # seconds


class FileLocks(BaseHeartbeat):
    """Signs of life for storages without any: a worker holds a file lock, which the system releases when it dies."""

    locks: Path
    _held: FileLock | None = None  # a worker trains one trial at a time

    def record_heartbeat(self, trial_id: int) -> None:
        path = str(self.locks / str(trial_id))
        if self._held is not None and self._held.lock_file == path:
            return
        if self._held is not None:
            self._held.release()
            Path(self._held.lock_file).unlink(missing_ok=True)
        self._held = FileLock(path)
        self._held.acquire(timeout=0)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        assert isinstance(self, BaseStorage)
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        return [each._trial_id for each in running if self._is_free(self.locks / str(each._trial_id))]

    def _is_free(self, path: Path) -> bool:
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return False
        path.unlink(missing_ok=True)
        return True

    def get_heartbeat_interval(self) -> int:
        return BEAT

    def get_heartbeat_stale_trial_callback(self) -> RetryHeartbeatStaleTrialCallback:
        return _queued_again()


class LockedJournal(FileLocks, JournalStorage):
    """A journal file."""


class LockedProxy(FileLocks, GrpcStorageProxy):
    """A server between many workers and a database."""


def _queued_again() -> RetryHeartbeatStaleTrialCallback:
    """What becomes of the trials of dead workers."""
    return RetryHeartbeatStaleTrialCallback(max_retry=MAX_ATTEMPTS - 1)


def open_storage(url: str | None, folder: Path) -> RDBStorage | LockedJournal | LockedProxy:
    """The storage of a search. url: of a database or `grpc://HOST:PORT`; None: a journal file in the search's folder.

    Raises UserError for one that cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # with ask and tell it beats in a thread
    storage: LockedJournal | LockedProxy
    try:
        if url is None:
            storage = LockedJournal(_journal(folder / JOURNAL))
        elif url.startswith("grpc:"):
            place = urlsplit(url)
            storage = LockedProxy(host=place.hostname or "localhost", port=place.port or 13000)
            storage.wait_server_ready(timeout=CONNECTING)
        else:
            # seconds: for another worker's write to a file, or for a server to answer
            waiting = {"timeout": SILENCE} if url.startswith("sqlite") else {"connect_timeout": CONNECTING}
            return RDBStorage(
                url,
                # connected only while it reads or writes: trainings last for hours, and leave nothing to close
                engine_kwargs={"poolclass": NullPool, "connect_args": waiting},
                heartbeat_interval=BEAT,
                grace_period=SILENCE,
                heartbeat_stale_trial_callback=_queued_again(),
            )
    except (ImportError, OSError, ValueError, SQLAlchemyError, OptunaError) as error:
        raise UserError(f"storage cannot be opened: {_reason(error)}") from error
    storage.locks = folder / LOCKS
    return storage


@contextmanager
def naming_lost_storage() -> Iterator[None]:
    """Turn the errors of a database or server that is gone in the middle of a search into a UserError."""
    try:
        yield
    except Exception as error:
        of_server = type(error).__module__.startswith("grpc")
        if not of_server and not isinstance(error, SQLAlchemyError | StorageInternalError):
            raise
        raise UserError(
            f"the storage of this search is out of reach: {_reason(error)}; when it is back, the same command goes on"
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, where it began: drivers wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ImportError):
        return f"{error}; install its driver, e.g. pip install 'psycopg[binary]' or pymysql"
    return str(error).strip().split("\n", 1)[0]


def _journal(path: Path) -> JournalFileBackend:
    """Optuna's journal, without a last line that a full disk or a kill cut short: it would spoil the next one."""
    lock = JournalFileOpenLock(str(path))  # the other lock is a symlink, for which Windows asks for rights
    backend = JournalFileBackend(str(path), lock_obj=lock)
    lock.acquire()
    try:
        lines = path.read_bytes()
        if (whole := lines.rfind(b"\n") + 1) < len(lines):
            with path.open("r+b") as file:
                file.truncate(whole)
    finally:
        lock.release()
    return backend


def patience(storage: BaseStorage) -> float:
    """Seconds after which a worker's death is known."""
    return 0 if isinstance(storage, FileLocks) else SILENCE + BEAT
