"""Which upstream a job goes to, and which model there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from darkq.operate.upstreams import Served
from darkq_worker.limits.gate import Rule
from darkq_worker.upstreams.base import (
    NotReady,
    ProtocolViolation,
    Rejected,
    UnknownModel,
    Unserved,
    Upstream,
    UpstreamError,
)
from darkq_worker.upstreams.openai import OpenAIUpstream


class UnknownUpstream(Unserved):
    code = "unknown_upstream"
    kind = "upstream"


class Upstreams:
    """The upstreams of a worker; the first is the default."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._by_name = {upstream.name: upstream for upstream in upstreams}
        self._default = upstreams[0]

    def choose(self, name: str | None, model: str | None) -> tuple[Upstream, str]:
        """Return the upstream for a job, and the canonical name of its model.

        It is the one of that name, else the only one; there a model may be asked for that is not
        listed. Of several it is the first that knows the model to the letter or by an alias, then
        the first that knows it under a longer name, and without a model the default. Raises
        `UnknownUpstream`, `UnknownModel`, `NotReady` while one that may know the model has not said
        so yet, or why an upstream cannot say.
        """
        if name is not None or not model or len(self._by_name) == 1:
            upstream = self._named(name)
            return upstream, _resolve_only(upstream, model)
        unsure: UpstreamError | None = None
        similar: tuple[Upstream, str] | None = None
        for upstream in self:
            try:
                found = upstream.resolve_model(model)
            except (UnknownModel, ProtocolViolation):
                continue
            except UpstreamError as error:
                unsure = error if unsure is None or isinstance(error, NotReady) else unsure
                continue
            if not isinstance(upstream, OpenAIUpstream) or upstream.knows(model):
                return upstream, found
            similar = similar or (upstream, found)
        if similar is not None:
            return similar
        raise unsure or UnknownModel(model, [name for each in self for name in each.models])

    def served(self, rules: Mapping[str, Rule]) -> list[Served]:
        """Return what there is to tell of each, with what it allows."""
        return [
            Served(
                name=upstream.name,
                kind=upstream.kind,
                default_model=upstream.default_model,
                models=tuple(upstream.models),
                options=tuple(sorted(upstream.options)),
                windows=rules.get(upstream.name, Rule()).windows,
                concurrency=rules.get(upstream.name, Rule()).concurrency,
            )
            for upstream in self
        ]

    def _named(self, name: str | None) -> Upstream:
        if name is None:
            return self._default
        if name not in self._by_name:
            raise UnknownUpstream(name, list(self._by_name))
        return self._by_name[name]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_name.values())


def _resolve_only(upstream: Upstream, model: str | None) -> str:
    """Return the model of a job that can only mean this upstream; the service judges the rest."""
    try:
        return upstream.resolve_model(model)
    except (Rejected, ProtocolViolation):
        if model and isinstance(upstream, OpenAIUpstream) and upstream.takes_unlisted:
            return model
        raise
