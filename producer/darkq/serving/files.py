"""Files of tenants: what batches read and write, in a local directory or an object store.

    <tenant>/<id>/content     the bytes
    <tenant>/<id>/about.json  the rest; written last, so that a file is there whole or not at all
    <tenant>/<id>/parts/…     what a file is being put together from

A tenant's name stands in paths as its digest: nothing that a caller says becomes part of a path.
`obstore` does the work (extra `gateway`); its errors come out as `FileStoreUnavailable`. Only a
local directory is written to without it: it would let the umask decide who may read a file.

A file that has expired is as one that does not exist. `drop_expired` removes it, but for the input
of a batch that still runs.
"""

from __future__ import annotations

import asyncio
import hashlib
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

from darkq.errors import (
    ConfigurationError,
    FileNotFound,
    FileStoreUnavailable,
    FileTooLarge,
)
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
    """What is known of a file. Times are epoch seconds; without `expires_at` it has no end."""

    id: str
    filename: str
    bytes: int
    purpose: Purpose
    created_at: int
    expires_at: int | None = None

    @property
    def expired(self) -> bool:
        """Tell whether its time is over."""
        return self.expires_at is not None and time.time() >= self.expires_at


class Content(NamedTuple):
    """The bytes of a file that is not there yet: `Files.publish` makes it one."""

    file_id: str
    bytes: int


class FilePage(NamedTuple):
    """Some files of a list, and whether there are more behind them."""

    files: list[FileInfo]
    has_more: bool


class FileUsage(NamedTuple):
    """How much a tenant has stored."""

    files: int
    bytes: int


_decoder = msgspec.json.Decoder(FileInfo)


class Files:
    """The files of all tenants. Every method raises `FileStoreUnavailable`.

    The store is `DARKQ_FILES_URL`: `s3://bucket/prefix` and what else obstore knows, with
    credentials from the environment as its provider's own tools read them; by default a directory
    below `DARKQ_STATE_DIR`, which only this user may enter.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ends: dict[str, int | None] = {}
        """When files expire, by place: `drop_expired` reads each of them once."""

    @cached_property
    def _store(self) -> ObjectStore:
        # At its first use: whoever has no files needs no folder for them.
        try:
            return _open(self._settings)
        except ConfigurationError as error:  # it names the setting
            raise FileStoreUnavailable(error.reason) from None

    @cached_property
    def _folder(self) -> Path | None:
        return local_folder(self._settings)

    def check(self) -> None:
        """Close an existing folder below `DARKQ_STATE_DIR` to others. For the start of a process.

        Raises `ConfigurationError` for one that is another user's, or that others can write to.
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
        """Store a file for `ttl_s`, or `DARKQ_FILES_TTL_S`; one that has the id is replaced.

        Raises `FileTooLarge`, and what `data` raises; then nothing is left.
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
        """Store the bytes of a file, which is there once it is published.

        Raises `FileTooLarge`, and what `data` raises; then nothing is left.
        """
        file_id = file_id or new_file_id()
        counted = _Counted(data, max_bytes)
        try:
            with _speaking():
                await self._put(f"{_place(tenant, file_id)}/content", counted.pieces())
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
        """Let a file be there, for `ttl_s` or `DARKQ_FILES_TTL_S`."""
        now = int(time.time())
        info = FileInfo(
            id=content.file_id,
            filename=filename[-MAX_FILENAME_CHARS:],
            bytes=content.bytes,
            purpose=purpose,
            created_at=now,
            expires_at=now + int(self._settings.files_ttl_s if ttl_s is None else ttl_s),
        )
        about = f"{_place(tenant, content.file_id)}/about.json"
        with _speaking():
            await self._put(about, msgspec.json.encode(info))
        return info

    async def discard(self, tenant: str | None, content: Content) -> None:
        """Delete the bytes of a file that was not published."""
        await self._delete_object(f"{_place(tenant, content.file_id)}/content")

    async def info(self, tenant: str | None, file_id: str) -> FileInfo:
        """Return what is known of a file. Raises `FileNotFound`."""
        with _speaking(file_id):
            info = await self._info(f"{_place(tenant, file_id)}/about.json")
        if info is None or info.expired:
            raise FileNotFound(file_id)
        return info

    async def read(self, tenant: str | None, file_id: str) -> AsyncGenerator[bytes, None]:
        """Yield a file's bytes. Raises `FileNotFound`."""
        import obstore

        with _speaking(file_id):
            found = await obstore.get_async(self._store, f"{_place(tenant, file_id)}/content")
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
        """Return `limit` of a tenant's files, those behind the file `after`.

        Names are listed and only the page is read, with one file more to know `has_more`. A file
        that is deleted meanwhile is left out. Raises `FileNotFound` where `after` is none of them.
        """
        paths = await self._about_paths(_tenant_folder(tenant), oldest_first=oldest_first)
        if after is not None:
            about = f"{_place(tenant, after)}/about.json"
            if about not in paths:
                raise FileNotFound(after)
            paths = paths[paths.index(about) + 1 :]
        found = list[FileInfo]()
        wanted = len(paths) if limit is None else limit + 1
        while paths and len(found) < wanted:
            some = min(READS_AT_ONCE, wanted - len(found))
            infos = await self._infos(paths[:some])
            found += [info for info in infos if purpose is None or info.purpose == purpose]
            paths = paths[some:]
        return FilePage(found[:limit], limit is not None and len(found) > limit)

    async def usage(self, tenant: str | None) -> FileUsage:
        """Return how much a tenant has stored, without reading a file."""
        files = size = 0
        async for path, meta in self._objects(_tenant_folder(tenant)):
            files += path.endswith("/content")
            size += meta["size"]
        return FileUsage(files, size)

    async def delete(self, tenant: str | None, file_id: str) -> None:
        """Delete a file. Raises `FileNotFound`."""
        await self.info(tenant, file_id)
        with _speaking(file_id):
            await self._delete(_place(tenant, file_id))

    async def drop_expired(self, kept: Container[str] = ()) -> int:
        """Delete what has expired, of all tenants, but for files of the ids in `kept`.

        Also what a process left that was killed in the middle of a file, once it is
        `UNPUBLISHED_KEPT_S` old. Returns how many files had expired.
        """
        if self._folder is not None and not self._folder.exists():
            return 0
        written = dict[str, float]()
        async for path, meta in self._objects(""):
            if _OURS.match(path):  # a bucket may hold other things too
                written[path] = meta["last_modified"].timestamp()
        published = {_place_of(path) for path in written if path.endswith("/about.json")}
        self._ends = {place: end for place, end in self._ends.items() if place in published}
        dropped = 0
        for place in published:
            end = await self._end_of(place)
            if end is not None and time.time() >= end and place.rpartition("/")[2] not in kept:
                with suppress(FileNotFound), _speaking():  # another gateway may be as far
                    await self._delete(place)
                dropped += 1
        oldest = time.time() - UNPUBLISHED_KEPT_S
        for path, at in written.items():
            if at < oldest and _place_of(path) not in published:
                await self._delete_object(path)
        if self._folder is not None:
            await asyncio.to_thread(remove_drafts, self._folder, oldest)
        return dropped

    async def _end_of(self, place: str) -> int | None:
        """Return when a file expires, which is read once."""
        if place not in self._ends:
            with _speaking():
                info = await self._info(f"{place}/about.json")
            self._ends[place] = info.expires_at if info is not None else None
        return self._ends[place]

    async def remove(self, tenant: str | None, file_id: str) -> None:
        """Delete what there is of a file, however far it has come."""
        place = _place(tenant, file_id)
        await self._delete_object(f"{place}/about.json")
        await self._delete_object(f"{place}/content")

    async def put_part(self, tenant: str | None, file_id: str, name: str, data: bytes) -> None:
        """Store a part of a file that is not there yet; one of that name is replaced."""
        with _speaking(file_id):
            await self._put(f"{_place(tenant, file_id)}/parts/{name}", data)

    async def parts(
        self, tenant: str | None, file_id: str, names: Iterable[str]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the parts of these names. Raises `FileNotFound`."""
        import obstore

        with _speaking(file_id):
            for name in names:
                path = f"{_place(tenant, file_id)}/parts/{name}"
                found = await obstore.get_async(self._store, path)
                yield bytes(await found.bytes_async())

    async def part_names(self, tenant: str | None, file_id: str) -> list[str]:
        """Return the names of all parts, in their order."""
        with _speaking(file_id):
            return [path.rpartition("/")[2] for path in await self._parts(tenant, file_id)]

    async def drop_parts(self, tenant: str | None, file_id: str) -> None:
        """Delete the parts."""
        import obstore

        with _speaking(file_id):
            if paths := await self._parts(tenant, file_id):
                await obstore.delete_async(self._store, paths)

    async def _parts(self, tenant: str | None, file_id: str) -> list[str]:
        folder = f"{_place(tenant, file_id)}/parts"
        return sorted([path async for path, _ in self._objects(folder)])

    async def _about_paths(self, folder: str, *, oldest_first: bool = False) -> list[str]:
        """Return the paths of what is known of files, the newest first, by when it was written."""
        with _speaking():
            found = [
                (meta["last_modified"], path)
                async for path, meta in self._objects(folder)
                if path.endswith("/about.json")
            ]
        return [path for _, path in sorted(found, reverse=not oldest_first)]

    async def _objects(self, folder: str) -> AsyncGenerator[tuple[str, ObjectMeta], None]:
        import obstore

        with _speaking():
            prefix = f"{folder}/" if folder else None
            async for page in obstore.list(self._store, prefix, chunk_size=_NAMES_AT_ONCE):
                for meta in page:
                    yield meta["path"], meta

    async def _infos(self, paths: Sequence[str]) -> list[FileInfo]:
        """Read files' infos, all at once; without those that are gone or have expired."""
        with _speaking():
            infos = await asyncio.gather(*map(self._info, paths))
        return [info for info in infos if info is not None and not info.expired]

    async def _info(self, path: str) -> FileInfo | None:
        import obstore

        try:
            found = await obstore.get_async(self._store, path)
            return _decoder.decode(bytes(await found.bytes_async()))
        except (FileNotFoundError, msgspec.DecodeError):  # gone, or cut short when a machine died
            return None

    async def _put(self, path: str, data: bytes | AsyncIterator[bytes]) -> None:
        import obstore

        store = self._store
        if self._folder is None:
            await obstore.put_async(store, path, data)
        else:
            pieces = _once(data) if isinstance(data, bytes) else data
            await write_private(self._folder / path, pieces)

    async def _delete_object(self, path: str) -> None:
        import obstore

        with suppress(FileNotFound), _speaking():
            await obstore.delete_async(self._store, path)

    async def _delete(self, place: str) -> None:
        import obstore

        await obstore.delete_async(self._store, f"{place}/about.json")
        await obstore.delete_async(self._store, f"{place}/content")


class _Counted:
    """Bytes on their way into the store."""

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
    """Return the directory where files are kept; None where it is an object store."""
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
    """Make the folder ours alone, below a state directory that others cannot write to."""
    make_ours_alone(Path(os.path.realpath(settings.state_dir)))
    make_ours_alone(folder)
    if close_to_others(folder):
        logger.warning(LogEvent("files were open to other users, now closed", folder=str(folder)))


def _tenant_folder(tenant: str | None) -> str:
    return "open" if tenant is None else hashlib.sha256(tenant.encode()).hexdigest()[:32]


def _place(tenant: str | None, file_id: str) -> str:
    if _ID.fullmatch(file_id) is None:
        raise FileNotFound(file_id)
    return f"{_tenant_folder(tenant)}/{file_id}"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _place_of(path: str) -> str:
    return "/".join(path.split("/")[:2])


@contextmanager
def _speaking(file_id: str = "") -> Iterator[None]:
    """Let obstore's errors out as darkq's."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise FileNotFound(file_id) from None
    except (BaseError, OSError) as error:
        raise FileStoreUnavailable(type(error).__name__) from None
