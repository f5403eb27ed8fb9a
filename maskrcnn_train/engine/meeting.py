"""How the processes that torchrun starts find each other, at its first attempt and at every later one."""

import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store

from maskrcnn_train.settings.errors import UserError

POLL_SECONDS = 0.05


def meet(store: Store, rank: int, size: int, word: str, *, minutes: float) -> tuple[Store, list[str]]:
    """A part of the store that no earlier attempt wrote to, and the word of each rank.

    torchrun keeps one store over its restarts, in which the addresses of ended processes still stand. So each process
    writes a new name, and rank 0 names a part of the store together with the names that it has seen. A process goes
    there once its own is among them. Raises UserError with the ranks that did not come within `minutes`.
    """
    own, names = uuid.uuid4().hex, [str(other) for other in range(size)]
    store.set(f"name {rank}", own)
    late = time.monotonic() + 60 * minutes
    part: Store | None = None
    while part is None or not part.check(names):
        if time.monotonic() > late:
            missing = [name for name in names if part is None or not part.check([name])]
            raise UserError(f"ranks {missing} did not start within trainer.distributed_timeout={minutes:g} minutes")
        if rank == 0:
            there = [store.get(f"name {name}").decode() for name in names if store.check([f"name {name}"])]
            store.set("part", " ".join([own, *there]))
        seen = store.get("part").decode().split() if store.check(["part"]) else []
        if part is None and own in seen:
            part = PrefixStore(seen[0], store)
            part.set(str(rank), word)
        time.sleep(POLL_SECONDS)  # in Python, where a signal can end it
    return part, [part.get(name).decode() for name in names]
