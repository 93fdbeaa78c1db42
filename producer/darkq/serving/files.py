"""Files of tenants: the input and output of batches, in a local directory or an object store.

    <tenant>/<id>/content     the bytes
    <tenant>/<id>/about.json  the rest; written last, so a file is complete or does not exist
    <tenant>/<id>/parts/…     the parts from which a file is assembled

Paths contain a digest of the tenant's name, so no input of a caller becomes part of a path.
`obstore` accesses the store (extra `gateway`); its errors become `FileStoreUnavailable`. Only
writes to a local directory bypass it: it would leave the mode of a file to the umask.

An expired file counts as absent. `drop_expired` deletes it, except for the input of a batch that
is still running.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Container,
    Iterable,
    Sequence,
)
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

from darkq.errors import ConfigurationError, FileNotFound, FileStoreUnavailable, FileTooLarge
from darkq.protocol.keys import tenant_digest
from darkq.settings.private_files import (
    close_to_others,
    make_ours_alone,
    remove_drafts,
    write_private,
)
from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent

logger = logging.getLogger("darkq.files")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

Purpose: TypeAlias = Literal["batch", "batch_output"]

MAX_FILENAME_CHARS = 255
READS_AT_ONCE = 16
UNPUBLISHED_KEPT_S = 7 * 86400
"""Longer than any upload and any batch over files."""

_PIECE_BYTES = 64 << 10
_NAMES_AT_ONCE = 500
_ID = re.compile(r"file-[0-9a-f]{32}")
_OURS = re.compile(r"(open|[0-9a-f]{32})/file-[0-9a-f]{32}/")


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a file. Times are epoch seconds; without `expires_at` it does not expire."""

    id: str
    filename: str
    bytes: int
    purpose: Purpose
    created_at: int
    expires_at: int | None = None

    @property
    def expired(self) -> bool:
        """Whether it has expired."""
        return self.expires_at is not None and time.time() >= self.expires_at


class Content(NamedTuple):
    """The stored bytes of a file that `Files.publish` has not published yet."""

    file_id: str
    bytes: int


class FilePage(NamedTuple):
    """Some files of a list, and whether others follow."""

    files: list[FileInfo]
    has_more: bool


class FileUsage(NamedTuple):
    """The number and the size of a tenant's files."""

    files: int
    bytes: int


_decoder = msgspec.json.Decoder(FileInfo)


class Files:
    """The files of all tenants. Every method raises `FileStoreUnavailable`.

    The store is `DARKQ_FILES_URL`: `s3://bucket/prefix` or another URL that obstore supports, with
    credentials from the environment as for the provider's own tools. By default it is a directory
    below `DARKQ_STATE_DIR` that only this user can enter.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ends: dict[str, int | None] = {}
        """When files expire, by path: `drop_expired` reads each of them once."""

    @cached_property
    def _store(self) -> ObjectStore:
        # At first use: a program without files needs no folder for them.
        try:
            return _open(self._settings)
        except ConfigurationError as error:  # it names the setting
            raise FileStoreUnavailable(error.reason) from None

    @cached_property
    def _folder(self) -> Path | None:
        return local_folder(self._settings)

    def check(self) -> None:
        """Remove the access of other users to an existing folder below `DARKQ_STATE_DIR`.

        For the start of a process. Raises `ConfigurationError` if another user owns the folder or
        can write to it.
        """
        if self._settings.files_url is None and self._folder is not None and self._folder.exists():
            _close(self._settings, self._folder)

    async def create(
        self,
        tenant: str | None,
        data: AsyncIterable[bytes],
        *,
        filename: str,
        purpose: Purpose,
        max_bytes: int | None = None,
        file_id: str | None = None,
        ttl_s: float | None = None,
    ) -> FileInfo:
        """Store a file for `ttl_s`, or `DARKQ_FILES_TTL_S`. Replaces a file with the same id.

        Raises `FileTooLarge`, and what `data` raises; then nothing is stored.
        """
        content = await self.receive(tenant, data, max_bytes=max_bytes, file_id=file_id)
        return await self.publish(tenant, content, filename=filename, purpose=purpose, ttl_s=ttl_s)

    async def receive(
        self,
        tenant: str | None,
        data: AsyncIterable[bytes],
        *,
        max_bytes: int | None = None,
        file_id: str | None = None,
    ) -> Content:
        """Store the bytes of a file, which exists only once it is published.

        Raises `FileTooLarge`, and what `data` raises; then nothing is stored.
        """
        file_id = file_id or new_file_id()
        counted = _Counted(data, max_bytes)
        try:
            with _speaking():
                await self._put(f"{_file_path(tenant, file_id)}/content", counted.pieces())
        except BaseException:
            if counted.error is not None:  # obstore wraps what its source raises
                raise counted.error from None
            raise
        return Content(file_id, counted.bytes)

    async def publish(
        self,
        tenant: str | None,
        content: Content,
        *,
        filename: str,
        purpose: Purpose,
        ttl_s: float | None = None,
    ) -> FileInfo:
        """Make a received file visible, for `ttl_s` or `DARKQ_FILES_TTL_S`."""
        now = int(time.time())
        info = FileInfo(
            id=content.file_id,
            filename=filename[-MAX_FILENAME_CHARS:],
            bytes=content.bytes,
            purpose=purpose,
            created_at=now,
            expires_at=now + int(self._settings.files_ttl_s if ttl_s is None else ttl_s),
        )
        about = f"{_file_path(tenant, content.file_id)}/about.json"
        with _speaking():
            await self._put(about, msgspec.json.encode(info))
        return info

    async def discard(self, tenant: str | None, content: Content) -> None:
        """Delete the bytes of a file that was not published."""
        await self._delete_object(f"{_file_path(tenant, content.file_id)}/content")

    async def info(self, tenant: str | None, file_id: str) -> FileInfo:
        """Return the metadata of a file. Raises `FileNotFound`."""
        with _speaking(file_id):
            info = await self._info(f"{_file_path(tenant, file_id)}/about.json")
        if info is None or info.expired:
            raise FileNotFound(file_id)
        return info

    async def read(self, tenant: str | None, file_id: str) -> AsyncGenerator[bytes, None]:
        """Yield a file's bytes. Raises `FileNotFound`."""
        with _speaking(file_id):
            found = await self._store.get_async(f"{_file_path(tenant, file_id)}/content")
            async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)

    async def listed(self, tenant: str | None) -> list[FileInfo]:
        """Return a tenant's files, the newest first."""
        return (await self.page(tenant)).files

    async def page(
        self,
        tenant: str | None,
        *,
        limit: int | None = None,
        after: str | None = None,
        oldest_first: bool = False,
        purpose: str | None = None,
    ) -> FilePage:
        """Return up to `limit` of a tenant's files, those that follow the file `after`.

        Lists all names, but reads only the page, and one more file for `has_more`. A file that is
        deleted meanwhile is left out. Raises `FileNotFound` if `after` is none of them.
        """
        paths = await self._about_paths(tenant_digest(tenant), oldest_first=oldest_first)
        if after is not None:
            about = f"{_file_path(tenant, after)}/about.json"
            if about not in paths:
                raise FileNotFound(after)
            paths = paths[paths.index(about) + 1 :]
        found = list[FileInfo]()
        wanted = len(paths) if limit is None else limit + 1
        while paths and len(found) < wanted:
            some = min(READS_AT_ONCE, wanted - len(found))
            infos = await self._infos(paths[:some])
            found += [info for info in infos if purpose in (None, info.purpose)]
            paths = paths[some:]
        return FilePage(found[:limit], limit is not None and len(found) > limit)

    async def usage(self, tenant: str | None) -> FileUsage:
        """Return the size of a tenant's files, without reading a file."""
        files = size = 0
        async for path, meta in self._objects(tenant_digest(tenant)):
            files += path.endswith("/content")
            size += meta["size"]
        return FileUsage(files, size)

    async def delete(self, tenant: str | None, file_id: str) -> None:
        """Delete a file. Raises `FileNotFound`."""
        await self.info(tenant, file_id)
        with _speaking(file_id):
            await self._delete(_file_path(tenant, file_id))

    async def drop_expired(self, kept: Container[str] = ()) -> int:
        """Delete the expired files of all tenants, except those whose ids are in `kept`.

        Also deletes unpublished files of processes that were killed, once they are
        `UNPUBLISHED_KEPT_S` old. Returns the number of expired files.
        """
        if self._folder is not None and not self._folder.exists():
            return 0
        written = dict[str, float]()
        async for path, meta in self._objects(""):
            if _OURS.match(path):  # a bucket may hold other things too
                written[path] = meta["last_modified"].timestamp()
        published = {_file_path_of(path) for path in written if path.endswith("/about.json")}
        self._ends = {path: end for path, end in self._ends.items() if path in published}
        dropped = 0
        for file_path in published:
            end = await self._end_of(file_path)
            if end is not None and time.time() >= end and file_path.rpartition("/")[2] not in kept:
                with suppress(FileNotFound), _speaking():  # another gateway may delete it too
                    await self._delete(file_path)
                dropped += 1
        oldest = time.time() - UNPUBLISHED_KEPT_S
        for path, at in written.items():
            if at < oldest and _file_path_of(path) not in published:
                await self._delete_object(path)
        if self._folder is not None:
            await asyncio.to_thread(remove_drafts, self._folder, oldest)
        return dropped

    async def _end_of(self, file_path: str) -> int | None:
        """Return when a file expires. Its metadata are read only once."""
        if file_path not in self._ends:
            with _speaking():
                info = await self._info(f"{file_path}/about.json")
            self._ends[file_path] = info.expires_at if info is not None else None
        return self._ends[file_path]

    async def remove(self, tenant: str | None, file_id: str) -> None:
        """Delete a file, published or not, as far as it exists."""
        file_path = _file_path(tenant, file_id)
        await self._delete_object(f"{file_path}/about.json")
        await self._delete_object(f"{file_path}/content")

    async def put_part(self, tenant: str | None, file_id: str, name: str, data: bytes) -> None:
        """Store a part of an unfinished file. Replaces a part of the same name."""
        with _speaking(file_id):
            await self._put(f"{_file_path(tenant, file_id)}/parts/{name}", data)

    async def parts(
        self, tenant: str | None, file_id: str, names: Iterable[str]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of these parts. Raises `FileNotFound`."""
        with _speaking(file_id):
            for name in names:
                path = f"{_file_path(tenant, file_id)}/parts/{name}"
                found = await self._store.get_async(path)
                yield bytes(await found.bytes_async())

    async def part_names(self, tenant: str | None, file_id: str) -> list[str]:
        """Return the names of all parts, sorted."""
        with _speaking(file_id):
            return [path.rpartition("/")[2] for path in await self._parts(tenant, file_id)]

    async def drop_parts(self, tenant: str | None, file_id: str) -> None:
        """Delete all parts of a file."""
        with _speaking(file_id):
            if paths := await self._parts(tenant, file_id):
                await self._store.delete_async(paths)

    async def _parts(self, tenant: str | None, file_id: str) -> list[str]:
        folder = f"{_file_path(tenant, file_id)}/parts"
        return sorted([path async for path, _ in self._objects(folder)])

    async def _about_paths(self, folder: str, *, oldest_first: bool = False) -> list[str]:
        """Return the paths of metadata, the most recently written first."""
        with _speaking():
            found = [
                (meta["last_modified"], path)
                async for path, meta in self._objects(folder)
                if path.endswith("/about.json")
            ]
        return [path for _, path in sorted(found, reverse=not oldest_first)]

    async def _objects(self, folder: str) -> AsyncGenerator[tuple[str, ObjectMeta], None]:
        with _speaking():
            prefix = f"{folder}/" if folder else None
            async for page in self._store.list(prefix, chunk_size=_NAMES_AT_ONCE):
                for meta in page:
                    yield meta["path"], meta

    async def _infos(self, paths: Sequence[str]) -> list[FileInfo]:
        """Read metadata concurrently; leave out files that are deleted or have expired."""
        with _speaking():
            infos = await asyncio.gather(*map(self._info, paths))
        return [info for info in infos if info is not None and not info.expired]

    async def _info(self, path: str) -> FileInfo | None:
        try:
            found = await self._store.get_async(path)
            return _decoder.decode(bytes(await found.bytes_async()))
        except (FileNotFoundError, msgspec.DecodeError):  # deleted, or truncated by a power failure
            return None

    async def _put(self, path: str, data: bytes | AsyncIterator[bytes]) -> None:
        if self._folder is None:
            await self._store.put_async(path, data)
        else:
            pieces = _once(data) if isinstance(data, bytes) else data
            await write_private(self._folder / path, pieces)

    async def _delete_object(self, path: str) -> None:
        with suppress(FileNotFound), _speaking():
            await self._store.delete_async(path)

    async def _delete(self, file_path: str) -> None:
        await self._store.delete_async(f"{file_path}/about.json")
        await self._store.delete_async(f"{file_path}/content")


class _Counted:
    """Counts the bytes of an upload, up to a limit, and keeps the error of its source."""

    def __init__(self, data: AsyncIterable[bytes], max_bytes: int | None) -> None:
        self.bytes = 0
        self.error: BaseException | None = None
        self._data = data
        self._max_bytes = max_bytes

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._data:
                self.bytes += len(piece)
                if self._max_bytes is not None and self.bytes > self._max_bytes:
                    raise FileTooLarge(self._max_bytes)
                if piece:
                    yield piece
        except BaseException as error:
            self.error = error
            raise


def new_file_id() -> str:
    """Return an unguessable id."""
    return f"file-{secrets.token_hex(16)}"


def local_folder(settings: Settings) -> Path | None:
    """Return the directory of the files; None if they are in an object store."""
    if settings.files_url is None:
        return Path(os.path.realpath(settings.state_dir)) / "files"
    url = urlsplit(settings.files_url)
    return Path(url2pathname(url.path)) if url.scheme.lower() == "file" else None


def _open(settings: Settings) -> ObjectStore:
    from obstore.store import LocalStore, from_url

    folder = local_folder(settings)
    if folder is None:
        assert settings.files_url is not None  # noqa: S101  else there is a folder
        return from_url(settings.files_url)
    if settings.files_url is None:
        _close(settings, folder)
    return LocalStore(folder, automatic_cleanup=True)


def _close(settings: Settings, folder: Path) -> None:
    """Remove the access of other users to the folder and to the state directory above it."""
    make_ours_alone(Path(os.path.realpath(settings.state_dir)))
    make_ours_alone(folder)
    if close_to_others(folder):
        logger.warning(LogEvent("files were open to other users, now closed", folder=str(folder)))


def _file_path(tenant: str | None, file_id: str) -> str:
    if _ID.fullmatch(file_id) is None:
        raise FileNotFound(file_id)
    return f"{tenant_digest(tenant)}/{file_id}"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _file_path_of(path: str) -> str:
    return "/".join(path.split("/")[:2])


@contextmanager
def _speaking(file_id: str = "") -> Iterator[None]:
    """Turn errors of obstore into darkq's."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise FileNotFound(file_id) from None
    except (BaseError, OSError) as error:
        raise FileStoreUnavailable(type(error).__name__) from None
