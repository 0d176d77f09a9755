"""The ledger of an output folder: its manifest and its journal, as a run reads and continues them.

The journal says which input file each record describes and which files were written for it, so that a resumed run can
tell whether a record is still valid.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from clipseg_cli.inputs import names
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import CLAIMS, JOURNAL, MANIFEST, latest_lines
from clipseg_cli.outputs.record import Identity, Record, dumps, key_of, parsed
from clipseg_cli.storage import store
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.lines import Line, Lines, open_lines
from clipseg_cli.storage.locks import Claims
from clipseg_cli.storage.store import AnyPath


class Ledger:
    """The manifest and the journal of one output folder. A context manager: entering reads both.

    The journal line of an image is written before its manifest line. An image counts as done if both lines exist, its
    output files have the recorded sizes, and the input file is unchanged.

    Runs that work in one folder at the same time share the images: a run claims an image before it processes it, and
    ends the claim once its manifest line is written. In a bucket, which has no locks, each run processes all images.
    """

    def __init__(self, out: AnyPath, fsync: bool = False) -> None:
        self.out = out
        self.manifest = open_lines(out / MANIFEST, fsync)
        self.journal = open_lines(out / JOURNAL, fsync)
        self.claims = None if isinstance(out, Url) else Claims(out / CLAIMS)
        self.size = store.sizes(out)
        self.known: dict[str, bytes] = {}  # image key -> its manifest line when the run began
        self.news: dict[int, int] = {}  # hash of an image key -> place of the line that another run has added since
        self.proofs: dict[str, tuple[Identity | None, dict[str, int]]] = {}  # key -> input identity, sizes of outputs
        self.photos: dict[str, tuple[int, int]] = {}  # key -> `Record.photos`, of images that have any
        self.owners: dict[int, int] = {}  # hash of an output path -> hash of the key of its image; hashes save memory
        self.untidy = False  # the manifest holds two lines for one image, or a line that is not a record

    def __enter__(self) -> Self:
        self.manifest.__enter__()
        self.journal.__enter__()
        for line in self.manifest:
            document = parsed(line)
            key = key_of(document) if "image" in document else None
            self.untidy |= key is None or key in self.known
            if key is not None:
                self.known[key] = line
        for line in self.journal:
            document = parsed(line)
            if {"image", "image_b64", "frame", "input", "outputs"} <= document.keys():
                key = key_of(document)
                self.proofs[key] = document["input"], document["outputs"]
                if "photos" in document:
                    self.photos[key] = document["photos"][0], document["photos"][1]
                self.owners.setdefault(hash(document.get("output")), hash(key))
        if self.claims is not None:
            with store.failing(self.out / CLAIMS):
                self.claims.open()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        self.journal.__exit__(kind)
        self.manifest.__exit__(kind)
        if self.claims is not None:
            self.claims.close()

    def take(self, key: str, identify: Callable[[], Identity] | None) -> Record | bool:
        """Returns the record of an image that is finished; else whether this run may process it.

        It is finished if an earlier run did it and `identify` returns the identity that the input had then, or if
        another run has just done it, or has found that it fails. `identify` is None for an input that cannot be the
        same as before; it is not called for images without a journal line. False: another run is processing it.
        """
        kept = self._kept(key, identify)
        if kept is not None or self.claims is None or not isinstance(self.manifest, Lines):
            return kept or True
        if not self.claims.take(key):
            return False
        self._learn(self.manifest.news())
        document = parsed(self.manifest.at(self.news[hash(key)])) if hash(key) in self.news else {}
        if "image" not in document or key_of(document) != key:
            return True
        self.claims.drop(key)
        return Record.kept_from(document)

    def _kept(self, key: str, identify: Callable[[], Identity] | None) -> Record | None:
        """Returns the record of an image that an earlier run finished."""
        line, (recorded, outputs) = self.known.get(key), self.proofs.get(key, (None, {}))
        if line is None or recorded is None or identify is None:
            return None
        document = parsed(line)
        try:
            complete = identify() == recorded and all(self.size(path) == size for path, size in outputs.items())
        except (OSError, ValueError):
            return None
        if not complete or document.get("status") != "ok":
            return None
        return replace(Record.kept_from(document), photos=self.photos.get(key, (0, 0)))

    def _learn(self, lines: list[Line]) -> None:
        """Notes the manifest lines that other runs have added."""
        for place, line in lines:
            document = parsed(line)
            if "image" in document:
                key = key_of(document)
                self.untidy |= key in self.known
                self.news[hash(key)] = place

    def with_own_output(self, source: Source) -> Source:
        """Returns the source with an output path that no other image of an earlier run owns.

        Two input folders that share an output folder may hold images with the same relative path.
        """
        owner = self.owners.get(hash(store.portable(source.output)), hash(source.key))
        return source if owner == hash(source.key) else replace(source, output=names.renamed(source.output, source.key))

    def add(self, record: Record) -> None:
        """Appends the record of an image whose files are written. The record of a skipped image does not change.

        Deletes files that an earlier run wrote for this image and this run did not, so that no outdated mask remains.
        Raises OutputError.
        """
        if record.kept is not None:
            return
        _, before = self.proofs.get(record.key, (None, {}))
        for path in before.keys() - dict(record.outputs).keys():
            with contextlib.suppress(OSError):  # gone, or a folder now
                (self.out / path).unlink()
        document = record.document()
        if record.ok:
            proof: dict[str, Any] = {
                name: document[name] for name in ("image", "image_b64", "frame") if name in document
            }
            proof |= {"output": record.output, "input": record.identity, "outputs": dict(record.outputs)}
            proof |= {"split": record.split} if record.split else {}
            proof |= {"photos": record.photos} if any(record.photos) else {}
            self.journal.append(dumps(proof))
        self._learn(self.manifest.append(dumps(document)))
        self.untidy |= record.key in self.known or hash(record.key) in self.news
        if self.claims is not None:
            self.claims.drop(record.key)

    def close(self) -> None:
        """Ends a run: keeps the latest record of each image and, in a bucket, joins the parts. Raises OutputError."""
        if self.untidy or isinstance(self.out, Url):
            for lines in (self.manifest, self.journal):
                lines.rewrite(latest_lines)
