import pytest

from klal.cli.csvfile import (
    CsvReader,
    converter,
    match_columns,
    quoted,
    require_csv,
    spelled,
    to_integer,
    to_real,
    write_csv,
)
from klal.errors import RefusedError, StoreError, UsageError

TABLE = [("id", "TEXT"), ("mass", "INTEGER"), ("bill", "REAL"), ("note", "TEXT")]


@pytest.fixture
def write(tmp_path):
    def write(data, name="birds.csv"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def read(path, **options):
    with CsvReader(path, **options) as reader:
        return list(reader.rows(match_columns(reader, "bird", TABLE)))


def test_fields_become_what_their_column_is_declared_as(write):
    path = write("id,mass,bill,note\n7,3750,39.1,12\n8,,39,\n")

    assert read(path) == [("7", 3750, 39.1, "12"), ("8", None, 39.0, None)]


def test_what_spells_no_number_stays_text(write):
    assert read(write("id,mass\na,heavy\n")) == [("a", "heavy")]
    assert to_integer("9223372036854775808") == "9223372036854775808"
    assert to_integer("12_000") == "12_000"
    assert [to_real(field) for field in ("nan", "inf", "1e999", "0x1p3")] == ["nan", "inf", "1e999", "0x1p3"]


@pytest.mark.parametrize(
    ("declared", "want"),
    [("BIGINT", 5), ("VARCHAR(9)", "5"), ("DOUBLE", 5.0), ("DECIMAL(9, 2)", 5), ("", "5"), ("BLOB", "5")],
)
def test_affinity_follows_sqlites_rules(declared, want):
    value = converter(declared)("5")

    assert value == want
    assert type(value) is type(want)


def test_null_is_what_is_said_to_be_null(write):
    path = write("id,note\na,NA\nb,\n")

    assert read(path) == [("a", "NA"), ("b", None)]
    assert read(path, nulls=["NA"]) == [("a", None), ("b", "")]
    assert read(path, nulls=["NA", ""]) == [("a", None), ("b", None)]


def test_a_byte_order_mark_and_any_line_end_are_fine(write):
    assert read(write(b'\xef\xbb\xbfid,note\r\na,"two\r\nlines"\r\n\r\n')) == [("a", "two\r\nlines")]


def test_a_bad_row_names_file_line_and_column(write):
    with pytest.raises(RefusedError, match=r"birds\.csv, line 4: column 2 \(mass\) is missing"):
        read(write('id,mass\na,"1\n"\nb\n'))
    with pytest.raises(RefusedError, match=r"line 2: column 3 has no name; 3 fields, want 2"):
        read(write("id,mass\na,1,2\n"))


def test_another_encoding_is_a_sentence(write):
    with pytest.raises(RefusedError, match=r"line 2: column 2 has the byte 0xe9, which is not UTF-8") as caught:
        read(write(b"id,note\na,caf\xe9\n"))
    assert "UTF-8" in caught.value.hint
    with pytest.raises(RefusedError, match=r"line 1: it is not UTF-8 text"):
        read(write("id,note\n".encode("utf-16")))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", "no header row"),
        ("id,,note\n", "column 2 has no name"),
        ("id,ID\n", "a second time"),
        ("id,wings\n", "column 2 is 'wings', which bird does not have"),
        ('id,"mass\n', "it is not CSV"),
    ],
)
def test_a_bad_header_is_refused(write, header, found):
    with pytest.raises(RefusedError, match=found):
        read(write(header))


def test_a_table_is_guessed_from_the_rows(write):
    path = write('id,mass,bill,"a b",empty\nN1,1,1,x,\nN2,2,1.5,x,\n')
    with CsvReader(path) as reader:
        assert reader.guess_table("bird") == (
            'CREATE TABLE bird (id TEXT PRIMARY KEY, mass INTEGER, bill REAL, "a b" TEXT, empty TEXT)'
        )


def test_a_table_without_a_column_that_could_be_a_key_is_given_one(write):
    with CsvReader(write("mass\n1\n1\n")) as reader:
        assert reader.guess_table("bird") == "CREATE TABLE bird (id TEXT PRIMARY KEY DEFAULT (klal_id()), mass INTEGER)"


def test_names_are_quoted_where_they_need_it():
    assert [spelled(name) for name in ("bird", "a b", 'a"b', "1st")] == ["bird", '"a b"', '"a""b"', '"1st"']
    assert quoted("order") == '"order"'


def test_only_csv_is_taken(tmp_path):
    require_csv(tmp_path / "a.CSV")
    with pytest.raises(UsageError, match=r"birds\.parquet does not end in \.csv"):
        require_csv(tmp_path / "birds.parquet")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.csv"

    assert write_csv(path, ["id", "x"], iter([("a", None), ("b", b"\x01"), ("c", 1.5)])) == 3
    assert path.read_text() == "id,x\na,\nb,x'01'\nc,1.5\n"

    def broken():
        yield ("d", 1)
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        write_csv(path, ["id", "x"], broken(), replace=True)
    assert path.read_text().startswith("id,x\na,")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("mine")

    with pytest.raises(StoreError, match="is there already"):
        write_csv(path, ["id"], iter([]))
    assert path.read_text() == "mine"
