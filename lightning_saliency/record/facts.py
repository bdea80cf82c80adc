"""What the files of a run say in words and numbers, and how the files are called.

Programs that only look at files import this module, so it does without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from lightning_saliency.record.metrics import Numbers
from lightning_saliency.storage.decode import MISFITS, SCHEMA, AtLeast, check_schema, decode
from lightning_saliency.storage.files import damaged, json_bytes, read_json
from lightning_saliency.storage.places import Place

RUN_FILE = "run.json"
PHOTOS_FILE = "photos.safetensors"
VERDICT_FILE = "verdict.json"
OBSERVATION_FILE = "observation-{:010d}.safetensors"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Facts about a run as a whole.

    Attributes:
        name: The name of the callback.
        fingerprint: The fingerprint of the probe; see :attr:`ProbeBatch.fingerprint`.
        images: The name of each image.
        labels: The true classes of each image; ``None`` if they are not known.
        class_names: The name of each class; ``None`` if they have none.
        areas: For each region, the fraction of the images that it covers.
        rule: The rule of the gradient that is measured.
        reduce: How maps are made of that gradient; see :func:`maps.masses`.
        one_logit: Whether the model has a single logit, which stands for class 1 against class 0;
            ``None`` if the file does not say it.
        multi_label: Whether an image may have several true classes; likewise.
        settings: How the run was observed.
        versions: The version of each package.
        commit: The commit of the repository that the run was started in, with ``-dirty`` if there
            were uncommitted changes.
        seed: The argument of ``seed_everything``.
        started: When the run started, in ISO 8601.
        metrics: The last values that the run logged, without those of this package.
        finished: Whether training ended without an error or interruption.
    """

    name: str
    fingerprint: str
    images: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...] | None = None
    class_names: tuple[str, ...] | None = None
    areas: Numbers = field(default_factory=dict)
    rule: str = "gradient"
    reduce: str = "square"
    one_logit: bool | None = None
    multi_label: bool | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    seed: int | None = None
    started: str = ""
    metrics: Numbers = field(default_factory=dict)
    finished: bool = False

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.images):
            raise ValueError("it does not have one label entry per image")

    def true_classes(self, image: int) -> tuple[int, ...]:
        """The true classes of an image; empty if they are not known."""
        return () if self.labels is None else self.labels[image]

    def class_name(self, index: int) -> str:
        """The name of class ``index``, or its number if it has no name."""
        if self.class_names is not None and index < len(self.class_names):
            return self.class_names[index]
        return str(index)


@dataclass(frozen=True, slots=True)
class Header:
    """The metadata of an observation's file; :class:`Observation` explains the fields."""

    step: int
    epoch: Annotated[int, AtLeast(-1)]
    caption: str
    fingerprint: str
    rule: str
    measures: Numbers
    more_rules: tuple[str, ...] = ()  # displayed after `rule`; absent from files with one rule


def encode_run(info: RunInfo) -> bytes:
    """Encode ``info`` as a JSON file."""
    return json_bytes({"schema": SCHEMA, **asdict(info)})


def read_info(path: Place) -> RunInfo:
    """Read the facts that :func:`encode_run` encoded.

    Raises:
        RecordError: The file is missing or damaged, or has another schema.
    """
    data = read_json(path)
    try:
        check_schema(data)
        return decode(RunInfo, data)
    except MISFITS as error:
        raise damaged(path, error) from error
