"""Damage to files: what a disk, a network or an adversary does to them. A seed fixes each."""

import random
import re
import struct
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62)
WORDS = (
    *(b"", b"null", b"-1", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b"[" * 3000, b"{}", b"[]"),
    *(b"&a [*a]", b"!!python/name:os.system", b"\x00", b"\xff\xfe", b"\xe2\x80\xa8", b"true"),
    *(b"2001-99-99", b"0x1G", b"'", b'"', b"a: b: c", b"<<: 1", b"*b", b"\\ud800", b"0.5", b"2"),
)
FORMATS = ("<B", "<h", ">h", "<i", ">i", "<q", ">q")


def mutate(seed: int, corpus: Sequence[bytes], is_text: bool) -> bytes:
    """A damaged file, made of one of a corpus."""
    chance = random.Random(seed)
    data = chance.choice(corpus)
    kinds = TEXT if is_text and chance.random() < 0.7 else BYTES
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        data = chance.choice(kinds)(chance, data, corpus)
    return data


Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _place(chance: random.Random, data: bytes) -> int:
    """A place in a file; headers and footers, where formats keep their structure, come often."""
    end = len(data)
    near = min(end, chance.choice((16, 64, 512, 4096)))
    return chance.choice(
        (chance.randint(0, end), chance.randint(0, near), chance.randint(end - near, end))
    )


def _range(chance: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(chance, data)
    return start, min(len(data), start + chance.choice((1, 4, 16, 256, 4096, len(data))))


def truncate(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    return data[: _place(chance, data)]


def behead(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    return data[_place(chance, data) :]


def flip_bits(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 16))):
        if changed:
            changed[min(_place(chance, data), len(data) - 1)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def overwrite_number(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    form, number = chance.choice(FORMATS), chance.choice(NUMBERS)
    size = struct.calcsize(form)
    content = (number % 2 ** (8 * size)).to_bytes(size, "big" if form[0] == ">" else "little")
    place = _place(chance, data)
    return data[:place] + content + data[place + size :]


def overwrite_range(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    start, stop = _range(chance, data)
    fill = chance.choice((b"\0", b"\xff", None))
    content = chance.randbytes(stop - start) if fill is None else fill * (stop - start)
    return data[:start] + content + data[stop:]


def remove_range(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    start, stop = _range(chance, data)
    return data[:start] + data[stop:]


def repeat_range(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    start, stop = _range(chance, data)
    return (data[:stop] + data[start:stop] * chance.choice((1, 1, 50)) + data[stop:])[: 1 << 22]


def splice(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    other = chance.choice(corpus)
    if chance.random() < 0.5:  # the same part of another file
        start, stop = _range(chance, data)
        return data[:start] + other[start:stop] + data[stop:]
    return data[: _place(chance, data)] + other[_place(chance, other) :]


def insert(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    place = _place(chance, data)
    content = chance.choice((chance.randbytes(chance.randint(1, 64)), chance.choice(WORDS)))
    return data[:place] + content + data[place:]


def replace_token(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    tokens = list(re.finditer(rb"[\w.+-]+", data))
    if not tokens:
        return data
    token = chance.choice(tokens)
    new = chance.choice((*WORDS, chance.choice(tokens)[0], str(chance.choice(NUMBERS)).encode()))
    return data[: token.start()] + new + data[token.end() :]


def move_lines(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    other = chance.choice(corpus).splitlines(keepends=True) or [b""]
    place = chance.randrange(len(lines))
    choice = chance.randrange(3)
    if choice == 0:
        del lines[place]
    elif choice == 1:
        lines.insert(place, chance.choice(lines + other))
    else:
        lines[place] = chance.choice((b"  ", b"", b"\t")) + lines[place].strip() + b"\n"
    return b"".join(lines)


BYTES: tuple[Mutation, ...] = (
    truncate, behead, flip_bits, flip_bits, overwrite_number, overwrite_number, overwrite_range,
    remove_range, repeat_range, splice, insert,
)  # fmt: skip
TEXT: tuple[Mutation, ...] = (replace_token, replace_token, move_lines, insert, truncate, splice)
