"""What is done at random to bytes, JSON, arrays, records and Python source; each tells in words what it did."""

import ast
import copy
import io
import json
import re
import shutil
import tokenize
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from safetensors import safe_open
from safetensors.numpy import save

from wm_jax.data.weights import HEADER, load_weights, save_weights

ODD_JSON: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 7, 2**31, 2**63, 10**30, 1e308, 1e-320, float("nan"), float("inf"),
    float("-inf"), "", "x", "1", "nan", "é", "\ud800", "a\nb", "../x", "/", "x.py", "é" * 300, [], [[]], [None], [1, "x"],
    {}, {"": None}, {"x": {"y": [1]}}, [0] * 40, [[0.5, 0.5]],
]  # fmt: skip
ODD_SOURCE = [
    "None", "True", "0", "1", "-1", "2", "0.5", "1e9", "10**30", "float('nan')", "float('inf')", "''", "'x'", "'é'", "b''",
    "[]", "()", "{}", "(1, 2, 3)", "object()", "int", "...", "lambda *a, **k: None", "np.zeros((3, 3))", "np.nan",
    "np.zeros((64, 64, 3))", "np.ones(2, np.float32)", "np.array('x')", "[0.5]", "nothing", "1 / 0", "2**40",
]  # fmt: skip
ODD_TOKENS = [
    "",
    "(",
    ")",
    ":",
    "=",
    ",",
    ".",
    "+",
    "0",
    "''",
    "None",
    "def",
    "return",
    "import",
    "x",
    "é",
    "\\",
    "lambda",
]


def odd_bytes(random: Random, data: bytes) -> tuple[bytes, str]:
    """The same with damage."""
    size = len(data)
    at, length = random.randrange(size + 1), random.choice([1, 1, 2, 8, 64, 1000])
    match random.choice(["flip", "flip", "flip", "cut", "cut", "zeros", "insert", "repeat", "empty", "text", "noise"]):
        case "flip":
            damaged = bytearray(data)
            places = [random.randrange(size) for _ in range(random.choice([1, 1, 1, 4, 32]))] if size else []
            for place in places:
                damaged[place] ^= 1 << random.randrange(8)
            return bytes(damaged), f"bits flipped at {places[:4]}"
        case "cut":
            return data[:at], f"cut to {at} of {size} bytes"
        case "zeros":
            return data[:at] + bytes(length) + data[at + length :], f"{length} zeros at {at}"
        case "insert":
            return data[:at] + random.randbytes(length) + data[at:], f"{length} bytes inserted at {at}"
        case "repeat":
            return data[:at] + data[at - length : at] + data[at:], f"{length} bytes repeated at {at}"
        case "empty":
            return b"", "empty"
        case "text":
            return b"version https://git-lfs.github.com/spec/v1\n", "another text"
        case _:
            return random.randbytes(random.choice([1, 8, 100, 4096])), "noise"


def odd_json(random: Random, value: Any) -> tuple[Any, str]:
    """The same JSON value but for one entry, or a few."""
    value, told = copy.deepcopy(value), []
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        holders = list(_holders(value, ""))
        if not holders or random.random() < 0.03:
            value = random.choice(ODD_JSON)
            told.append(f"all of it is {value!r:.40}")
            continue
        place, holder = random.choice(holders)
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match random.choice(["odd", "odd", "odd", "drop", "rename", "wrap", "twice", "scale"]):
            case "odd":
                holder[key] = copy.deepcopy(random.choice(ODD_JSON))
            case "drop":
                del holder[key]
                told.append(f"{place}{key} is gone")
                continue
            case "rename" if isinstance(holder, dict):
                other = random.choice([f"{key}x", f"{key}"[:-1], "", "é", *holder])
                holder[other] = holder.pop(key)
                told.append(f"{place}{key} is called {other!r}")
                continue
            case "wrap":
                holder[key] = random.choice([[holder[key]], {"x": holder[key]}, str(holder[key])])
            case "scale" if isinstance(holder[key], int | float):
                holder[key] *= random.choice([-1, 1e6, 0, 0.5])
            case _ if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                holder[f"{key}_"] = copy.deepcopy(holder[key])
        told.append(f"{place}{key} is {holder[key]!r:.60}")
    return value, "; ".join(told)


def _holders(value: Any, place: str) -> Any:
    """Every filled list and dict in a JSON value, with where it is."""
    if isinstance(value, dict | list) and value:
        yield place, value
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _holders(inner, f"{place}{key}.")


def odd_json_text(random: Random, text: str) -> tuple[str, str]:
    """A JSON file, or one of JSON lines, of which an entry is another."""
    try:
        value, told = odd_json(random, json.loads(text))
        return json.dumps(value, indent=1) + "\n", told
    except json.JSONDecodeError:
        lines = text.splitlines()
    number = random.randrange(len(lines))
    match random.choice(["entry", "entry", "entry", "drop", "twice", "torn", "swap"]):
        case "entry":
            value, told = odd_json(random, json.loads(lines[number]))
            lines[number] = json.dumps(value)
        case "drop":
            del lines[number]
            told = "gone"
        case "twice":
            lines.insert(number, lines[number])
            told = "there twice"
        case "torn":
            lines[number] = lines[number][: random.randrange(len(lines[number]))]
            told = "torn"
        case _:
            random.shuffle(lines)
            told = "elsewhere, as all others"
    return "".join(f"{line}\n" for line in lines), f"line {number + 1}: {told}"


def odd_weights(random: Random, path: Path) -> str:
    """Change a safetensors file of ours so that its checksum is right."""
    tree, about = load_weights(path)
    with safe_open(path, framework="numpy") as file:
        arrays, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()[HEADER]  # noqa: SIM118
    match random.choice(["about", "about", "about", "array", "array", "header"]):
        case "about":
            about, told = odd_json(random, about)
            try:
                save_weights(path, tree, about)
            except UnicodeEncodeError:
                told = "nothing"
            return f"about: {told}"
        case "header":
            header, told = odd_json_text(random, header)
            path.write_bytes(save(arrays, metadata={random.choice([HEADER, HEADER, "other"]): header}))
            return f"header: {told}"
        case _:
            told = _odd_array(random, arrays)
            save_weights(path, arrays, about)
            return told


def _odd_array(random: Random, arrays: dict[str, np.ndarray]) -> str:
    name = random.choice(sorted(arrays))
    array = arrays[name]
    match random.choice(["drop", "rename", "add", "type", "shape", "transpose", "value", "value", "empty", "longer"]):
        case "drop":
            del arrays[name]
            return f"{name} is gone"
        case "rename":
            other = random.choice([name + "x", name + "/x", "/" + name, name.replace("/", ""), "é", ""])
            arrays[other] = arrays.pop(name)
            return f"{name} is called {other!r}"
        case "add":
            arrays[other] = np.zeros(3, np.float32) if (other := random.choice(["x", "x/y", f"{name}/x"])) else array
            return f"{other} is there, too"
        case "type":
            kind = random.choice([np.float16, np.float64, np.int32, np.uint8, np.bool_])
            arrays[name] = array.astype(kind)
            return f"{name} is {np.dtype(kind)}"
        case "shape":
            arrays[name] = array.reshape(random.choice([(-1,), (1, *array.shape), (*array.shape, 1)]))
        case "transpose":
            arrays[name] = np.ascontiguousarray(array.T)
        case "empty":
            arrays[name] = array[:0] if array.ndim else np.zeros(0, array.dtype)
        case "longer":
            arrays[name] = np.concatenate([array, array]) if array.ndim else array[None]
        case _:
            value = random.choice([np.nan, np.inf, 1e30, -1.0, 0.0, 65000.0])
            with np.errstate(all="ignore"):
                array = array.copy()
                array.reshape(-1)[random.randrange(array.size) :] = np.float64(value).astype(array.dtype)
            arrays[name] = array
            return f"{name} holds {value}"
    return f"{name} has the shape {list(arrays[name].shape)}"


def odd_records(random: Random, path: Path) -> str:
    """Change an episode's file so that it is a whole ArrayRecord file."""
    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    records = reader.read(list(range(reader.num_records())))
    reader.close()
    number = random.choice([0, 0, 0, 1, 2, random.randrange(len(records))])
    match random.choice(["odd", "odd", "drop", "twice", "empty", "number"]):
        case "odd" if number == 0:
            text, told = odd_json_text(random, records[0].decode())
            records[0] = text.encode()
        case "odd":
            records[number], told = odd_bytes(random, records[number])
        case "drop":
            del records[number]
            told = "gone"
        case "twice":
            records.insert(number, records[number])
            told = "there twice"
        case "empty":
            records, told = [], "gone, as all others"
        case _:
            numbers = np.full(len(records[1]) // 4, random.choice([np.nan, np.inf, 1e30, -2.0]), "<f4")
            records[number := random.choice([1, 2])] = numbers.tobytes()
            told = f"of numbers {numbers[0]}"
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd:1,max_parallelism:1")
    for record in records:
        writer.write(record)
    writer.close()
    return f"record {number} is {told}"


def odd_python(random: Random, text: str) -> tuple[bytes, str]:
    """A Python file that is not quite as it was."""
    told = []
    for _ in range(random.choice([1, 1, 1, 1, 2, 3])):
        do = random.choice(
            [_odd_constant, _odd_constant, _odd_return, _odd_token, _odd_token, _odd_line, _odd_line, _raises]
        )
        try:
            text, what = do(random, text)
        except (SyntaxError, tokenize.TokenError, ValueError, IndexError):
            # What is already broken cannot be taken apart.
            continue
        told.append(what)
    data = text.encode()
    if random.random() < 0.05:
        data, what = odd_bytes(random, data)
        told.append(what)
    return data, "; ".join(told) or "nothing"


def _replaced(text: str, node: ast.expr, new: str) -> tuple[str, str]:
    segment = ast.get_source_segment(text, node) or ""
    lines = text.splitlines(keepends=True)
    at = sum(map(len, lines[: node.lineno - 1])) + len(lines[node.lineno - 1].encode()[: node.col_offset].decode())
    return text[:at] + new + text[at + len(segment) :], f"line {node.lineno}: {segment[:40]!r} is {new!r}"


def _nodes(text: str, wanted: Callable[[ast.AST], bool]) -> list[Any]:
    return [node for node in ast.walk(ast.parse(text)) if wanted(node)]


def _odd_constant(random: Random, text: str) -> tuple[str, str]:
    found = _nodes(text, lambda node: isinstance(node, ast.Constant | ast.Attribute) and node.lineno > 1)
    values = [keyword.value for keyword in _nodes(text, lambda node: isinstance(node, ast.keyword))]
    return _replaced(text, random.choice(random.choice([found, values or found])), random.choice(ODD_SOURCE))


def _odd_return(random: Random, text: str) -> tuple[str, str]:
    values = [node.value for node in _nodes(text, lambda node: isinstance(node, ast.Return)) if node.value]
    values += [node.body for node in _nodes(text, lambda node: isinstance(node, ast.Lambda))]
    inner = [part for value in values if isinstance(value, ast.Tuple) for part in value.elts]
    if not values:
        raise ValueError("nothing is returned")
    return _replaced(text, random.choice(random.choice([values, inner or values])), random.choice(ODD_SOURCE))


def _odd_token(random: Random, text: str) -> tuple[str, str]:
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.string.strip()]
    number = random.randrange(len(tokens) - 1)
    token, other = tokens[number], random.choice([*ODD_TOKENS, random.choice(tokens).string, tokens[number + 1].string])
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:row])) for row in range(len(lines) + 1)]
    begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
    return text[:begin] + other + text[end:], f"line {token.start[0]}: {token.string[:30]!r} is {other[:30]!r}"


def _odd_line(random: Random, text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    number = random.randrange(len(lines))
    match random.choice(["drop", "drop", "twice", "indent", "cut"]):
        case "drop":
            told = f"line {number + 1} is gone: {lines.pop(number).strip()!r:.50}"
        case "twice":
            lines.insert(number, lines[number])
            told = f"line {number + 1} is there twice"
        case "indent":
            lines[number] = " " + lines[number]
            told = f"line {number + 1} is further in"
        case _:
            del lines[number:]
            told = f"ends after line {number}"
    return "".join(lines), told


def _raises(random: Random, text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    places = [
        number for number, line in enumerate(lines) if re.match(r" *(\w[\w. ]* = |return |def |self|super)", line)
    ]
    number = random.choice(places or [0])
    indent = re.match(" *", lines[number])
    what = random.choice(
        ["raise ValueError('mine')", "raise OSError(28, 'mine')", "raise KeyError('é')", "raise RuntimeError",
         "raise Exception('two\\nlines')", "assert False", "print('a word')", "raise ImportError('no wm_jax')"]
    )  # fmt: skip
    lines.insert(number, f"{indent[0] if indent else ''}{what}\n")
    return "".join(lines), f"line {number + 1}: {what}"


def odd_entry(random: Random, path: Path) -> str:
    """Put something else where a file, or a folder, was."""
    folder = path.is_dir()
    what = random.choice(["gone", "gone", "a folder", "an empty file", "a loop", "a dead link", "an unreadable file"])
    shutil.rmtree(path) if folder else path.unlink()
    match what:
        case "a folder":
            path.mkdir()
            (path / "thesis.txt").write_text("precious")
        case "an empty file":
            path.touch()
        case "a loop":
            path.symlink_to(path.name)
        case "a dead link":
            path.symlink_to("/nowhere/at/all")
        case "an unreadable file":
            # The file's mode would not keep root from it; reading this is an error for everybody.
            path.symlink_to("/proc/self/mem")
    return what
