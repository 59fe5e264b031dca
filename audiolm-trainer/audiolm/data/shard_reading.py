"""Clips that are not files of their own: audio inside the tar shards that `shard` writes.

In: a clip's place (shard, byte offset, length). Out: its bytes. As every place is known, clips are
read in any order, so shards are trained on in exactly the order of the same clips as files.

Shards lie below `datasets.prefix`, or come from elsewhere through webdataset's `gopen`, as
`pipe:ssh host cat /data/{shard}` or `https://host/{shard}`: each is fetched once, when its first
clip is asked for, into a folder that all processes of the machine share.
"""

import fcntl
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from audiolm.audio.loading import AudioBytes, AudioError, AudioSource
from audiolm.data.annotations import resolve_audio_path
from audiolm.data.clips import Clip, Stored, collect_shard_ends
from audiolm.errors import UserError

logger = logging.getLogger(__name__)

MAX_OPEN_SHARDS = 32
SHARD_MARK = "{shard}"


class ShardStore:
    """Reads clips out of shards; may be handed to other processes.

    Args:
        prefix: folder of the shards.
        url: where shards are fetched from, with `{shard}` for a shard's path; "": from the prefix.
        cache_dir: folder that fetched shards are kept in.

    Raises:
        UserError: a URL without `{shard}`, or without a folder to fetch to.
    """

    def __init__(self, prefix: str | Path, url: str = "", cache_dir: str | Path = "") -> None:
        if url and SHARD_MARK not in url:
            raise UserError(f"datasets.shard_url {url!r} does not say where {SHARD_MARK} goes")
        if url and not str(cache_dir):
            raise UserError("datasets.shard_url needs datasets.shard_cache, a folder to fetch to")
        self._folder = Path(cache_dir) if url else prefix
        self._url = url
        self._open: OrderedDict[str, int] = OrderedDict()  # shard -> file descriptor
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def list_sources(self, clip: Clip, prefix: str | Path) -> list[AudioSource]:
        """A clip's audio and what is appended to it: paths, or bytes out of a shard.

        Raises:
            AudioError: the shard is missing, cut short, or cannot be fetched.
            UserError: a path leads out of the prefix.
        """
        extra = [resolve_audio_path(prefix, path) for path in clip.expand_wav]
        if clip.stored is None:
            return [resolve_audio_path(prefix, clip.path), *extra]
        return [AudioBytes(clip.path, self.read(clip.stored)), *extra]

    def read(self, stored: Stored) -> bytes:
        """The bytes at a place.

        Raises:
            AudioError: the shard is missing, cut short, or cannot be fetched.
        """
        file = self._open_shard(stored.shard)
        content = os.pread(file, stored.num_bytes, stored.offset_bytes)
        if len(content) < stored.num_bytes:
            raise _cut_short(stored.shard, os.fstat(file).st_size, sum(stored[1:]))
        return content

    def check(self, clips: Sequence[Clip]) -> list[AudioError]:
        """What is wrong with the shards of the clips, one error per shard; fetches nothing."""
        problems = []
        for shard, end in collect_shard_ends(clips).items():
            path = resolve_audio_path(self._folder, shard)
            if path.is_file():
                if path.stat().st_size < end:
                    problems.append(_cut_short(shard, path.stat().st_size, end))
            elif not self._url:
                problems.append(_missing(shard, path))
        return problems

    def _open_shard(self, shard: str) -> int:
        if self._process != os.getpid():  # forked: the parent's files are the parent's to close
            self._open, self._process = OrderedDict(), os.getpid()
        if shard not in self._open:
            path = resolve_audio_path(self._folder, shard)
            if self._url and not path.is_file():
                self._fetch(shard, path)
            try:
                self._open[shard] = os.open(path, os.O_RDONLY)
            except FileNotFoundError as error:
                raise _missing(shard, path) from error
            if len(self._open) > MAX_OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _fetch(self, shard: str, path: Path) -> None:
        """Bring a shard into the folder, whole; other processes wait for it."""
        from webdataset.gopen import gopen

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_file():
                return
            try:
                url = self._url.replace(SHARD_MARK, shard.lstrip("/"))
                with gopen(url, "rb") as source, partial.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                os.replace(partial, path)
            except OSError as error:
                partial.unlink(missing_ok=True)
                reason = f"the shard cannot be fetched: {' '.join(str(error).split())}"
                raise AudioError(shard, "unreadable", reason) from error

    def __del__(self) -> None:
        if getattr(self, "_process", None) == os.getpid():
            for file in self._open.values():
                os.close(file)


def check_shards(store: ShardStore, clips: Sequence[Clip], *, skips_bad: bool) -> None:
    """Find out before the run that shards are missing or cut short.

    With `skips_bad` that is a warning: their clips are left out, one by one.

    Raises:
        UserError: a shard is missing or cut short.
    """
    problems = store.check(clips)
    if not problems:
        return
    first = problems[0]
    told = f"{len(problems)} shards are missing or cut short; first: {first.path}: {first.reason}"
    if not skips_bad:
        raise UserError(f"{told}; datasets.bad_audio: skip leaves their clips out")
    logger.warning("%s; their clips are left out", told)


def _missing(shard: str, path: Path) -> AudioError:
    return AudioError(shard, "missing", f"no shard at {path}; check datasets.prefix")


def _cut_short(shard: str, num_bytes: int, num_needed: int) -> AudioError:
    reason = f"the shard is cut short: {num_bytes:,} bytes, at least {num_needed:,} are needed"
    return AudioError(shard, "unreadable", reason)
