"""Which upstream a job goes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from darkq_worker.upstreams.base import Rejected, Upstream


class UnknownUpstream(Rejected):
    code = "unknown_upstream"


class Upstreams:
    """The upstreams of a worker; the first is the default."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._by_name = {upstream.name: upstream for upstream in upstreams}
        self._default = upstreams[0]

    def choose(self, name: str | None) -> Upstream:
        """Return the upstream of that name, the default for None. Raises `UnknownUpstream`."""
        if name is None:
            return self._default
        if name not in self._by_name:
            known = ", ".join(self._by_name)
            raise UnknownUpstream(f"unknown upstream {name!r}; known: {known}")
        return self._by_name[name]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_name.values())
