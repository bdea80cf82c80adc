"""Where pictures go: the files of real loggers read back, and names that try to escape."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matrix import Held, Shapes, Touchy
from PIL import Image
from pytorch_lightning.loggers import (
    CSVLogger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from torch.utils.tensorboard import SummaryWriter
from training import HOSTILE, callback, fit, loader, one_image, pictures, steps

from lightning_saliency import ProbeBatch, SaliencyError
from lightning_saliency.callback import loggers as ours
from lightning_saliency.draw.colours import Picture

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

FILES_AT = "No logger of this trainer takes pictures: the maps are PNG files in "
IMAGE = "image 0 · class 0"


def named(*names: str) -> ProbeBatch:
    """A probe with one image per name."""
    images = Shapes(16, augment=False).images[: len(names)]
    return ProbeBatch(images, torch.arange(len(names)) % 4, names=names)


@pytest.fixture
def drawn(monkeypatch) -> dict[tuple[str, int], Picture]:
    """Keeps every picture that it is given, by tag and step."""
    kept: dict[tuple[str, int], Picture] = {}
    add = ours.PictureLog.add

    def noted(self: Any, tag: str, picture: Picture, step: int) -> None:
        kept[tag, step] = picture
        add(self, tag, picture, step)

    monkeypatch.setattr(ours.PictureLog, "add", noted)
    return kept


def files(folder: Path, suffix: str = ".png") -> list[str]:
    found = (path for path in folder.rglob("*" + suffix) if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def same(path_or_bytes: Any, picture: Picture) -> bool:
    image = Image.open(
        io.BytesIO(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes
    )
    return np.array_equal(np.asarray(image.convert("RGB")), picture)


# --- TensorBoard


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_tensorboard_holds_the_very_bytes_that_were_encoded(image_format, drawn, tmp_path):
    """`add_image` would convert them to floating point and encode them a second time."""
    fit(tmp_path, callback(image_format=image_format), max_epochs=1)
    logged = pictures(tmp_path)
    assert {(tag, step) for tag in logged for step in logged[tag]} == set(drawn)
    for (tag, step), picture in drawn.items():
        assert logged[tag][step] == ours.encode(picture, image_format)


def test_tensorboard_is_told_the_size_of_a_picture(drawn, tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    fit(tmp_path, callback(), max_epochs=1)
    (path,) = tmp_path.glob("events*")
    seen = 0
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if (value.tag, event.step) in drawn and value.tag.startswith("saliency/"):
                # The loader turns an image into a tensor of width, height and the encoded bytes.
                width, height, _ = value.tensor.string_val
                picture = drawn[value.tag, event.step]
                assert (int(height), int(width)) == picture.shape[:2]
                seen += 1
    assert seen == 2


def test_a_writer_without_the_private_method_is_served_by_its_public_one(
    drawn, monkeypatch, tmp_path
):
    monkeypatch.delattr(SummaryWriter, "_get_file_writer")

    def add_scalars_no_more(*_: Any, **__: Any) -> None:
        """Do nothing: the writer's own method goes through the one that was removed."""

    class Writer:
        """A writer as of another package, which takes images by the documented method."""

        def __init__(self) -> None:
            self.images: dict[tuple[str, int], Any] = {}

        def add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
            assert dataformats == "HWC"
            self.images[tag, step] = image

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return add_scalars_no_more

    class Other(TensorBoardLogger):
        writer = Writer()

        @property
        def experiment(self) -> Any:
            return self.writer

    logger = Other(tmp_path, name="", version="")
    fit(tmp_path, callback(), logger=logger, max_epochs=1)
    assert logger.writer.images.keys() == drawn.keys()
    for key, picture in drawn.items():
        assert np.array_equal(logger.writer.images[key], picture)


def test_a_writer_that_only_looks_like_torch_s_is_served_by_its_public_method(tmp_path):
    """`tensorboardX`, the fallback of Lightning, has a private method of the same name."""
    calls: list[str] = []

    class SummaryWriterOfAnother:
        def _get_file_writer(self) -> Any:
            raise AssertionError("its events are of another kind")

        def add_image(self, tag: str, *_: Any, dataformats: str) -> None:
            calls.append(tag)

    class TensorBoardLogger:  # the name by which a logger is recognised
        experiment = SummaryWriterOfAnother()

    log = ours.PictureLog([TensorBoardLogger()], tmp_path, "jpeg")
    log.add("saliency/x", np.zeros((4, 4, 3), np.uint8), 0)
    assert calls == ["saliency/x"]
    assert log.files_at is None


# --- several, none, others


def test_every_logger_that_takes_pictures_gets_them(tmp_path, drawn):
    both = [TensorBoardLogger(tmp_path, name=name, version="") for name in ("a", "b")]
    fit(tmp_path, callback(), logger=[*both, CSVLogger(tmp_path, name="c")], max_epochs=1)
    first, second = pictures(tmp_path / "a"), pictures(tmp_path / "b")
    assert first == second
    assert sum(map(len, first.values())) == len(drawn) == 3
    # One logger took the pictures, so there are no files.
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("logger", "folder"),
    [
        pytest.param(lambda f: CSVLogger(f), "lightning_logs/version_0", id="csv"),
        pytest.param(lambda f: CSVLogger(f, name="run", version="x"), "run/x", id="csv-with-names"),
        pytest.param(lambda f: False, "saliency_logs/version_0", id="none"),
    ],
)
def test_without_a_logger_that_takes_them_pictures_are_files(
    logger, folder, drawn, tmp_path, caplog
):
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        fit(tmp_path, callback(), logger=logger(tmp_path))
    assert files(tmp_path) == [
        f"{folder}/saliency/{IMAGE}/00000000.png",
        f"{folder}/saliency/{IMAGE}/00000004.png",
        f"{folder}/saliency/{IMAGE}/00000009.png",
        f"{folder}/saliency_filmstrip/{IMAGE}/00000009.png",
    ]
    for (tag, step), picture in drawn.items():
        assert same(tmp_path / folder / tag / f"{step:08d}.png", picture)
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("No logger of")]
    assert told == [FILES_AT + str(tmp_path / folder / "saliency")]
    assert files(tmp_path, ".part") == []


def test_a_logger_of_another_kind_that_has_no_folder_leaves_files(tmp_path, drawn, caplog):
    """A user's logger for a database or a service, which needs no folder."""
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        fit(tmp_path, callback(), logger=Held(), max_epochs=1)
    assert len(files(tmp_path)) == len(drawn) == 3
    assert any(r.getMessage().startswith(FILES_AT) for r in caplog.records)


@pytest.mark.parametrize(
    "logger",
    [
        pytest.param(lambda _: False, id="none"),
        pytest.param(lambda folder: CSVLogger(folder), id="csv"),
        pytest.param(lambda folder: Elsewhere(folder), id="other"),
        pytest.param(lambda folder: Uncounted(folder), id="other-that-does-not-count"),
    ],
)
def test_two_runs_do_not_mix(logger, tmp_path):
    for _ in range(2):
        fit(tmp_path, callback(), logger=logger(tmp_path), max_epochs=1)
    runs = {Path(path).parents[2] for path in files(tmp_path)}  # above tag, image and step
    assert len(files(tmp_path)) == 2 * 3
    assert len(runs) == 2


class Elsewhere(Held):
    """A service that counts its runs and keeps all local files in one folder."""

    runs = 0

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        Elsewhere.runs += 1
        self.version = f"version {Elsewhere.runs}"

    @property
    def save_dir(self) -> str:
        return str(self.folder)


class Uncounted(Elsewhere):
    """Loggers of Lightning may lack a version."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.version = None


@pytest.mark.parametrize("at_start", [True, False])
def test_two_callbacks_of_one_run_leave_their_files_in_one_folder(at_start, tmp_path):
    both = [callback(name=name, at_start=at_start) for name in ("first", "second")]
    fit(tmp_path, *both, logger=False, max_epochs=1)
    assert {path.split("/")[1] for path in files(tmp_path)} == {"version_0"}


def test_what_is_seen_after_training_joins_the_files_of_the_run(tmp_path):
    module = Touchy()
    trainer = fit(tmp_path, callback(), module=module, logger=False, max_epochs=1)
    trainer.validate(module, loader(16), verbose=False)
    assert {path.split("/")[1] for path in files(tmp_path)} == {"version_0"}


def test_the_line_that_says_where_names_a_folder_that_is_there(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        fit(tmp_path, callback(name="maps: guided"), logger=False, max_epochs=1)
    (told,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith(FILES_AT)]
    assert Path(told.removeprefix(FILES_AT)).is_dir()


# --- services, offline


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """Keep W&B within the folder of the test, and silent."""
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb_own"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")


@pytest.fixture
def wandb_logger(offline, tmp_path) -> Iterator[WandbLogger]:
    (tmp_path / "wandb_own").mkdir()
    logger = WandbLogger(save_dir=tmp_path / "log", offline=True, project="p")
    yield logger
    logger.experiment.finish()


def test_wandb_keeps_the_pictures_of_an_offline_run(wandb_logger, drawn, tmp_path):
    fit(tmp_path, callback(), logger=wandb_logger)
    media = next(iter((tmp_path / "log").glob("wandb/offline-run-*/files/media/images")))
    found = files(media)
    assert len(found) == len(drawn) == 4
    assert all(
        path.startswith((f"saliency/{IMAGE}_", f"saliency_filmstrip/{IMAGE}_")) for path in found
    )
    for picture in drawn.values():
        assert any(same(media / path, picture) for path in found)


def outside(folder: Path, root: Path) -> list[str]:
    """Files under ``root`` that are not under ``folder``."""
    return [
        p for p in files(root, "") if not p.startswith(folder.relative_to(root).as_posix() + "/")
    ]


def test_wandb_gets_no_path_from_a_name(wandb_logger, tmp_path):
    fit(tmp_path, callback(probe=named(*HOSTILE[:5])), logger=wandb_logger, max_epochs=1)
    media = next(iter((tmp_path / "log").glob("wandb/offline-run-*/files/media/images")))
    found = files(media)
    assert len(found) == 5 * 3
    # The tag is a folder, the image a file, and no name has a line break.
    assert all(path.count("/") == 1 and "\n" not in path for path in found), found


def test_wandb_takes_a_long_name(wandb_logger, tmp_path):
    fit(tmp_path, callback(probe=named("x" * 300)), logger=wandb_logger, max_epochs=1)
    assert len(files(tmp_path / "log")) == 3


@pytest.fixture
def mlflow_logger(tmp_path) -> MLFlowLogger:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MLFlowLogger(
        "experiment",
        tracking_uri=f"sqlite:///{folder}/runs.sqlite",
        artifact_location=(folder / "artifacts").as_uri(),
    )


def test_mlflow_keeps_the_pictures_and_gives_them_back(mlflow_logger, drawn, tmp_path):
    fit(tmp_path, callback(), logger=mlflow_logger)
    client, run = mlflow_logger.experiment, mlflow_logger.run_id
    listed = [f.path for f in client.list_artifacts(run, "images") if f.path.endswith(".png")]
    assert len(listed) == len(drawn) == 4
    fetched = [client.download_artifacts(run, path, str(tmp_path)) for path in listed]
    for (tag, step), picture in drawn.items():
        prefix = tag.split("/")[0] + "~"
        at = [p for p in fetched if Path(p).name.startswith(prefix) and f"+step+{step}+" in p]
        assert len(at) == 1
        assert same(at[0], picture)
    assert client.get_metric_history(run, "val_acc")


def test_mlflow_takes_any_name(mlflow_logger, tmp_path):
    observer = callback(probe=named(*HOSTILE), record=False)
    fit(tmp_path, observer, logger=mlflow_logger, max_epochs=1)
    found = files(tmp_path / "mlflow" / "artifacts")
    assert len(found) == len(HOSTILE) * 3
    assert outside(tmp_path / "mlflow", tmp_path) == []


# --- names as paths


def test_names_from_data_never_leave_the_folder(tmp_path):
    folder = tmp_path / "a" / "b" / "c" / "d"
    class_names = ["../../../../class", "cl/ass", "😀", "y" * 300]
    probe = named(*HOSTILE)
    probe = ProbeBatch(probe.images, probe.labels, names=HOSTILE, class_names=class_names)
    fit(folder, callback(probe=probe, targets="all"), logger=False, max_epochs=1)
    found = files(folder / "saliency_logs" / "version_0")
    assert outside(folder / "saliency_logs" / "version_0", tmp_path) == []
    assert len(found) == len(HOSTILE) * 3
    assert all(path.count("/") == 2 for path in found)  # tag, image, step
    assert all(
        len(part.encode()) <= 255 and "\n" not in part for p in found for part in p.split("/")
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/b", "a_b"), ("x" * 300, "x" * 299 + "y"), ("a:b", "a?b"), ("..", "."), (" a", "a")],
)
def test_different_names_stay_different_files(first, second, tmp_path):
    fit(tmp_path, callback(probe=named(first, second)), logger=False, max_epochs=1)
    assert len(files(tmp_path)) == 2 * 3


@pytest.mark.parametrize("letter", ["字", "𝔘"], ids=["three-bytes", "four-bytes"])
def test_long_names_of_long_letters_are_files_too(letter, tmp_path):
    """File systems count bytes, and these letters have three or four."""
    fit(tmp_path, callback(probe=named(letter * 100)), logger=False, max_epochs=1)
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize(
    "class_name",
    ["line\nbreak", "😀 smile", "x" * 300, "tab\there", "‮right to left", "zero\0byte", " "],
    ids=["line-break", "emoji", "long", "tab", "bidi", "nul", "blank"],
)
def test_class_names_of_any_kind_are_drawn(class_name, drawn, tmp_path):
    names = [class_name, "b", "c", "d"]
    probe = one_image(class_names=names)
    fit(tmp_path, callback(probe=probe, targets="all", tile_size=96), max_epochs=1)
    assert steps(tmp_path) == [0, 4]
    for picture in drawn.values():
        # Two columns of 96 pixels need no more than the width of a screen.
        assert picture.shape[1] <= 800


def test_a_name_that_is_no_text_is_refused_by_the_probe():
    """As a file name in another encoding is decoded; TensorBoard could not write it."""
    with pytest.raises(ValueError, match=r"`names` must .*'bad.{1,8}name'"):
        ProbeBatch(torch.zeros(1, 1, 4, 4), names=["bad\udcffname"])


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_pictures_of_a_great_many_classes_can_be_logged(image_format, tmp_path):
    """JPEG allows 65,500 pixels; a film strip of all ImageNet classes is higher."""
    from lightning_saliency.draw.mosaics import MosaicRenderer
    from lightning_saliency.record.observation import Snapshot

    classes = 1000
    renderer = MosaicRenderer(one_image(), style="signed", scale="map", size=96)
    snapshot = Snapshot(
        step=0,
        caption="untrained",
        targets=torch.arange(classes)[None],
        probabilities=torch.full((1, classes), 1e-3),
        predicted=torch.tensor([0]),
        maps={"gradient": torch.zeros(1, classes, 12, 12).half()},
        peaks={"gradient": torch.ones(1, classes)},
    )
    strip = renderer.filmstrip([snapshot], 0)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    ours.PictureLog([logger], tmp_path, image_format).add("strip", strip, 0)
    logger.finalize("success")
    (encoded,) = pictures(tmp_path)["strip"].values()
    assert Image.open(io.BytesIO(encoded)).height > 65_500


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    blocked = tmp_path / "saliency_logs"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(
        SaliencyError, match=r"observing the model \(untrained\) failed: .*saliency_l"
    ):
        fit(tmp_path, callback(), logger=False, max_epochs=1)
