"""An optional encoder for embedding endpoints that speak the OpenAI protocol."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from agent_memory.encoders.base import EncoderSpec, check_texts, tiers_for
from agent_memory.encoders.static.windows import normalise
from agent_memory.errors import (
    DimensionMismatchError,
    EncoderError,
    InvalidInputError,
    MissingDependencyError,
)
from agent_memory.files import new_lock
from agent_memory.types import FloatArray, Progress

_RETRIABLE = frozenset({408, 409, 429, 500, 502, 503, 504})
_MAX_WAIT_S = 30.0
_USUAL_PARTS = frozenset(
    {"api", "compatible-mode", "deployments", "embedding", "embeddings", "engines", "inference", "llama.cpp", "models"}
    | {"openai", "rest", "v1", "v1beta", "v2", "v3", "v4"}
)


class OpenAIEncoder:
    """Gets vectors from a ``POST {base_url}/embeddings`` endpoint.

    This encoder uses the network: every text it encodes is sent to the endpoint. Long texts are sent whole; the
    endpoint decides how to handle them. Vectors are normalised here.

    Neither the key nor what may be one in the path of the URL reaches the fingerprint, a store, a log or a message:
    parts of the path other than the usual ones (``v1``, ``openai``, ``deployments``, …) appear as a digest.

    Args:
        model: Name of the model at the endpoint.
        dimension: Dimension of its vectors; every response is checked against it.
        base_url: URL up to and including the version, e.g. ``http://localhost:8000/v1``.
        api_key: Key; the ``OPENAI_API_KEY`` environment variable if None. Endpoints without keys ignore it.
        revision: Identifies the weights, if the operator of the endpoint publishes that. Part of the fingerprint.
        request_dimension: Send ``dimensions`` with each request, for models that can shorten their vectors.
        matryoshka: Whether the model was trained to make prefixes of the vectors usable.
        max_tokens: Context length of the model, for information only.
        batch_size: Maximum number of texts in one request.
        retries: Further attempts after a failed connection or a status that asks to try again.
        timeout_s: Timeout of one request, in seconds.

    Raises:
        MissingDependencyError: httpx is not installed.
        InvalidInputError: A number, the URL or the key is invalid.
    """

    def __init__(
        self,
        model: str,
        *,
        dimension: int,
        base_url: str = "https://api.openai.com/v1",
        api_key: str | None = None,
        revision: str = "",
        request_dimension: bool = False,
        matryoshka: bool = False,
        max_tokens: int = 8191,
        batch_size: int = 256,
        retries: int = 4,
        timeout_s: float = 60.0,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingDependencyError("httpx", "openai") from error
        if min(dimension, batch_size, max_tokens) < 1 or retries < 0 or timeout_s <= 0:
            raise InvalidInputError(
                "dimension, batch_size, max_tokens, timeout_s must be positive and retries at least 0, got "
                f"{dimension}, {batch_size}, {max_tokens}, {timeout_s} and {retries}"
            )
        base_url = base_url.rstrip("/")
        self._secrets = _Secrets(_check_url(base_url, httpx), api_key)
        self.prefix_trained = matryoshka
        self._spec = EncoderSpec(
            name=model,
            revision=revision,
            dimension=dimension,
            tiers=tiers_for(dimension),
            max_tokens=max_tokens,
            pipeline=f"openai+{self._secrets.shown}{'+dimensions' if request_dimension else ''}+l2",
        )
        self._extra: dict[str, Any] = {"dimensions": dimension} if request_dimension else {}
        self._batch_size = batch_size
        self._retries = retries
        self._lock = new_lock()
        self._httpx = httpx
        self._timeout_s = timeout_s
        self._url = f"{base_url}/embeddings"
        self._shown_url = f"{self._secrets.shown}/embeddings"
        self._client: httpx.Client | None = None

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space: endpoint, model and dimension; sends no request."""
        return self._spec

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Encode texts to be remembered; see ``Encoder.encode_documents``.

        Raises:
            EncoderError: The endpoint refused, was unreachable, or returned unusable vectors.
            DimensionMismatchError: Its vectors do not have the declared dimension.
            InvalidInputError: ``texts`` is not a list of strings.
        """
        check_texts(texts)
        out = np.empty((len(texts), self._spec.dimension), dtype=np.float32)
        for start in range(0, len(texts), self._batch_size):
            batch = list(texts[start : start + self._batch_size])
            out[start : start + len(batch)] = self._parse_vectors(self._request(batch), len(batch))
            if progress is not None:
                progress(start + len(batch), len(texts))
        return normalise(out)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode questions; see ``Encoder.encode_queries``."""
        return self.encode_documents(texts)

    def close(self) -> None:
        """Close the connections; the encoder opens new ones if it is used again."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _request(self, batch: list[str]) -> Any:  # noqa: ANN401
        body = {"model": self._spec.name, "input": batch, "encoding_format": "float", **self._extra}
        problem = ""
        for attempt in range(self._retries + 1):
            try:
                response = self._open_client().post(self._url, json=body)
            except self._httpx.TransportError as error:
                problem, wait_s = f"{type(error).__name__}: {error}", None
            except (self._httpx.HTTPError, self._httpx.InvalidURL) as error:
                problem = f"{type(error).__name__}: {error}"
                break
            else:
                if response.status_code == 200:
                    return self._parse_json(response)
                problem = f"HTTP {response.status_code}: {response.text[:10_000]}"
                if response.status_code not in _RETRIABLE:
                    break
                wait_s = _parse_retry_after(response.headers.get("retry-after"))
            if attempt < self._retries:
                time.sleep(min(_MAX_WAIT_S, 0.25 * 2**attempt if wait_s is None else wait_s))
        raise EncoderError(
            f"{self._shown_url} returned no vectors for model {self._spec.name!r}: {self._secrets.hide(problem)[:400]}"
        )

    def _open_client(self) -> Any:  # noqa: ANN401
        with self._lock:
            if self._client is None:
                key = self._secrets.key
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                self._client = self._httpx.Client(timeout=self._timeout_s, headers=headers)
            return self._client

    def _parse_json(self, response: Any) -> Any:  # noqa: ANN401
        try:
            return response.json()
        except ValueError:
            raise EncoderError(f"{self._shown_url} returned a response that is not JSON") from None

    def _parse_vectors(self, response: Any, count: int) -> FloatArray:  # noqa: ANN401
        try:
            items = sorted(response["data"], key=lambda item: int(item["index"]))
            rows = [_parse_row(item["embedding"]) for item in items]
            places = [int(item["index"]) for item in items]
        except (KeyError, TypeError, ValueError) as error:
            problem = self._secrets.hide(repr(error))
            raise EncoderError(f"{self._shown_url} returned a response without usable data: {problem}") from None
        if places != list(range(count)):
            raise EncoderError(f"{self._shown_url} returned {len(rows)} vectors for {count} texts")
        for row in rows:
            if row.shape != (self._spec.dimension,):
                raise DimensionMismatchError(self._spec.dimension, row.size)
        vectors = np.stack(rows)
        if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
            raise EncoderError(f"{self._shown_url} returned vectors that are zero or not finite")
        return vectors


class _Secrets(logging.Filter):
    """What must not be shown of an endpoint: the key, and parts of the path that may be one.

    As a filter of httpx' log it rewrites the URL of each request.
    """

    def __init__(self, base_url: str, api_key: str | None) -> None:
        super().__init__()
        self.key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")
        if not (isinstance(self.key, str) and self.key.isascii() and self.key.isprintable()) or " " in self.key:
            raise InvalidInputError("api_key must be printable ASCII text without spaces")
        parts = {part for part in base_url.split("/")[3:] if part and part.lower() not in _USUAL_PARTS}
        digests = {part: f"~{hashlib.sha256(part.encode()).hexdigest()[:16]}" for part in parts}
        self.shown = "/".join(digests.get(part, part) for part in base_url.split("/"))
        self._hidden = {form: "…" for part in parts for form in (part, unquote(part), quote(part))}
        if self.key:
            self._hidden[self.key] = "…"
        if parts:
            logging.getLogger("httpx").addFilter(self)

    def hide(self, text: str) -> str:
        for secret, shown in sorted(self._hidden.items(), key=lambda item: -len(item[0])):
            text = text.replace(secret, shown)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.hide(record.getMessage()), ()
        return True


def _check_url(base_url: str, httpx: Any) -> str:  # noqa: ANN401
    """Return a URL that is a place alone: it is part of the fingerprint, and so of every store and message."""
    if not base_url.startswith(("http://", "https://")):
        raise InvalidInputError(f"base_url must start with http:// or https://, got {base_url.partition(':')[0]!r}")
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise InvalidInputError("base_url is not a valid URL") from None
    if not url.host or any(c.isspace() or c == "%" for c in url.host) or not 0 < (url.port or 1) < 65536:
        raise InvalidInputError("base_url names no valid host and port")
    if url.userinfo or url.query or url.fragment:
        raise InvalidInputError(
            "base_url must not contain a user, password, query or fragment: it is stored; pass the key as api_key"
        )
    return base_url


def _parse_row(embedding: Any) -> FloatArray:  # noqa: ANN401
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
    return np.asarray(embedding, dtype=np.float32)


def _parse_retry_after(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None
