"""Folders and tables as people have them: subfolders, files that systems leave behind, either separator, any spreadsheet."""

import os
import unicodedata
from pathlib import Path

import pytest

from engine.errors import OptionError
from engine.evaluate.labels import read_labels
from engine.evaluate.pairs import read_pairs
from engine.pictures.folders import files_below, leads_outside, named_file, other_place, pictures_below
from engine.tables import read_table, read_text

LEFT_BEHIND = (
    *("Thumbs.db", "thumbs.DB", "desktop.ini", ".DS_Store", "._shoe.jpg", ".hidden.png", "Icon\r"),
    *(".git/x.png", "__MACOSX/shoes/y.jpg", "@eaDir/z.jpg", "shoes/Thumbs.db", "shoes/.thumbnails/q.png"),
)


def make(folder: Path, *names: str) -> Path:
    """Write empty files below a folder; returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def below(folder: Path, found: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_pictures_are_found_in_subfolders_and_what_systems_leave_is_not(tmp_path: Path) -> None:
    pictures = ["b.png", "hats/A b.JPEG", "hats/zw\u00f6lf/\u00fc.TIF", "shoes/1.jpg", "shoes/10.webp", "shoes/2.jpg"]
    other = ["hats/notes.txt", "labels.csv", "manual.pdf", "tables.h5", "without-suffix"]
    root = make(tmp_path / "my pictures \u00e4\u00f6", *LEFT_BEHIND, *pictures, *other)
    assert below(root, pictures_below(root)) == pictures
    assert below(root, files_below(root)) == sorted([*pictures, *other], key=lambda name: name.split("/"))


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    root = make(tmp_path / ".cache", "a.png")
    assert below(root, pictures_below(root)) == ["a.png"]


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    make(tmp_path, "root/a/x.png", "store/y.png")
    try:
        (tmp_path / "root" / "b").symlink_to(tmp_path / "store", target_is_directory=True)
        (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    assert below(tmp_path / "root", pictures_below(tmp_path / "root")) == ["a/x.png", "b/y.png"]


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot read the folder .*none: "):
        files_below(tmp_path / "none")


@pytest.mark.parametrize("name", ["shoes/men/a b.png", r"shoes\men\a b.png", r"shoes/men\a b.png", r".\shoes\men/a b.png"])
def test_either_separator_names_a_file(name: str, tmp_path: Path) -> None:
    make(tmp_path, "shoes/men/a b.png")
    assert named_file(tmp_path, name) == tmp_path / "shoes" / "men" / "a b.png"


def test_a_file_that_is_missing_is_named_with_this_system_s_separator(tmp_path: Path) -> None:
    assert named_file(tmp_path, r"shoes\a.png") == tmp_path / "shoes" / "a.png"
    assert named_file(tmp_path, "a" * 5000 + "\0") == tmp_path / ("a" * 5000 + "\0")


@pytest.mark.skipif(os.sep == "\\", reason="no file is called so on Windows")
def test_a_file_that_is_really_called_with_a_backslash_wins(tmp_path: Path) -> None:
    make(tmp_path, r"a\b.png", "a/b.png")
    assert named_file(tmp_path, r"a\b.png").name == r"a\b.png"


@pytest.mark.parametrize(("stored", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_letters_with_accents_are_found_in_either_form(stored: str, named: str, tmp_path: Path) -> None:
    name = "K\u00e4se/gr\u00fcn \u00e9.png"
    make(tmp_path, unicodedata.normalize(stored, name))
    for text in (name, name.replace("/", "\\")):
        assert named_file(tmp_path, unicodedata.normalize(named, text)).is_file()


def test_names_that_lead_outside() -> None:
    outside = ["/a.png", "../a.png", r"..\a.png", r"x\..\..\a.png", r"C:\a.png", "C:/a.png", r"\\server\share\a.png"]
    assert all(leads_outside(name) for name in outside)
    assert not any(leads_outside(name) for name in ["a.png", "x/a.png", r"x\a.png", "..a.png", "x/./a.png", "10:30.png"])


TABLES = {
    "commas": ("image,group,attributes\r\n", "{},x,red\r\n"),
    "semicolons": ("image;group;attributes\r\n", '{};x;"red;big"\r\n'),
    "tabs": ("image\tgroup\tattributes\n", "{}\tx\tred;big\n"),
    "spaces": ("image, group, attributes\n", "{},x,red\n"),
    "told": ("sep=;\r\nimage;group;attributes\r\n", "{};x;red\r\n"),
    "told tab": ("sep=\t\nimage\tgroup\tattributes\n", "{}\tx\tred\n"),
    "old Macs": ("image;group;attributes\r", "{};x;red\r"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_labels_of_any_spreadsheet(kind: str, encoding: str, separator: str, tmp_path: Path) -> None:
    names = ["a b/1.png", "a b/2.png", "\u00fc/3.PNG", "4.png"]
    make(tmp_path, *names)
    header, row = TABLES[kind]
    text = header + "".join(row.format(name.replace("/", separator)) for name in names)
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    found = read_labels(tmp_path / "labels.csv", tmp_path, ("red", "big"))
    assert below(tmp_path, list(found.files)) == names
    assert found.truth[:, 0].all() and found.grouped
    assert found.truth[:, 1].all() == ("red;big" in row)


@pytest.mark.parametrize("suffix", ["csv", "CSV", "tsv"])
def test_pairs_of_any_spreadsheet(suffix: str, tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    (tmp_path / f"pairs.{suffix}").write_text("\ufeffquery\treference\tlabel\na\\1.png\tb/2.png\t1\nc/3.png\tb\\2.png\t0\n")
    read = read_pairs(tmp_path / f"pairs.{suffix}", None)
    assert [(p.query, p.reference) for p in read.pairs] == [(tmp_path / "a" / "1.png", tmp_path / "b" / "2.png")]
    assert read.non_matching == 1


def test_ids_of_pairs_are_found_in_subfolders_without_what_systems_leave(tmp_path: Path) -> None:
    make(tmp_path / "images", "x/1.JPG", "y/2.png", "y/._1.jpg", "y/.1.jpg", "__MACOSX/1.png", "y/1.txt")
    (tmp_path / "pairs.txt").write_text("1 2 1\n")
    (pair,) = read_pairs(tmp_path / "pairs.txt", tmp_path / "images").pairs
    assert (pair.query.name, pair.reference.name) == ("1.JPG", "2.png")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bild;gruppe;merkmale\n", r"line 1: .*got bild, gruppe, merkmale \(separated by semicolons\)"),
        ("image\tlabel\n", r"line 1: .* image, attributes and, if wanted, group; got image, label \(separated by tabs\)"),
        ("sep=;\nimage;label\n", r"line 2: .*got image, label \(separated by semicolons\)"),
        ("image|attributes\n", r"got image\|attributes \(separated by commas\)"),
        ("x" * 999 + "\n", r"got x{200}\.\.\.: the first line has the column names"),
        ("", "got nothing: the first line"),
        ("image;attributes\na.png;red;big\n", "line 2: too many columns: put what has semicolons in it into quotes"),
        ("image,attributes\nA.PNG,red\n", r"line 2: there is no picture .*A.PNG, but there is deep/a.png"),
        ("image,attributes\nno\\a.png,red\n", "no.a.png, but there is deep/a.png"),
        ("image,attributes\nb.png,red\n", "b.png$"),
        ("image,attributes\n..\\a.png,red\n", "line 2: a picture must lie below"),
        ("image,attributes\nC:\\a.png,red\n", "line 2: a picture must lie below"),
    ],
)
def test_faults_of_tables_name_what_was_found(text: str, said: str, tmp_path: Path) -> None:
    make(tmp_path / "images", "deep/a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(OptionError, match=said) as raised:
        read_labels(tmp_path / "labels.csv", tmp_path / "images", ("red",))
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_utf_8_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("image,attributes\ngr\u00fcn.png,red\n".encode("cp1252"))
    with pytest.raises(OptionError, match=r"the labels .* line 2 is not UTF-8; save it as CSV in UTF-8"):
        read_labels(tmp_path / "labels.csv", tmp_path, ("red",))


def test_quoted_lines_and_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n"1\n2",x\n\n3,y\n')
    table = read_table(tmp_path / "t.csv", read_text(tmp_path / "t.csv", "table"), ("a",), ("b",))
    assert table.rows == [(2, {"a": "1\n2", "b": "x"}), (5, {"a": "3", "b": "y"})]


def test_where_else_a_file_is(tmp_path: Path) -> None:
    make(tmp_path, "x/Shoe.JPG")
    assert other_place(tmp_path, r"y\shoe.jpg") == ", but there is x/Shoe.JPG"
    assert other_place(tmp_path, "other.jpg") == other_place(tmp_path / "none", "a.jpg") == ""
