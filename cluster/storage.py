"""What all nodes share: one local folder, or one place in an object store, with the same few operations on both.

    storage = open_storage("s3://bucket/gaitway?region=eu-central-1")
    storage.write_bytes("sweeps/run_1/state.json", data)

A place is a local path or any URL that pyarrow or fsspec understands: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``file:///folder``.
An S3 server that is not Amazon's is named in the query (``?endpoint_override=http://host:9000&region=us-east-1``) or by
``AWS_ENDPOINT_URL``. Credentials come from the environment, as the object store's own tools read it, and from nowhere else.

The first place to ask for an S3 region without a ``region`` in the URL costs a request; everything else here opens nothing.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from cluster.config import write_bytes_atomic
from cluster.errors import StoreError, UsageError

__all__ = ["Storage", "check_writable", "is_url", "join_url", "open_storage", "plain_url", "secret_in_url", "shown_url"]

CHECK_TIMEOUT_S = 8.0

_SHOWN_QUERY_KEYS = frozenset({"endpoint_override", "region", "scheme"})
_SECRET_WORDS = ("access", "credential", "key", "password", "secret", "signature", "token")
_S3_SWITCHES = frozenset({"allow_bucket_creation", "allow_bucket_deletion", "force_virtual_addressing", "anonymous"})
_S3_TEXTS = frozenset({"endpoint_override", "region", "scheme", "tls_ca_file_path", "role_arn", "session_name"})


@dataclass(frozen=True)
class Storage:
    """An open place. Paths given to its methods are relative to it, with ``/`` between parts. Pickles, so it can be sent to a worker.

    Every method raises ``StoreError``, one line, when the place does not answer or refuses.
    """

    filesystem: Any
    """``pyarrow.fs.FileSystem``; what Tune takes as ``storage_filesystem``."""
    root: str
    """Path of the place on that file system, without a scheme; what Tune then takes as ``storage_path``."""
    url: str
    """What was opened. For another process, not for a message: see ``shown_url``."""

    def path(self, *parts: str) -> str:
        """Path on ``filesystem`` of something below this place."""
        return posixpath.join(self.root, *parts)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine (or one mounted here)."""
        return bool(self.filesystem.type_name == "local")

    def below(self, *parts: str) -> Storage:
        """The place ``parts`` below this one, on the same connection."""
        return Storage(self.filesystem, self.path(*parts), join_url(self.url, *parts))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file so that a reader sees the whole old one or the whole new one, also after a crash.

        An object store shows an object when its upload is complete; on a disk a file is written beside it and renamed.
        """
        with self._translated(path):
            if self.is_local:
                write_bytes_atomic(self.path(path), data)
                return
            with self.filesystem.open_output_stream(self.path(path)) as stream:
                stream.write(data)

    def read_bytes(self, path: str) -> bytes:
        """A file's content. Raises ``FileNotFoundError`` when it is not there."""
        with self._translated(path, missing=True), self.filesystem.open_input_stream(self.path(path)) as stream:
            content: bytes = stream.read()
            return content

    def exists(self, path: str = "") -> bool:
        """Whether a file or a folder is there; in an object store a folder is there when something is in it."""
        from pyarrow.fs import FileType

        with self._translated(path):
            return bool(self.filesystem.get_file_info(self.path(path).rstrip("/")).type != FileType.NotFound)

    def list_files(self, path: str = "") -> list[str]:
        """Names of the files directly in a folder, sorted; none when there is no such folder."""
        from pyarrow.fs import FileType

        return self._names(path, FileType.File)

    def list_folders(self, path: str = "") -> list[str]:
        """Names of the folders directly in a folder, sorted; none when there is no such folder."""
        from pyarrow.fs import FileType

        return self._names(path, FileType.Directory)

    def list_versions(self, path: str = "") -> dict[str, tuple[int, int]]:
        """Files directly in a folder, name -> (bytes, time of the last change in ns): another version shows as another pair."""
        from pyarrow.fs import FileSelector, FileType

        with self._translated(path):
            found = self.filesystem.get_file_info(FileSelector(self.path(path), allow_not_found=True))
        return {item.base_name: (item.size, item.mtime_ns or 0) for item in found if item.type == FileType.File}

    def upload_folder(self, local: str | os.PathLike[str], path: str) -> None:
        """Copy all that is in a folder of this machine into ``path``, over what is there."""
        from pyarrow.fs import LocalFileSystem

        self._copy(LocalFileSystem(), os.fspath(local), self.filesystem, self.path(path), path)

    def download_folder(self, path: str, local: str | os.PathLike[str]) -> None:
        """Copy all that is in ``path`` into a folder of this machine, over what is there. Raises ``FileNotFoundError``."""
        from pyarrow.fs import LocalFileSystem

        if not self.exists(path):
            raise FileNotFoundError(f"{shown_url(join_url(self.url, path))}: nothing is there")
        self._copy(self.filesystem, self.path(path), LocalFileSystem(), os.fspath(local), path)

    def delete_folder(self, path: str) -> None:
        """Remove a folder with all that is in it; one that is not there is no error."""
        if self.exists(path):
            with self._translated(path):
                self.filesystem.delete_dir(self.path(path))

    def delete_file(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError), self._translated(path, missing=True):
            self.filesystem.delete_file(self.path(path))

    def _copy(self, source: Any, source_path: str, target: Any, target_path: str, path: str) -> None:
        from pyarrow.fs import copy_files

        with self._translated(path):
            target.create_dir(target_path, recursive=True)
            copy_files(source_path, target_path, source_filesystem=source, destination_filesystem=target)

    def _names(self, path: str, kind: Any) -> list[str]:
        from pyarrow.fs import FileSelector

        with self._translated(path):
            found = self.filesystem.get_file_info(FileSelector(self.path(path), allow_not_found=True))
        return sorted(item.base_name for item in found if item.type == kind)

    @contextlib.contextmanager
    def _translated(self, path: str, missing: bool = False) -> Iterator[None]:
        """Refusals as ``StoreError``; with ``missing``, that nothing is there stays ``FileNotFoundError``."""
        try:
            yield
        except OSError as error:
            where = shown_url(join_url(self.url, path))
            if missing and isinstance(error, FileNotFoundError):
                raise FileNotFoundError(f"{where}: nothing is there") from None
            raise StoreError(f"{where}: {_reason(error)}") from None


def open_storage(url: str | os.PathLike[str]) -> Storage:
    """Open a local path or a URL; nothing is created and, except for an S3 region that has to be looked up, nothing is asked.

    Raises:
        UsageError: the URL is not understood, or a package that it needs is not installed.
        StoreError: the object store did not answer.
    """
    text = os.fspath(url)
    if not is_url(text):
        from pyarrow.fs import LocalFileSystem

        return Storage(LocalFileSystem(), str(Path(text).expanduser().resolve()), text)
    try:
        filesystem, root = _s3(text) if urlsplit(text).scheme == "s3" else _from_uri(text)
    except (ValueError, ImportError) as error:
        allowed = "use a local path, s3://bucket/prefix, gs://bucket/prefix or another URL that pyarrow or fsspec knows"
        raise UsageError(f"{shown_url(text)}: cannot be opened as storage: {_reason(error)}; {allowed}") from None
    except OSError as error:
        raise StoreError(f"{shown_url(text)}: {_reason(error)}") from None
    return Storage(filesystem, root.rstrip("/") or root, text)


def check_writable(url: str | os.PathLike[str], timeout_s: float = CHECK_TIMEOUT_S) -> Storage:
    """Open the place, write a file there, read it back and remove it: permissions alone say little (root passes them all).

    Raises ``UsageError``, one line, within about ``timeout_s`` when that does not work or takes longer.
    """
    opened: list[Storage] = []
    failure: list[Exception] = []

    def probe() -> None:
        try:
            storage = open_storage(url)
            name, content = f".gaitway-probe-{secrets.token_hex(6)}", secrets.token_bytes(16)
            storage.write_bytes(name, content)
            try:
                if storage.read_bytes(name) != content:
                    raise StoreError(f"{shown_url(url)}: what was written is not what is read back")
            finally:
                storage.delete_file(name)
            opened.append(storage)
        except Exception as error:
            failure.append(error)

    # A thread, because a client's own time limits hold for one attempt at one address, not for the whole.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if opened:
        return opened[0]
    if not failure:
        raise UsageError(f"{shown_url(url)}: no answer within {timeout_s:g} s; check the address, the network and the credentials")
    error = failure[0]
    if isinstance(error, UsageError):
        raise error
    # Ours begin with the place.
    reason = str(error).partition(": ")[2] if isinstance(error, StoreError) else _reason(error)
    raise UsageError(f"{shown_url(url)}: cannot be written: {reason}; check the address, the permissions and the credentials") from None


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether it names a place by URL; everything else is a local path."""
    return "://" in os.fspath(text)


def join_url(url: str | os.PathLike[str], *parts: str) -> str:
    """The URL (query kept) or local path of something below."""
    text = os.fspath(url)
    if not is_url(text):
        return str(Path(text, *parts))
    head, mark, query = text.partition("?")
    return posixpath.join(head, *parts) + mark + query


def plain_url(url: str | os.PathLike[str]) -> str:
    """Without credentials and query, and a local path as ``file:///...``: what MLflow takes for a location."""
    text = os.fspath(url)
    if not is_url(text):
        return Path(text).absolute().as_uri()
    split = urlsplit(text)
    return urlunsplit((split.scheme, split.netloc.rpartition("@")[2], split.path, "", ""))


def shown_url(url: str | os.PathLike[str]) -> str:
    """For messages and logs: without credentials, and of the query only what names the server."""
    text = os.fspath(url)
    if not is_url(text):
        return text
    query = [(key, value.rpartition("@")[2]) for key, value in parse_qsl(urlsplit(text).query) if key in _SHOWN_QUERY_KEYS]
    return plain_url(text) + (f"?{urlencode(query, safe=':/')}" if query else "")


def secret_in_url(url: str) -> str | None:
    """What in a URL looks like a credential (``user:password@``, ``?access_key=``), or None."""
    split = urlsplit(url)
    if "@" in split.netloc:
        return "user:password@"
    keys = [key for key, _ in parse_qsl(split.query, keep_blank_values=True)]
    return next((f"?{key}=" for key in keys if any(word in key.lower() for word in _SECRET_WORDS)), None)


def _s3(url: str) -> tuple[Any, str]:
    """Open S3 with time limits: ``from_uri`` takes none, and its defaults let an unreachable server hold a program for minutes."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    split = urlsplit(url)
    bucket, root = split.netloc.rpartition("@")[2], split.path
    if not bucket:
        raise ValueError("it names no bucket")
    options: dict[str, Any] = {}
    for key, value in parse_qsl(split.query, keep_blank_values=True):
        if key in _S3_SWITCHES:
            options[key] = value.lower() in ("1", "true", "yes")
        elif key in _S3_TEXTS:
            options[key] = value
        else:
            allowed = ", ".join(sorted(_S3_TEXTS | _S3_SWITCHES))
            raise ValueError(f"the query has the unknown key {key!r}; it may have {allowed}")
    scheme, mark, host = options.get("endpoint_override", "").partition("://")
    if mark:
        options |= {"scheme": scheme, "endpoint_override": host.rstrip("/")}
    elsewhere = any(os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    if not elsewhere and not options.keys() & {"region", "endpoint_override"}:
        options["region"] = resolve_s3_region(bucket)
    filesystem = S3FileSystem(
        connect_timeout=3.0, request_timeout=10.0, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3), **options
    )
    return filesystem, bucket + unquote(root)


def _from_uri(url: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        filesystem, root = FileSystem.from_uri(url)
    except ValueError as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(url)
        filesystem = PyFileSystem(FSSpecHandler(filesystem))
    return filesystem, root


def _reason(error: BaseException) -> str:
    """What an error says in one line: the system's words, or the object store's without pyarrow's account of what it was doing."""
    if isinstance(error, OSError) and error.strerror and "AWS Error" not in str(error):
        return error.strerror.partition(" Detail:")[0].strip()[:200]
    text = " ".join(str(error).split())
    return (text[text.find("AWS Error") :] if "AWS Error" in text else text)[:200] or type(error).__name__
