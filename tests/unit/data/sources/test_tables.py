"""Tables of labels, partitions and identities: every form is read, every fault has its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facevae.data.sources.tables import read_identities, read_label_table, read_partition
from facevae.errors import UserError

CELEBA = "3\nSmiling Male\na.jpg  1 -1\nb.jpg -1 -1\nc.jpg -1  1\n"
KAGGLE = "image_id,Smiling,Male\na.jpg,1,-1\nb.jpg,-1,-1\nc.jpg,-1,1\n"
LABELS = [[1, -1], [-1, -1], [-1, 1]]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- label tables --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        CELEBA,
        KAGGLE,
        CELEBA.replace("\n", "\r\n"),
        KAGGLE.replace("\n", "\r\n"),
        "\ufeff" + KAGGLE,  # as Excel saves it
        CELEBA + "\n\n",
        KAGGLE + ",,\n",
        CELEBA.replace("  ", "\t"),
        KAGGLE.replace(",", ", "),
        KAGGLE.replace("a.jpg", '"a.jpg"'),
        CELEBA.replace("Male\n", "Male \n"),
        CELEBA.replace("3", "3 ", 1),
        KAGGLE.replace("Male\n", "Male \n"),
        KAGGLE.replace("Smiling", "Smiling\t"),
        KAGGLE.replace("\n", " \n").replace("jpg", "jpg "),
        KAGGLE.replace("1", "1.0"),  # as pandas saves a column that had a hole
    ],
)
def test_celeba_text_and_csv_say_the_same(write: Callable[..., str], text: str) -> None:
    table = read_label_table(write(text))
    assert table.names == ("Smiling", "Male")
    assert table.image_ids == ("a.jpg", "b.jpg", "c.jpg")
    assert table.labels.dtype == np.int8
    np.testing.assert_array_equal(table.labels, LABELS)


@pytest.mark.parametrize("attributes", [1, 2, 41, 300])
def test_any_number_of_attributes(write: Callable[..., str], attributes: int) -> None:
    labels = np.random.default_rng(0).integers(-1, 2, (50, attributes))
    rows = [f"{i}.png " + " ".join(map(str, row)) for i, row in enumerate(labels.tolist())]
    names = " ".join(f"attribute_{i}" for i in range(attributes))
    table = read_label_table(write("\n".join(["50", names, *rows])))
    assert len(table.names) == attributes
    np.testing.assert_array_equal(table.labels, labels)


@pytest.mark.parametrize(
    ("text", "encoding", "labels"),
    [
        ("2\nA B\nx 1 0\ny -1 1\n", "auto", [[1, 0], [-1, 1]]),
        ("2\nA B\nx 1 0\ny -1 1\n", "signed", [[1, 0], [-1, 1]]),
        ("2\nA B\nx 1 0\ny 0 1\n", "signed", [[1, 0], [0, 1]]),
        ("2\nA B\nx 1 0\ny 0 1\n", "binary", [[1, -1], [-1, 1]]),
        ("2\nA B\nx 1 1\ny 1 1\n", "auto", [[1, 1], [1, 1]]),
    ],
)
def test_what_zero_means(
    write: Callable[..., str], text: str, encoding: Any, labels: list[list[int]]
) -> None:
    found = read_label_table(write(text), encoding).labels
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("text", ["2\nA B\nx 1 0\ny 0 1\n", "i,A\nx,0\ny,1\n", "i,A\nx,0\n"])
def test_zero_and_one_alone_are_ambiguous(write: Callable[..., str], text: str) -> None:
    with pytest.raises(UserError) as error:
        read_label_table(write(text))
    assert "--sharding.label_encoding binary (absent) or signed (unknown)" in one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        CELEBA.replace("Smiling Male\n", ""),
        KAGGLE.split("\n", 1)[1],
        "2\na.jpg 1\nb.jpg -1\n",
        "a.jpg,0\nb.jpg,1\n",
        "1\na.jpg 1.0 -1.0 0 0 1\n",
    ],
)
def test_a_table_that_lacks_its_line_of_names_is_told_so(
    write: Callable[..., str], text: str
) -> None:
    line = 1 if "," in text else 2
    with pytest.raises(UserError) as error:
        read_label_table(write(text))
    assert (
        f"line {line}: expected the attributes' names, found the labels of 'a.jpg': put a line "
        "with the names of the attributes above it"
    ) in one_line(error)


@pytest.mark.parametrize("names", ["1 0", "0 1 -1", "one 1 two", "7 8"])
def test_an_attribute_may_be_called_by_a_number(write: Callable[..., str], names: str) -> None:
    row = " ".join("1" for _ in names.split())
    assert read_label_table(write(f"1\n{names}\na.jpg {row}\n")).names == tuple(names.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (b"\xff\xd8\xff\xe0 JFIF", "is not UTF-8 text"),
        (CELEBA.encode("utf-16"), "is not UTF-8 text"),
        (b"PK\x03\x04\x00\x00", "zero bytes"),
        (
            CELEBA.replace("3", "4", 1),
            r"line 1: says 4 rows, found 3, the last in line 5: is the file cut short\? If the "
            "rows are right, write 3",
        ),
        (
            CELEBA.replace("3", "2", 1),
            "line 1: says 2 rows, found 3, the last in line 5: if the rows are right, write 3",
        ),
        ("2\nSmiling\n", "line 1: says 2 rows, found 0: is the file cut short"),
        ("9\nSmiling\na.jpg 1\n\nb.jpg 1\n", "line 1: says 9 rows, found 2, the last in line 5"),
        (CELEBA.replace("3", "three", 1), "line 1: expected a row count .* found 'three'"),
        (CELEBA[2:], "line 1: expected a row count or a header with commas, found 'Smiling Male'"),
        ("Smiling;Male\na;1;1\n", "line 1: .* found 'Smiling;Male': .* separate .* by commas"),
        (
            KAGGLE.replace("Male\n", "Male,\n"),
            "line 1: .* found none in column 4: name that column",
        ),
        (KAGGLE.replace("Male\n", "Male, \n"), "line 1: .* found none in column 4"),
        (KAGGLE.replace("Smiling", ""), "line 1: .* found none in column 2: .* take its comma out"),
        (KAGGLE.replace("\n", ",\n"), "line 1: .* found none in column 4"),
        ("3\n" + KAGGLE, "line 2: .* found commas: a CSV has no row count .* take line 1 out"),
        (
            CELEBA.replace("Smiling", "image_id Smiling"),
            "line 3: expected 3 labels, found 2; line 2 names 3 attributes",
        ),
        ("3\n", "line 2: expected the attributes' names, found none$"),
        ("1\n\na.jpg 1\n", "line 2: expected the attributes' names"),
        ("image_id,\na.jpg,1\n", "line 1: expected the attributes' names"),
        ("0\nSmiling Male\n", "no rows"),
        ("image_id,Smiling\n", "no rows"),
        (CELEBA.replace("Male", "Smiling"), "line 2: the attribute 'Smiling' is named twice"),
        (CELEBA.replace("b.jpg -1 -1", "b.jpg -1"), "line 4: expected 2 labels, found 1"),
        (CELEBA.replace("b.jpg -1 -1", "b.jpg -1 -1 1"), "line 4: expected 2 labels, found 3"),
        (KAGGLE.replace("c.jpg,-1", "c.jpg"), "line 4: expected 2 labels, found 1"),
        (CELEBA.replace("  1", "  2"), "line 3: expected labels -1, 0 or 1, found '2'"),
        (KAGGLE.replace("c.jpg,-1", "c.jpg,"), "line 4: expected labels -1, 0 or 1, found ''"),
        (KAGGLE.replace("c.jpg,-1", "c.jpg,yes"), "line 4: .* found 'yes'"),
        (CELEBA.replace("c.jpg", "a.jpg"), "line 5: 'a.jpg' .* already, in line 3: take one out"),
        (KAGGLE.replace("c.jpg", "a.jpg"), "line 4: 'a.jpg' has a row already, in line 2"),
        (KAGGLE + '"' + "x" * 200_000, "line 5: field larger than field limit"),
    ],
)
def test_faulty_label_tables_name_file_and_line(
    write: Callable[..., str], content: str | bytes, message: str
) -> None:
    path = write(content)
    with pytest.raises(UserError, match=message) as error:
        read_label_table(path)
    assert one_line(error).startswith(path)


LANDMARKS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y"
BOXES = "x_1 y_1 width height"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"image_id,{LANDMARKS.replace(' ', ',')}\n1.jpg,69,109,106,113,77,142\n", "landmarks"),
        (f"1\n{LANDMARKS}\n1.jpg 69 109 106 113 77 142\n", "landmarks"),
        (f"image_id,{BOXES.replace(' ', ',')}\n1.jpg,95,71,226,313\n", "face boxes"),
        (f"1\nimage_id {BOXES}\n1.jpg 95 71 226 313\n", "face boxes"),
        ("image_id,partition\n1.jpg,0\n2.jpg,1\n", "give that file as --partition"),
    ],
)
def test_another_of_celeba_s_tables_is_told_what_it_is(
    write: Callable[..., str], text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_label_table(write(text))
    assert "\n" not in str(error.value)


def test_kaggle_s_tables_as_they_are(write: Callable[..., str]) -> None:
    names = ["5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive"]
    table = read_label_table(
        write(f"image_id,{','.join(names)}\r\n000001.jpg,-1,1,1\r\n000002.jpg,-1,-1,-1\r\n")
    )
    assert table.names == tuple(names)
    assert table.image_ids == ("000001.jpg", "000002.jpg")
    assert table.labels.tolist() == [[-1, 1, 1], [-1, -1, -1]]
    splits = read_partition(write("image_id,partition\r\n000001.jpg,0\r\n000002.jpg,2\r\n"))
    assert splits == {"000001.jpg": "train", "000002.jpg": "test"}


def test_minus_one_in_a_binary_table(write: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"line 4: found -1, but label_encoding binary"):
        read_label_table(write("2\nA B\nx 1 0\ny -1 1\n"), "binary")


@pytest.mark.parametrize("read", [read_label_table, read_partition, read_identities])
def test_missing_table_and_folder_for_a_table(tmp_path: Path, read: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match="No such file"):
        read(str(tmp_path / "nothing.txt"))
    with pytest.raises(UserError, match="directory"):
        read(str(tmp_path))


# --- partitions and identities -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a 0\nb 1\nc 2\n", "image_id,partition\na,0\nb,1\nc,2\n", "a,0\nb,1\nc,2\n"]
)
def test_partition(write: Callable[..., str], text: str) -> None:
    assert read_partition(write(text)) == {"a": "train", "b": "val", "c": "test"}


@pytest.mark.parametrize("text", ["a 2880\nb 7\n", "image_id,identity\na,2880\nb,7\n"])
def test_identities(write: Callable[..., str], text: str) -> None:
    assert read_identities(write(text)) == {"a": 2880, "b": 7}


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_partition, "", "is empty"),
        (read_partition, "a 0\nb 3\n", "line 2: expected 0, 1 or 2, found '3'"),
        (read_partition, "image_id partition\na 0\n", "line 1: .* found 'partition'"),
        (read_partition, "a 0\nb\n", "line 2: expected an id and 0, 1 or 2, found 1 values"),
        (read_partition, "a 0\nb 1 2\n", "line 2: .* found 3 values"),
        (read_partition, "a 0\na 0\n", "line 2: 'a' has a row already, in line 1"),
        (read_partition, "image_id,partition\n", "no rows"),
        (read_identities, "a 1\nb Ann\n", "line 2: expected a person's number, found 'Ann'"),
        (read_identities, "a 1\nb -1\n", "line 2: expected a person's number, found '-1'"),
        (read_identities, f"a {10**30}\n", "line 1: expected a person's number"),
        (read_identities, "x,y\na,1\nb,\n", "line 3: expected a person's number, found ''"),
    ],
)
def test_faulty_pairs_name_the_line(
    write: Callable[..., str], read: Callable[[str], Any], text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(write(text))
    one_line(error)


def test_a_mistake_is_one_line_whatever_it_quotes(tmp_path):
    (tmp_path / "table").write_text("1.jpg 0\n2.jpg x\u2028y\x1cz\n".replace("\u2028", "\x85"))
    with pytest.raises(UserError) as refused:
        read_partition(str(tmp_path / "table"))
    assert len(str(refused.value).splitlines()) == 1


def test_a_row_count_of_very_many_digits_is_one_clear_line(tmp_path):
    (tmp_path / "table").write_text("9" * 5000 + "\nSmiling\n1.jpg 1\n")
    with pytest.raises(UserError, match=r"line 1: expected a row count .*, found '9{40}'"):
        read_label_table(str(tmp_path / "table"))
