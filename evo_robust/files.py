"""Folders and files: whole or not there at all, tensors in them, folders held by one process; no pickle is loaded."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import hashlib
import io
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
"""What a disk answers that takes no more."""


class DamagedFile(UserError):
    """A file is not what was written.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: object, advice: str = "delete it and run the command again") -> None:
        # torch's reasons name one tensor a line
        super().__init__(f"{path} is damaged ({' '.join(str(reason).split())}); {advice}")
        self.path, self.reason, self._advice = path, str(reason), advice

    def __reduce__(self) -> tuple[type[DamagedFile], tuple[Path, str, str]]:
        return type(self), (self.path, self.reason, self._advice)  # workers send it to their parent

    def advising(self, advice: str) -> DamagedFile:
        """The same with other advice."""
        return DamagedFile(self.path, self.reason, advice)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Path to write to; on leaving without an exception it becomes ``path``, which nobody ever sees half written.

    Raises:
        OSError: it cannot be written; its ``filename`` is ``path``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to hear of
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path, *stand_ins: Path) -> Iterator[None]:
    """Let an error in writing ``path`` say its name: a full disk is met while writing, where only the opening knew it.

    Args:
        path: what is written.
        stand_ins: files that are written in its place.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) in map(str, stand_ins):
            # NumPy's short writes have a text alone
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
        raise


def cache_folder() -> Path:
    """Folder of what later runs reuse: ``EVO_ROBUST_CACHE`` or ``~/.cache/evo_robust``; it may not exist yet."""
    return Path(os.environ.get("EVO_ROBUST_CACHE") or "~/.cache/evo_robust").expanduser().absolute()


def check_cache(cache: Path) -> None:
    """Say beforehand that nothing can be kept for later runs.

    Raises:
        UserError: the folder cannot be made, or takes no files.
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
    """Copy a file that others may delete, whole or not at all; whether it was there."""
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        return False
    with whole_file(target) as temporary:
        temporary.write_bytes(content)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it."""
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
    """Hold a folder; the operating system frees it when its holder dies.

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
    """Let one process build what a folder of the cache holds; others that want the same wait for it.

    Args:
        folder: made where it is absent.
        complete: whether all is there.
        build: makes what is missing, and goes on where a killed process stopped.
        on_wait: called once where another process builds, before waiting for it.
    """
    if complete():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder, on_wait):
        if not complete():
            build()


class FolderLock:
    """One process at a time holds a folder; ``lock`` names it. The operating system frees it when that process dies."""

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
        """Give the folder back, whatever else fails."""
        try:
            with contextlib.suppress(OSError):  # a disk that takes nothing; the name counts only while the lock is held
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
    # channels-last images and views become plain: a safetensors file holds dense arrays only
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    sealed = {**(info or {}), _SEAL: _seal(info or {})}
    metadata = {"info": json.dumps(sealed), "sha256": _checksum(plain)}
    length, info_first, _, rest = _orders(save(plain, metadata))
    with whole_file(path) as temporary, temporary.open("wb") as file:
        # safetensors' own writer leaves files that only their owner can read, and puts the two in a random order
        file.writelines((length, info_first, rest))


def _orders(content: bytes) -> tuple[bytes, bytes, bytes, memoryview]:
    """A safetensors file with our two metadata: length of its head, the head with each of them first, the rest."""
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
    """SHA-256 of all bytes of a ``write_tensors`` file, for both orders of its metadata, of which earlier ones had one.

    Early records name files by it, though the order was random; ``stored_checksum`` is what names files now.

    Raises:
        UserError: the file is not there, or damaged.
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
        seal = info.pop(_SEAL, None)  # early files have none
        if seal not in (None, _seal(info)):
            raise ValueError("its description has another checksum")
        return tensors, info
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedFile(path, error) from None


def stored_checksum(path: Path) -> str:
    """Digest that ``write_tensors`` took of a file's tensors; they are not read, so it is quick, and not verified.

    Raises:
        DamagedFile: the file is not there, or its head is damaged.
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
    """Tensors of a file by name, in host memory: mapped, so that all processes share what is read, and no more is.

    Raises:
        UserError: the file is gone or cannot be read.
    """
    try:
        found = os.stat(path)
        return _open(path, (found.st_ino, found.st_size, found.st_mtime_ns))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); run the command again") from None


@functools.lru_cache(maxsize=2)
def _open(path: Path, stamp: tuple[int, ...]) -> Mapping[str, Tensor]:
    """The file at ``path``, opened once per process for as long as it is the same one."""
    return _Stored(path)


class _Stored(Mapping[str, Tensor]):
    """Tensors of a safetensors file, each read when it is asked for."""

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
