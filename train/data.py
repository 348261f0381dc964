"""Labelled texts out of the job's channels."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from textmodel.tokenizer import Text
from train.columns import Columns
from train.errors import UserError
from train.hyperparameters import Hyperparameters
from train.job import Channel, Job
from train.progress import progress
from train.readers import ENDINGS, listing, read_rows
from train.world import World

__all__ = ["HELD_OUT", "TRAIN", "Dataset", "Splits", "read_splits"]

log = logging.getLogger(__name__)

# The names of each channel, the usual one first.
TRAIN = ("train", "training")
HELD_OUT = {"validation": ("validation", "eval"), "test": ("test", "testing")}


@dataclass(frozen=True)
class Dataset:
    """Texts and their labels, row by row."""

    texts: Sequence[Text]
    labels: Sequence[tuple[str, ...]]
    """One label a row, or any number of them where the task is multi-label."""
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def pairs(self) -> bool:
        """Whether the texts are pairs; all of them are, or none."""
        return len(self) > 0 and isinstance(self.texts[0], tuple)

    def label_counts(self) -> Counter[str]:
        return Counter(label for labels in self.labels for label in labels)

    def conflicts(self) -> list[Text]:
        """Return the texts that stand in several rows with different labels."""
        first: dict[Text, tuple[str, ...]] = {}
        found: dict[Text, None] = {}
        for text, labels in zip(self.texts, self.labels, strict=True):
            if first.setdefault(text, labels) != labels:
                found[text] = None
        return list(found)


@dataclass(frozen=True)
class Splits:
    """What is learned from, and what the result is measured on, by name."""

    train: Dataset
    held_out: dict[str, Dataset]


def read_splits(job: Job, settings: Hyperparameters, world: World) -> Splits:
    """Read the job's channels, and hold rows out where none is there to measure on.

    Every process of the job returns the same.

    Raises:
        UserError: a channel cannot be read as labelled texts, or has one class only.
    """
    channel = job.channel(*TRAIN)
    if channel is None:
        raise UserError(
            f"there is no channel named {' or '.join(TRAIN)} in {job.root}/input/data "
            f"(channels: {', '.join(job.channel_names()) or 'none'}); "
            "pass the labelled texts as channel train"
        )
    train = _read_channel(channel, settings, world)
    held_out = {
        name: _read_channel(found, settings, world)
        for name, names in HELD_OUT.items()
        if (found := job.channel(*names))
    }
    _check_classes(train)
    if not held_out:
        train, held = _split(train, settings.validation_split, settings.seed)
        held_out = {"validation": held}
        log.info(
            "no validation or test channel: %d of %d rows are held out, stratified by label",
            len(held), len(held) + len(train),
        )  # fmt: skip
    for name, data in held_out.items():
        _compare(name, data, train)
    return Splits(train, held_out)


def _check_classes(train: Dataset) -> None:
    classes = train.label_counts()
    if len(classes) < 2:
        found = f"one class only ({next(iter(classes))!r} in" if classes else "no class (none in"
        raise UserError(
            f"the channel train has {found} all {len(train)} rows); a classifier needs at least two"
        )


def _compare(name: str, data: Dataset, train: Dataset) -> None:
    """Warn of what makes the measurements on held-out rows differ from the truth.

    Raises:
        UserError: the rows have lists of labels, and those of train have not, or the reverse.
    """
    if data.multi_label != train.multi_label:
        kinds = ("one label a row", "lists of labels")
        raise UserError(
            f"the channel {name} has {kinds[data.multi_label]}, the channel train "
            f"{kinds[train.multi_label]}; write them alike"
        )
    if unknown := sorted(data.label_counts().keys() - train.label_counts().keys()):
        log.warning(
            "channel %s: labels that the channel train does not have can only be wrong: %s",
            name, listing(unknown),
        )  # fmt: skip
    learned = set(train.texts)
    if repeated := sum(text in learned for text in data.texts):
        log.warning(
            "channel %s: %d of %d texts are in the channel train too; what was learned by heart "
            "makes the metrics better than they will be",
            name, repeated, len(data),
        )  # fmt: skip


def _read_channel(channel: Channel, settings: Hyperparameters, world: World) -> Dataset:
    """Read a channel; of one that not every process can read whole, share what was read."""
    if world.size > 1 and (channel.sharded or channel.piped):
        reads = world.local_rank == 0 if channel.sharded else world.leads
        part = _attempt(channel, settings) if reads else Dataset([], [])
        data = world.broadcast(_join(channel, world.gather(part)))
        if isinstance(data, UserError):
            raise data
    else:
        data = _read(channel, settings)
    if not len(data):
        source = "its pipe" if channel.piped else str(channel.path)
        raise UserError(
            f"the channel {channel.name} is empty: {source} has no row with a text and a label "
            f"in {', '.join(ENDINGS)} files"
        )
    log.info(
        "channel %s: %d rows, %d labels%s", channel.name, len(data), len(data.label_counts()),
        f", {sum(not labels for labels in data.labels)} rows without any" * data.multi_label,
    )  # fmt: skip
    if conflicts := data.conflicts():
        log.warning(
            "channel %s: %d texts stand in several rows with different labels, such as %.100r",
            channel.name, len(conflicts), conflicts[0],
        )  # fmt: skip
    return data


def _attempt(channel: Channel, settings: Hyperparameters) -> Dataset | UserError:
    """Read this host's part; what is wrong with it must become known on all hosts."""
    try:
        return _read(channel, settings)
    except UserError as error:
        return error


def _join(channel: Channel, parts: Sequence[Dataset | UserError]) -> Dataset | UserError:
    """Put the parts of the hosts together, in the hosts' order."""
    texts: list[Text] = []
    labels: list[tuple[str, ...]] = []
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    kinds = set()
    for part in parts:
        if isinstance(part, UserError):
            return part
        if len(part):
            texts += part.texts
            labels += (known.setdefault(one, one) for one in part.labels)
            kinds.add(part.multi_label)
    if len(kinds) > 1:
        return UserError(
            f"the channel {channel.name} has lists of labels in some files and single ones in "
            "others; write them alike"
        )
    return Dataset(texts, labels, True in kinds)


def _read(channel: Channel, settings: Hyperparameters) -> Dataset:
    """Read what this host has of a channel, which may be nothing."""
    columns = Columns(settings)
    texts: list[Text] = []
    labels: list[tuple[str, ...]] = []
    # Equal labels are one object: of a million rows, that saves most of the memory beside the text.
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    incomplete: list[str] = []
    left_out = 0
    report = progress(log, f"reading channel {channel.name}", unit="rows")
    for where, values in read_rows(channel, settings.encoding, columns.choose):
        text, found = columns.text(values, where), columns.labels(values, where)
        if text and found is not None:
            texts.append(text)
            labels.append(known.setdefault(found, found))
        else:
            left_out += 1
            if len(incomplete) <= 20:  # as many as a message shows, and one more
                incomplete.append(where)
        report(len(texts))
    if left_out:
        log.warning(
            "channel %s: %d rows without text or label are left out: %s",
            channel.name, left_out, listing(incomplete),
        )  # fmt: skip
    return Dataset(texts, labels, bool(columns.multi_label))


def _split(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out about `fraction` of each label's texts; equal texts stay on one side.

    A row with several labels counts for the rarest of them, so that each has its part.
    """
    first_row: dict[Text, int] = {}
    repeats: dict[int, list[int]] = defaultdict(list)
    for row, text in enumerate(data.texts):
        if (first := first_row.setdefault(text, row)) != row:
            repeats[first].append(row)
    left = data.label_counts()
    strata: dict[str, list[int]] = defaultdict(list)
    for first in first_row.values():
        strata[min(data.labels[first], key=left.__getitem__, default="")].append(first)
    generator = random.Random(seed)
    held: set[int] = set()
    for texts in strata.values():
        generator.shuffle(texts)
        wanted = max(1, round(len(texts) * fraction))
        for first in texts:
            rows = [first, *repeats.get(first, ())]
            taken = Counter(label for row in rows for label in data.labels[row])
            # The last text of a label stays in training: what is not learned need not be measured.
            if wanted and all(left[label] > count for label, count in taken.items()):
                left.subtract(taken)
                held.update(rows)
                wanted -= 1
    if not held:
        raise UserError(
            f"{len(data)} rows are too few to hold some out: each label has one text only. "
            "Add rows, or pass a validation channel"
        )
    kept = [row for row in range(len(data)) if row not in held]
    return _pick(data, kept), _pick(data, sorted(held))


def _pick(data: Dataset, rows: Sequence[int]) -> Dataset:
    return Dataset(
        [data.texts[row] for row in rows], [data.labels[row] for row in rows], data.multi_label
    )
