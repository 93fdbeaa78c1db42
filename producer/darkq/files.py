"""Files of tenants: what batches read and write, in a local directory or an object store.

    <tenant>/<id>/content     the bytes
    <tenant>/<id>/about.json  the rest; written last, so that a file is there whole or not at all
    <tenant>/<id>/parts/…     what a file is being put together from

A tenant's name stands in paths as its digest: nothing that a caller says becomes part of a path.
`obstore` does the work (extra `gateway`); its errors come out as `FileStoreUnavailable`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from darkq.errors import FileNotFound, FileStoreUnavailable, FileTooLarge
from darkq.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ObjectStore

Purpose: TypeAlias = Literal["batch", "batch_output"]

MAX_FILENAME_CHARS = 255
_PIECE_BYTES = 1 << 20
_ID = re.compile(r"file-[0-9a-f]{32}")


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file. `created_at` is epoch seconds."""

    id: str
    filename: str
    bytes: int
    purpose: Purpose
    created_at: int


_decoder = msgspec.json.Decoder(FileInfo)


class Files:
    """The files of all tenants. Every method raises `FileStoreUnavailable`.

    The store is `DARKQ_FILES_URL`: `s3://bucket/prefix` and what else obstore knows, with
    credentials from the environment as its provider's own tools read them; by default a directory
    below `DARKQ_STATE_DIR`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _store(self) -> ObjectStore:
        # At its first use: whoever has no files needs no folder for them.
        return _open(self._settings)

    async def create(
        self,
        tenant: str | None,
        data: AsyncIterable[bytes],
        *,
        filename: str,
        purpose: Purpose,
        max_bytes: int | None = None,
        file_id: str | None = None,
    ) -> FileInfo:
        """Store a file; one that has the id already is replaced.

        Raises `FileTooLarge`, and what `data` raises; then nothing is left.
        """
        import obstore

        file_id = file_id or new_file_id()
        counted = _Counted(data, max_bytes)
        place = _place(tenant, file_id)
        try:
            with _speaking():
                await obstore.put_async(self._store, f"{place}/content", counted.pieces())
        except BaseException:
            if counted.error is not None:  # obstore wraps what its source raises
                raise counted.error from None
            raise
        info = FileInfo(
            id=file_id,
            filename=filename[-MAX_FILENAME_CHARS:],
            bytes=counted.bytes,
            purpose=purpose,
            created_at=int(time.time()),
        )
        with _speaking():
            await obstore.put_async(self._store, f"{place}/about.json", msgspec.json.encode(info))
        return info

    async def info(self, tenant: str | None, file_id: str) -> FileInfo:
        """Return what is known of a file. Raises `FileNotFound`."""
        with _speaking(file_id):
            return await self._info(f"{_place(tenant, file_id)}/about.json")

    async def read(self, tenant: str | None, file_id: str) -> AsyncGenerator[bytes, None]:
        """Yield a file's bytes. Raises `FileNotFound`."""
        import obstore

        with _speaking(file_id):
            found = await obstore.get_async(self._store, f"{_place(tenant, file_id)}/content")
            async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)

    async def listed(self, tenant: str | None) -> list[FileInfo]:
        """Return a tenant's files, the newest first."""
        import obstore

        with _speaking():
            found = []
            async for page in obstore.list(self._store, f"{_folder(tenant)}/"):
                paths = (meta["path"] for meta in page)
                found += [await self._info(p) for p in paths if p.endswith("/about.json")]
        return sorted(found, key=lambda info: (-info.created_at, info.id))

    async def delete(self, tenant: str | None, file_id: str) -> None:
        """Delete a file. Raises `FileNotFound`."""
        import obstore

        await self.info(tenant, file_id)
        place = _place(tenant, file_id)
        with _speaking(file_id):
            await obstore.delete_async(self._store, f"{place}/about.json")
            await obstore.delete_async(self._store, f"{place}/content")

    async def discard(self, tenant: str | None, file_id: str) -> None:
        """Delete what there is of a file, however far it has come."""
        import obstore

        place = _place(tenant, file_id)
        for path in (f"{place}/about.json", f"{place}/content"):
            with suppress(FileNotFound), _speaking(file_id):
                await obstore.delete_async(self._store, path)

    async def put_part(self, tenant: str | None, file_id: str, name: str, data: bytes) -> None:
        """Store a part of a file that is not there yet; one of that name is replaced."""
        import obstore

        with _speaking(file_id):
            path = f"{_place(tenant, file_id)}/parts/{name}"
            await obstore.put_async(self._store, path, data)

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
        import obstore

        listed = obstore.list(self._store, f"{_place(tenant, file_id)}/parts/")
        return sorted([meta["path"] async for page in listed for meta in page])

    async def _info(self, path: str) -> FileInfo:
        import obstore

        found = await obstore.get_async(self._store, path)
        return _decoder.decode(bytes(await found.bytes_async()))


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


def _open(settings: Settings) -> ObjectStore:
    from obstore.store import LocalStore, from_url

    if settings.files_url is not None:
        return from_url(settings.files_url)
    return LocalStore(settings.state_dir / "files", mkdir=True)


def _folder(tenant: str | None) -> str:
    return "open" if tenant is None else hashlib.sha256(tenant.encode()).hexdigest()[:32]


def _place(tenant: str | None, file_id: str) -> str:
    if _ID.fullmatch(file_id) is None:
        raise FileNotFound(file_id)
    return f"{_folder(tenant)}/{file_id}"


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
