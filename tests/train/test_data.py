from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.train.reading import GOOD, Files, Reader, json_lines, ones
from tests.train.trees import REPOSITORY, as_csv, make_tree, messages
from train.data import HELD_OUT, Dataset
from train.errors import UserError
from train.world import World


def test_missing_channel_is_refused_with_those_that_exist(read: Reader) -> None:
    with pytest.raises(UserError, match=r"no channel named train or training.*channels: test"):
        read.splits({"test": GOOD})


def test_job_without_channels_is_refused(read: Reader) -> None:
    with pytest.raises(UserError, match="channels: none"):
        read.splits({})


@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_both_file_modes_are_read(read: Reader, mode: str) -> None:
    assert len(read.train(GOOD, inputs={"train": {"TrainingInputMode": mode}})) == 4


@pytest.mark.parametrize(
    "files",
    [{}, {"data.csv": ""}, {"data.csv": "text,label\n"}, {"data.jsonl": "\n\n"},
     {"data.csv": "text,label\n ,1\nfire,\n"}, {"_SUCCESS": "", ".hidden.csv": GOOD}],
)  # fmt: skip
def test_channel_without_rows_is_refused_as_empty(read: Reader, files: Files) -> None:
    assert read.error(files).startswith("the channel train is empty")


def test_empty_file_beside_a_full_one_is_no_fault(read: Reader) -> None:
    assert len(read.train({"a.csv": "", "b.csv": GOOD, "c.csv": "text,label\n"})) == 4


def test_one_class_only_is_refused_with_its_name(read: Reader) -> None:
    message = read.error("text,label\na,x\nb,x\n")
    assert message.startswith("the channel train has one class only ('x' in all 2 rows)")


def test_rows_without_text_or_label_are_left_out_and_told(
    read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(read.train(GOOD + ",1\n   ,0\nfire,\n")) == 4
    assert "3 rows without text or label are left out: data.csv line 6, data.csv" in caplog.text


@pytest.mark.parametrize("name", ["train", "training"])
def test_both_names_of_the_training_channel_are_read(read: Reader, name: str) -> None:
    assert len(read.splits({name: GOOD, "test": GOOD}).train) == 4


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for split, names in HELD_OUT.items() for name in names]
)
def test_every_name_of_a_held_out_channel_is_read(read: Reader, name: str, split: str) -> None:
    splits = read.splits({"train": GOOD, name: GOOD})
    assert list(splits.held_out) == [split]
    assert len(splits.train) == 4


def test_labels_of_the_test_channel_that_train_lacks_are_told(
    read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    splits = read.splits({"train": GOOD, "test": "text,label\na,2\nb,1\n"})
    assert splits.held_out["test"].labels == ones("2", "1")
    assert "channel test: labels that the channel train does not have" in caplog.text


def rows(*counts: tuple[str, int]) -> list[list[str]]:
    return [[f"{label} {number}", label] for label, count in counts for number in range(count)]


def split(read: Reader, data: list[list[str]], **hyperparameters: Any) -> tuple[Dataset, Dataset]:
    splits = read.splits({"train": as_csv(data)}, **hyperparameters)
    return splits.train, splits.held_out["validation"]


def test_held_out_rows_are_stratified(read: Reader) -> None:
    train, held = split(
        read, rows(("a", 100), ("b", 20), ("c", 2), ("d", 1)), validation_split="0.2"
    )
    assert held.label_counts() == {"a": 20, "b": 4, "c": 1}
    assert train.label_counts() == {"a": 80, "b": 16, "c": 1, "d": 1}


def test_every_row_is_on_exactly_one_side(read: Reader) -> None:
    data = messages(0, 200)
    train, held = split(read, data)
    assert sorted(map(str, (*train.texts, *held.texts))) == sorted(text for text, _ in data)


def test_equal_texts_stay_on_one_side(read: Reader) -> None:
    train, held = split(read, rows(("a", 40), ("b", 40)) * 3, validation_split="0.5")
    assert not set(train.texts) & set(held.texts)
    assert len(held) == 120


def test_no_label_is_held_out_altogether(read: Reader) -> None:
    data = [*rows(("a", 10), ("b", 10)), ["a 3", "rare"], ["b 4", "rarer"]]
    for seed in range(10):
        train, _ = split(Reader(read.root / str(seed)), data, validation_split="0.9", seed=seed)
        assert train.label_counts().keys() == {"a", "b", "rare", "rarer"}


def test_seed_decides_what_is_held_out(read: Reader) -> None:
    held = [
        split(Reader(read.root / str(run)), rows(("a", 50), ("b", 50)), seed=seed)[1].texts
        for run, seed in enumerate((1, 1, 2))
    ]
    assert held[0] == held[1] != held[2]


def test_rows_of_which_none_can_be_spared_are_refused(read: Reader) -> None:
    with pytest.raises(UserError, match="2 rows are too few to hold some out"):
        read.splits({"train": as_csv(rows(("a", 1), ("b", 1)))})


def tagged(*rows: tuple[str, list[str]]) -> dict[str, str | bytes]:
    return json_lines(*({"text": text, "label": labels} for text, labels in rows))


def test_each_label_of_a_multi_label_task_is_held_out_in_part(read: Reader) -> None:
    rows = [(f"often {n}", ["often"]) for n in range(100)]
    rows += [(f"both {n}", ["often", "seldom"]) for n in range(20)]
    rows += [(f"none {n}", []) for n in range(50)]
    splits = read.splits({"train": tagged(*rows)}, validation_split=0.2)
    held = splits.held_out["validation"]
    assert held.multi_label
    assert Counter(held.labels) == {("often",): 20, ("often", "seldom"): 4, (): 10}


def test_last_text_of_a_label_is_learned_beside_whatever_other_label(read: Reader) -> None:
    rows = [(f"text {n}", ["a", "b"] if n % 2 else ["a", f"rare {n}"]) for n in range(40)]
    for seed in range(5):
        splits = Reader(read.root / str(seed)).splits(
            {"train": tagged(*rows)}, validation_split=0.9, seed=seed
        )
        assert len(splits.train.label_counts()) == 22


def test_equal_texts_of_a_multi_label_task_stay_on_one_side(read: Reader) -> None:
    rows = [(f"text {n % 30}", ["a", "b"][: n % 3]) for n in range(90)]
    splits = read.splits({"train": tagged(*rows)}, validation_split=0.5)
    assert not set(splits.train.texts) & set(splits.held_out["validation"].texts)


def test_equal_pairs_stay_on_one_side(read: Reader) -> None:
    content = "text,pair,label\n" + "".join(f"t{n % 20},p{n % 40},{n % 2}\n" for n in range(200))
    splits = read.splits({"train": content}, text_pair_column="pair", validation_split=0.3)
    held = splits.held_out["validation"]
    assert len(held) == 60
    assert not set(splits.train.texts) & set(held.texts)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([["x"], ["x"], []], r"one class only \('x' in all 3 rows\)"), ([[], []], "has no class")],
)
def test_multi_label_channel_with_less_than_two_labels_is_refused(
    read: Reader, labels: list[list[str]], message: str
) -> None:
    files = tagged(*((f"text {n}", one) for n, one in enumerate(labels)))
    with pytest.raises(UserError, match=message):
        read.splits({"train": files, "test": files})


def test_channels_with_and_without_lists_are_refused_together(read: Reader) -> None:
    files = tagged(("x", ["a"]), ("y", ["b"]))
    with pytest.raises(UserError, match=r"channel test has one label a row, the channel train li"):
        read.splits({"train": files, "test": GOOD})


def test_rows_without_any_label_are_told(read: Reader, caplog: pytest.LogCaptureFixture) -> None:
    read.train(tagged(("x", ["a"]), ("y", ["b"]), ("z", [])))
    assert "channel train: 3 rows, 2 labels, 1 rows without any" in caplog.text


def test_texts_with_different_labels_are_told_once(
    read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    data = read.splits({"train": GOOD + "fire,0\nfire,2\nfun,0\nflood,0\n", "test": GOOD}).train
    assert data.conflicts() == ["fire", "flood"]
    assert (
        "channel train: 2 texts stand in several rows with different labels, such as 'fire'"
        in caplog.text
    )
    assert caplog.text.count("different labels") == 1


def test_order_of_labels_is_no_conflict(read: Reader) -> None:
    assert not read.train(tagged(("x", ["a", "b"]), ("x", ["b", "a"]))).conflicts()


def test_test_texts_that_are_learned_are_told(
    read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    read.splits({"train": GOOD, "test": "text,label\nfire,1\nfire,1\nnew,0\n"})
    assert "channel test: 2 of 3 texts are in the channel train too" in caplog.text


def test_equal_labels_are_one_object(read: Reader) -> None:
    data = read.train(tagged(*((f"text {n}", ["a", "b"][: n % 3]) for n in range(100))))
    assert len({id(labels) for labels in data.labels}) == 3


@dataclass(frozen=True)
class OtherHosts(World):
    """A world whose other processes have already said what they have to say."""

    parts: list[Any] = field(default_factory=list)
    result: Any = None

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.parts] if self.leads else []

    def broadcast(self, value: Any) -> Any:
        return value if self.leads else self.result


SHARDED = {name: {"S3DistributionType": "ShardedByS3Key"} for name in ("train", "test")}
PIPED = {"train": {"TrainingInputMode": "Pipe"}}
PART = Dataset(["frost", "fair"], ones("1", "0"))
NOTHING = Dataset([], [])


def test_parts_of_a_sharded_channel_are_joined_in_the_order_of_hosts(read: Reader) -> None:
    world = OtherHosts(rank=0, size=3, parts=[NOTHING, PART])
    data = read.splits({"train": GOOD, "test": GOOD}, world, inputs=SHARDED).train
    assert data.texts == ["fire", "flood", "fine", "fun", "frost", "fair"]
    assert data.labels == ones("1", "1", "0", "0", "1", "0")
    assert len({id(labels) for labels in data.labels}) == 2


@pytest.mark.parametrize("files", [{}, {"empty.csv": ""}, {"header.csv": "text,label\n"}])
def test_host_with_an_empty_part_has_the_others(read: Reader, files: Files) -> None:
    world = OtherHosts(rank=0, size=2, parts=[PART])
    splits = read.splits({"train": files, "test": files}, world, inputs=SHARDED)
    assert splits.train == PART


def test_host_without_a_directory_has_the_others(read: Reader) -> None:
    world = OtherHosts(rank=0, size=2, parts=[PART])
    assert read.splits({}, world, inputs=SHARDED).train == PART


def test_sharded_channel_is_empty_only_where_all_parts_are(read: Reader) -> None:
    with pytest.raises(UserError, match="the channel train is empty"):
        read.splits({}, OtherHosts(rank=0, size=2, parts=[NOTHING]), inputs=SHARDED)


def test_fault_in_another_hosts_part_is_the_fault_of_all(read: Reader) -> None:
    world = OtherHosts(rank=0, size=2, parts=[UserError("b.csv line 7: broken")])
    with pytest.raises(UserError, match=r"b\.csv line 7: broken"):
        read.splits({"train": GOOD}, world, inputs=SHARDED)


def test_parts_with_and_without_lists_are_refused(read: Reader) -> None:
    world = OtherHosts(rank=0, size=2, parts=[Dataset(["x"], [("a", "b")], multi_label=True)])
    with pytest.raises(UserError, match="lists of labels in some files and single ones in others"):
        read.splits({"train": GOOD}, world, inputs=SHARDED)


@pytest.mark.parametrize("inputs", [SHARDED, PIPED | {"test": {"TrainingInputMode": "Pipe"}}])
def test_other_processes_read_nothing_and_get_it_all(read: Reader, inputs: Any) -> None:
    broken = {} if inputs is not SHARDED else {"train": "broken", "test": "broken"}
    world = OtherHosts(rank=3, size=4, local_rank=1, result=PART)
    assert read.splits(broken, world, inputs=inputs).train == PART


def test_channel_that_every_host_has_is_read_by_every_process(read: Reader) -> None:
    world = OtherHosts(rank=3, size=4, local_rank=1)
    assert len(read.splits({"train": GOOD, "test": GOOD}, world).train) == 4


def test_hosts_hold_the_same_rows_out_of_what_they_share(tmp_path: Path) -> None:
    """Two real processes, as on two hosts."""
    program = (
        "import hashlib, json, sys\n"
        "from pathlib import Path\n"
        "from train.data import read_splits\n"
        "from train.hyperparameters import parse\n"
        "from train.job import Job\n"
        "from train.world import World\n"
        "world = World.join()\n"
        "splits = read_splits(Job(Path(sys.argv[1])), parse({}), world)\n"
        "held = splits.held_out['validation']\n"
        "rows = [splits.train.texts, splits.train.labels, held.texts, held.labels]\n"
        "print(len(splits.train), len(held), splits.train.texts[0],"
        " hashlib.sha256(json.dumps(rows).encode()).hexdigest())\n"
        "world.leave()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank, part in enumerate((messages(0, 60), messages(60, 100))):
        files: Files = {"part.csv.gz": gzip.compress(as_csv(part).encode())}
        inputs = {"train": SHARDED["train"]}
        root = make_tree(tmp_path / str(rank), {"train": files}, inputs=inputs)
        environment = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", program, str(root)],
                cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE,
            )
        )  # fmt: skip
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    rows, held, *_ = outputs[0].split()
    assert int(rows) + int(held) == 100
