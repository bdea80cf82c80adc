"""The tab "Saliency" of TensorBoard: what it serves under ``data/plugin/saliency/``.

It only reads. No text of a request becomes a path: an id is looked up among the records that were
found, a step among those of the record, and static files have one route each.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.data import provider
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from lightning_saliency.errors import RecordError
from lightning_saliency.record.facts import PHOTOS_FILE
from lightning_saliency.viewer.cache import ByteCache
from lightning_saliency.viewer.discovery import Catalogue, find_readable, parse_roots
from lightning_saliency.viewer.record import Record, file_stamp
from lightning_saliency.viewer.sprite import draw_sprite

STATIC = Path(__file__).parent / "static"

_ENTRY = "/index.js"
_KINDS = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_CACHED = 128_000_000  # bytes of answers that are kept
_MOST_POINTS = 1000  # of a curve
_NUMBER = re.compile(r"\d{1,16}", re.ASCII)

Application: TypeAlias = Callable[..., Any]
Respond: TypeAlias = Callable[["_Question"], Any]  # a response of werkzeug


class RefusedError(Exception):
    """A request that is answered with an error: 400 if it is malformed, 404 if nothing is there."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class SaliencyPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """The tab, for the log folders of one TensorBoard."""

    plugin_name = "saliency"

    def __init__(self, context: base_plugin.TBContext) -> None:
        """Begin to look for records.

        Args:
            context: What TensorBoard was started with.
        """
        spec = getattr(context.flags, "logdir_spec", "") or ""
        roots, self._remote = parse_roots(context.logdir or "", spec)
        self._catalogue = Catalogue(roots)
        self._scalars = context.data_provider
        self._answers = ByteCache(_CACHED)

    def is_active(self) -> bool:
        """Whether there is anything to see; this never waits for a slow disk."""
        return bool(self._catalogue.records())

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The name of the tab, and what its frame imports."""
        return base_plugin.FrontendMetadata(es_module_path=_ENTRY, tab_name="Saliency")

    def get_plugin_apps(self) -> Mapping[str, Application]:
        """The routes, each of them exact."""
        files = (p for p in STATIC.glob("*") if p.suffix in _KINDS)
        routes: dict[str, Application] = {f"/{p.name}": _serve_file(p) for p in files}
        data = {
            "/runs": self._list_runs,
            "/run": self._describe_run,
            "/maps": self._send_maps,
            "/photos": self._send_photos,
        }
        return routes | {route: _answer(respond) for route, respond in data.items()}

    def _list_runs(self, question: _Question) -> Any:
        readable, damaged = find_readable(self._catalogue.records().values())
        runs = [
            {"id": r.id, "run": r.run, "stamp": r.stamp(), "started": r.facts().started}
            for r in readable
        ]
        notice = ""
        if self._remote:
            notice = (
                f"{', '.join(self._remote)} is not on a disk of this machine, and only records on "
                "a disk can be shown: copy the folder here, and start TensorBoard on the copy."
            )
        return question.send_json({"runs": runs, "unreadable": damaged, "notice": notice})

    def _describe_run(self, question: _Question) -> Any:
        record = question.find_record(self._catalogue.records())
        index = record.index()
        index["scalars"] = self._read_scalars(question, record.run, index["name"])
        return question.send_json(index)

    def _read_scalars(
        self, question: _Question, run: str, prefix: str
    ) -> dict[str, list[tuple[int, float]]]:
        """The curves of a run, without those of the callback, whose values are in its record."""
        if self._scalars is None:
            return {}
        environ = question.request.environ
        # TensorBoard calls the events directly in a named log folder "name/.".
        runs = (run, f"{run}/.")
        try:
            found = self._scalars.read_scalars(
                plugin_util.context(environ),
                experiment_id=plugin_util.experiment_id(environ),
                plugin_name="scalars",
                downsample=_MOST_POINTS,
                run_tag_filter=provider.RunTagFilter(runs=runs),
            )
        except Exception:  # Maps can be looked at without curves.
            logging.getLogger(__name__).warning("no scalars of %r", run, exc_info=True)
            return {}
        return {
            tag: [(d.step, float(f"{d.value:.6g}")) for d in series if np.isfinite(d.value)]
            for each in runs
            for tag, series in found.get(each, {}).items()
            if tag != "epoch" and not tag.startswith(f"{prefix}/")
        }

    def _send_maps(self, question: _Question) -> Any:
        record = question.find_record(self._catalogue.records())
        step, rule = question.read_number("step"), question.text("rule")
        images, columns = question.read_numbers("images"), question.read_numbers("k")
        if step not in record.steps():
            raise RefusedError(404, f"no observation at step {step}")
        stamp = record.moment(step).stamp
        key = (record.id, step, rule, images, columns, stamp)

        def read() -> bytes:
            maps = record.maps(step, rule, images, columns)
            return gzip.compress(maps.tobytes(), 1, mtime=0)

        return question.send(
            lambda: self._answers.get(key, read), "application/octet-stream", stamp, zipped=True
        )

    def _send_photos(self, question: _Question) -> Any:
        record = question.find_record(self._catalogue.records())
        stamp = file_stamp(record.folder / PHOTOS_FILE)
        key = (record.id, stamp)

        def draw() -> bytes:
            return draw_sprite(record.photos())

        return question.send(lambda: self._answers.get(key, draw), "image/png", stamp)


class _Question:
    """A request, and the ways to answer it."""

    def __init__(self, request: wrappers.Request) -> None:
        self.request = request

    def find_record(self, records: Mapping[str, Record]) -> Record:
        """The record that the request names.

        Raises:
            RefusedError: There is none.
        """
        record = records.get(self.request.args.get("id", ""))
        if record is None:
            raise RefusedError(404, "no such run")
        return record

    def text(self, name: str) -> str | None:
        """An argument; ``None`` if it is empty or missing."""
        return self.request.args.get(name) or None

    def read_number(self, name: str) -> int:
        """An argument that is a whole number of at least 0.

        Raises:
            RefusedError: It is missing or something else.
        """
        text = self.request.args.get(name, "")
        if not _NUMBER.fullmatch(text):
            raise RefusedError(400, f"{name} must be a whole number")
        return int(text)

    def read_numbers(self, name: str) -> tuple[int, ...] | None:
        """An argument that is a list of different whole numbers; ``None`` if it is missing.

        Raises:
            RefusedError: It is something else, or names a number twice.
        """
        text = self.text(name)
        if text is None:
            return None
        parts = text.split(",")
        numbers = tuple(int(part) for part in parts if _NUMBER.fullmatch(part))
        if len(set(numbers)) < len(parts):
            raise RefusedError(
                400, f"{name} must be different whole numbers with commas between them"
            )
        return numbers

    def send_json(self, content: Mapping[str, Any]) -> Any:
        """Answer with JSON, in ASCII and without NaN."""
        return http_util.Respond(
            self.request, json.dumps(content, allow_nan=False), "application/json"
        )

    def send(
        self, make: Callable[[], bytes], kind: str, stamp: str, *, zipped: bool = False
    ) -> Any:
        """Answer with a part of a file, unless the browser has it already.

        Args:
            make: Reads the content.
            kind: The type of the content.
            stamp: Changes when the file does. A resumed run writes other maps at the same step, so
                that a browser has to ask each time.
            zipped: Whether the content is compressed by gzip.
        """
        tag = f'"{stamp}"'
        if self.request.headers.get("If-None-Match") == tag:
            return wrappers.Response(status=304, headers=[("ETag", tag)])
        encoding = "gzip" if zipped else None
        return http_util.Respond(
            self.request, make(), kind, content_encoding=encoding, headers=[("ETag", tag)]
        )


def _answer(respond: Respond) -> Application:
    """Make an application that answers GET requests and turns errors into a line of text."""

    def serve(request: wrappers.Request) -> Any:
        try:
            if request.method not in ("GET", "HEAD"):
                raise RefusedError(405, "nothing can be changed here")
            return respond(_Question(request))
        except RefusedError as refusal:
            return http_util.Respond(request, str(refusal), "text/plain", code=refusal.code)
        except (IndexError, FileNotFoundError):
            return http_util.Respond(request, "no such maps", "text/plain", code=404)
        except (RecordError, OSError):
            # The message names the place of the file, which is nobody's business here.
            logging.getLogger(__name__).warning("a file cannot be read", exc_info=True)
            return http_util.Respond(request, "the file is damaged", "text/plain", code=404)

    application: Application = wrappers.Request.application(serve)
    return application


def _serve_file(path: Path) -> Application:
    """Make an application that serves one file of the package."""

    def respond(question: _Question) -> Any:
        return question.send(path.read_bytes, _KINDS[path.suffix], file_stamp(path))

    return _answer(respond)
