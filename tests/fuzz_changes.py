"""Changes of files for `tests.fuzz_bundles`: each takes the content of a sound file and a generator, and returns another."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

MARK = "\u0001here\u0001"
DEEP, MANY, LONG = 100_000, 100_000, 10**6
ODD_JSON = (
    *("null", "true", "false", "0", "-1", "1", "1.5", "1" + "0" * 400, "-1" + "0" * 400, "9223372036854775808", "1" * 5000),
    *("NaN", "Infinity", "-Infinity", "1e308", "1e39", "1e999", "1e-320", "1e-46"),
    *('""', '"x"', '"\\ud800"', '"a\\n\\u001b[2J\\u202e\\u0000"', f'"{"x" * LONG}"', '"../../etc/passwd"', '"5"'),
    *("[]", "[[]]", "[null]", "{}", '{"a": 1}', "[" * DEEP + "]" * DEEP, f"[{'0,' * MANY}0]", "[0, 0]", "[1e39, 1, 1, 1]"),
)
ODD_TYPES = (
    "<f8",
    "<f2",
    ">f4",
    "<f16",
    "<i8",
    "<u2",
    "|u1",
    "|b1",
    "<c8",
    "|S3",
    "<U5",
    "object",
    "<M8[s]",
    "<i4,<i4",
    "|V4",
)
FILLS = (np.nan, np.inf, -np.inf, 1e300, -1e300, 1e39, 1e-320, -1, 0, 255, 2**40)
BOMB = 175_000_000
"""Zeros of float32: 700 MB, which deflate packs into 700 kB."""
ODD_CELLS = (
    *("", " ", "\x00", "\n", '"', '""', "'", ",", ";", "\t", "\r", "\ufeff", "\u202e", "\x1b[2J", "\ud7ff", "\U0001f600"),
    *(
        "x" * 300,
        "x" * 200_000,
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "~",
        ".",
        "..",
        "/",
        "\\",
        "a/b",
        "NaN",
        "1e999",
    ),
    *("9" * 400, "-1", "0.png", "0.png,1.png,2.png", 'a"b"c', '"a\nb"', "=1+1", "sep=;", "image,group", ";" * 500),
)


@dataclasses.dataclass(frozen=True)
class Zeros:
    """An array of float32 that is written without being made."""

    shape: tuple[int, ...]

    def write(self, archive: zipfile.ZipFile, name: str) -> None:
        """Write it into an archive."""
        with archive.open(name, "w") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            left, block = 4 * int(np.prod(self.shape, dtype=int)), bytes(2**20)
            while left:
                left -= file.write(block[:left])


def changed_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Cut the content, turn bits of it, or put a part of it elsewhere."""
    data = bytearray(content)
    which = random.integers(4)
    if which == 0:
        return bytes(data[: random.integers(len(data) + 1)])
    if which == 1:
        for at in random.integers(0, max(len(data), 1), random.integers(1, 9)):
            data[at : at + 1] = bytes([data[at] ^ (1 << int(random.integers(8)))])
        return bytes(data)
    start, stop, at = sorted(random.integers(0, len(data) + 1, 3).tolist())
    piece = bytes(random.integers(0, 256, 16, np.uint8)) if which == 2 else bytes(data[start : min(stop, start + 1000)])
    return bytes(data[:at]) + piece + bytes(data[at:])


def changed_json(content: bytes, random: np.random.Generator) -> bytes:
    """Replace, leave out, double or add a value anywhere in a text of JSON."""
    tree = json.loads(content)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        holder, key = _pick(list(_places(tree)), random)
        which = random.random()
        if which < 0.7:
            holder[key] = MARK + _pick(ODD_JSON, random)
        elif which < 0.8:
            del holder[key]
        elif which < 0.9:
            other, name = _pick(list(_places(tree)), random)
            holder[key] = json.loads(json.dumps(other[name]))
        elif isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[_pick(("surplus", "", "\ud800", "x" * 1000), random)] = 1
        if not tree:
            break
    text = json.dumps(tree)
    for odd in ODD_JSON:
        text = text.replace(json.dumps(MARK + odd), odd)
    return text.encode(errors="surrogatepass")


def changed_arrays(content: bytes, random: np.random.Generator) -> bytes:
    """Change one array of an .npz, or the archive around it."""
    with np.load(io.BytesIO(content)) as data:
        arrays: dict[str, Any] = {name: data[name] for name in data.files}
    name = _pick(list(arrays), random)
    if name == "fields" and random.random() < 0.7:
        arrays[name] = np.array(changed_json(str(arrays[name]).encode(), random).decode(errors="replace"))
        return _archive(arrays)
    which = random.integers(14)
    if which < 9:
        arrays[name] = _other(arrays[name], int(which), random)
    elif which == 9:
        del arrays[name]
    elif which == 10:
        arrays[_pick(("surplus", "../x", "", "x" * 60_000, "\u202e"), random)] = arrays[name]
    elif which == 11:
        return _archive(arrays, method=_pick((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA), random))
    elif which == 12:
        return _archive(arrays, raw={name: changed_bytes(_npy(arrays[name]), random)})
    else:
        return _archive(arrays, raw={name: _lie(arrays[name], random)}, twin=name if random.random() < 0.2 else None)
    return _archive(arrays)


def changed_table(content: bytes, random: np.random.Generator) -> bytes:
    """Change cells, lines, separators or the encoding of a table."""
    lines = content.decode().split("\n")
    for _ in range(random.choice([1, 1, 2, 5])):
        row, which = int(random.integers(len(lines))), random.integers(6)
        cells = lines[row].split(",")
        at = int(random.integers(len(cells)))
        if which < 3:
            cells[at] = _pick(ODD_CELLS, random)
        elif which == 3:
            cells.insert(at, _pick(ODD_CELLS, random))
        elif which == 4:
            del cells[at]
        lines[row] = ",".join(cells)
        if which == 5:
            lines.insert(row, _pick(lines, random) * int(_pick((1, 1, 1000), random)))
    text = _pick(("\n", "\n", "\r\n", "\r", "\u2028"), random).join(lines)
    text = text.replace(",", _pick((",", ",", ";", "\t"), random))
    return text.encode(_pick(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"), random), "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) in a tree; of a long list, its ends."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if isinstance(value, dict) else dict.fromkeys([*keys[:2], *keys[-1:]]):
        yield value, key
        yield from _places(value[key])


def _other(array: np.ndarray, which: int, random: np.random.Generator) -> Any:
    """Another type, other numbers or another shape."""
    with np.errstate(all="ignore"):
        if which < 2:
            try:
                return array.astype(_pick(ODD_TYPES, random))
            except (TypeError, ValueError):
                return np.zeros(array.shape, _pick(ODD_TYPES, random))
        if which < 4 and array.dtype.kind in "fiub" and array.size:
            fill, changed = _pick(FILLS, random), array.astype(np.float64)
            changed.flat[random.integers(array.size) if which == 2 else slice(None)] = fill
            return changed if random.random() < 0.5 else changed.astype(array.dtype)
    if which == 4:
        return array[:-1] if array.ndim else array[None]
    if which == 5:
        return array.T if array.ndim > 1 else np.concatenate([np.atleast_1d(array)] * 3)
    if which == 6:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    if which == 7:
        return array.ravel() if array.ndim > 1 else np.zeros((3, 3, 3), np.float32)
    if random.random() < 0.2:
        rest = int(np.prod(array.shape[1:], dtype=int)) or 1
        return Zeros((BOMB // rest, *array.shape[1:]))
    return np.broadcast_to(array, (1000, *array.shape)) if array.nbytes < 10**4 else array[None]


def _lie(array: np.ndarray, random: np.random.Generator) -> bytes:
    """An array whose header says another shape."""
    data = _npy(array)
    length = int.from_bytes(data[8:10], "little")
    shape = _pick(
        ("(2000000000,)", "(-1,)", "(1000000000, 1000000000)", "()", "(0,)", "(3, 1" + "0" * 300 + ")", "7"), random
    )
    header = f"{{'descr': '<f4', 'fortran_order': {random.random() < 0.5}, 'shape': {shape}, }}".ljust(length - 1) + "\n"
    return data[:8] + len(header).to_bytes(2, "little") + header.encode() + data[10 + length :]


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _archive(
    arrays: dict[str, Any], raw: dict[str, bytes] | None = None, twin: str | None = None, method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, array in arrays.items():
            if isinstance(array, Zeros):
                array.write(archive, f"{name}.npy")
                continue
            archive.writestr(f"{name}.npy", (raw or {}).get(name) or _npy(array))
            if name == twin:
                archive.writestr(f"{name}.npy", _npy(array))
    return buffer.getvalue()


def _pick(choices: Any, random: np.random.Generator) -> Any:
    return choices[int(random.integers(len(choices)))]
