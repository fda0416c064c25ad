"""Files that are written whole or not at all, files of tensors, and locks of folders; no pickle is ever loaded."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import filelock
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evo_robust.parts.base import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk."""


class DamagedFile(UserError):
    """A file is damaged: its content is not what was written.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: object, advice: str = "delete it and run the command again") -> None:
        # torch's reasons have one line per tensor
        super().__init__(f"{path} is damaged ({' '.join(str(reason).split())}); {advice}")
        self.path, self.reason, self._advice = path, str(reason), advice

    def __reduce__(self) -> tuple[type[DamagedFile], tuple[Path, str, str]]:
        return type(self), (self.path, self.reason, self._advice)  # workers pickle it for their parent

    def advising(self, advice: str) -> DamagedFile:
        """The same error with other advice."""
        return DamagedFile(self.path, self.reason, advice)


def set_aside(damaged: DamagedFile) -> str:
    """Give a damaged file another name, so that its content can be made again; says so in one line.

    Raises:
        DamagedFile: it cannot be renamed.
    """
    path = damaged.path
    others = (path.with_name(f"{path.name}.damaged{'' if k == 1 else f'-{k}'}") for k in itertools.count(1))
    aside = next(other for other in others if not other.exists())
    try:
        path.rename(aside)
    except OSError:
        raise damaged from None
    return f"{path} is damaged ({' '.join(damaged.reason.split())}): it is now {aside.name}, and is made again"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; on leaving without an exception it becomes ``path``, which is never half written.

    Raises:
        OSError: the file cannot be written; the error's ``filename`` is ``path``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path, *stand_ins: Path) -> Iterator[None]:
    """Add the name of ``path`` to errors in writing it; a full disk is noticed only then, in errors without a name.

    Args:
        path: the file that is written.
        stand_ins: temporary files that are written in its place.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) in map(str, stand_ins):
            # NumPy's errors of incomplete writes have only a text
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
        raise


def cache_folder() -> Path:
    """The cache folder: ``EVO_ROBUST_CACHE`` or ``~/.cache/evo_robust``; it may not exist yet."""
    return Path(os.environ.get("EVO_ROBUST_CACHE") or "~/.cache/evo_robust").expanduser().absolute()


def check_cache(cache: Path) -> None:
    """Check that the cache folder can be written to.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(b"room")
            file.flush()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"the cache {cache} cannot be written to ({reason}): let EVO_ROBUST_CACHE name a folder that can"
        ) from None


def make_folder(path: Path) -> None:
    """Make a folder that a command was given as ``out=``, with its parents; an existing one is only checked.

    Raises:
        UserError: a file is in the way, or the folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"out={path}: expected a folder, got a file") from None
    except OSError as error:
        raise UserError(f"out={path}: the folder cannot be made ({error.strerror})") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"out={path}: the folder cannot be written to")


def copy_file(source: Path, target: Path) -> bool:
    """Copy a file, whole or not at all; returns False if it is missing, since another process may delete it."""
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        return False
    with whole_file(target) as temporary:
        temporary.write_bytes(content)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, whole or not at all."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


@contextlib.contextmanager
def only_one(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a folder's lock; the operating system frees it when this process dies.

    Args:
        folder: it must exist.
        on_wait: called once when another process holds the folder, before waiting for it; may raise instead.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def build_once(
    folder: Path, complete: Callable[[], bool], build: Callable[[], None], on_wait: Callable[[], None]
) -> None:
    """Let one process build the content of a cache folder, while others that need it wait.

    Args:
        folder: the folder; it is made where it is missing.
        complete: says whether the content is complete.
        build: makes what is missing, and resumes where a killed process stopped.
        on_wait: called once if another process is building, before waiting for it.
    """
    if complete():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder, on_wait):
        if not complete():
            build()


class FolderLock:
    """Lock of a folder for one process, whose name is in ``lock``; it is freed by the system when the process dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = contextlib.ExitStack()

    def __enter__(self) -> FolderLock:
        """Take the folder.

        Raises:
            UserError: another process holds it.
        """
        self._held.enter_context(only_one(self.folder, self._refuse))
        try:
            name = self._name_file()
            with naming(name):
                name.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder, even if other things fail."""
        try:
            with contextlib.suppress(OSError):  # on a full disk; the name counts only while the lock is held
                self._name_file().unlink(missing_ok=True)
        finally:
            self._held.close()

    def _refuse(self) -> NoReturn:
        holder = self._name_file()
        who = holder.read_text(encoding="utf-8", errors="replace").strip() if holder.exists() else "another process"
        raise UserError(f"{self.folder} is in use by {who}; wait for it or choose another out=") from None

    def _name_file(self) -> Path:
        return self.folder / "lock"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any] | None = None) -> None:
    """Write tensors by name, and JSON values beside them, as a safetensors file."""
    # channels-last images and views are copied, since a safetensors file holds only dense arrays
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    sealed = {**(info or {}), _SEAL: _seal(info or {})}
    metadata = {"info": json.dumps(sealed), "sha256": _checksum(plain)}
    length, info_first, _, rest = _orders(save(plain, metadata))
    with whole_file(path) as temporary, temporary.open("wb") as file:
        # safetensors' own writer makes files that only their owner can read, with these two in random order
        file.writelines((length, info_first, rest))


def _orders(content: bytes) -> tuple[bytes, bytes, bytes, memoryview]:
    """Parts of a safetensors file with our two metadata: length of its head, the head in both orders, the rest."""
    end = 8 + int.from_bytes(content[:8], "little")
    head = content[8:end].decode()
    begin = len('{"__metadata__":')
    metadata, stop = json.JSONDecoder().raw_decode(head, begin)
    stored = {key: f"{json.dumps(key)}:{json.dumps(value, ensure_ascii=False)}" for key, value in metadata.items()}
    # quotes inside of texts are escaped, so that the checksum stands there once
    info = head[begin + 1 : stop - 1].replace(stored["sha256"], "").strip(",")
    both = (f"{info},{stored['sha256']}", f"{stored['sha256']},{info}")
    first, second = (f"{head[: begin + 1]}{text}{head[stop - 1 :]}".encode() for text in both)
    return content[:8], first, second, memoryview(content)[end:]


def former_digests(path: Path) -> list[str]:
    """SHA-256 of all bytes of a ``write_tensors`` file, for both orders of its metadata.

    Early records identify files by it, although the order was random. Now ``stored_checksum`` identifies files.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        length, *heads, rest = _orders(path.read_bytes())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedFile(path, error) from None
    return [hashlib.sha256(b"".join((length, head, rest))).hexdigest() for head in heads]


_SEAL = "sha256 of this"


def _seal(info: Mapping[str, Any]) -> str:
    """Digest of the JSON values beside tensors."""
    return hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values of a file that ``write_tensors`` made, in host memory.

    Raises:
        DamagedFile: the file cannot be read or is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = file.metadata() or {}
        if metadata.get("sha256") != _checksum(tensors):
            raise ValueError("its checksum is wrong")
        info = json.loads(metadata["info"])
        seal = info.pop(_SEAL, None)  # early files lack it
        if seal not in (None, _seal(info)):
            raise ValueError("its description has another checksum")
        return tensors, info
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedFile(path, error) from None


def stored_checksum(path: Path) -> str:
    """The digest of a file's tensors, as ``write_tensors`` stored it. It is not verified, so this is quick.

    Raises:
        DamagedFile: the file is missing, or its head is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {})["sha256"]
    except (SafetensorError, OSError, KeyError) as error:
        raise DamagedFile(path, error) from None


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def mapped_tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a file by name, mapped into host memory: only used ones are read, and processes share them.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        found = os.stat(path)
        return _open(path, (found.st_ino, found.st_size, found.st_mtime_ns))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); run the command again") from None


@functools.lru_cache(maxsize=2)
def _open(path: Path, stamp: tuple[int, ...]) -> Mapping[str, Tensor]:
    """The file at ``path``, opened once per process as long as it is not replaced."""
    return _Stored(path)


class _Stored(Mapping[str, Tensor]):
    """Tensors of a safetensors file, each read on its first use."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
