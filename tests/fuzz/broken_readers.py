"""Readers that break each law of the fuzzer once."""

import os
import time
from dataclasses import dataclass


@dataclass
class Reader:
    name: str
    corpus: list
    read: object
    is_text: bool = False
    share: float = 1.0


def crash(data):
    if data == b"whole":
        os.abort()


def hang(data):
    if data == b"whole":
        time.sleep(100)


def swell(data):
    if data == b"whole":
        bytearray(8 << 30)


def be_wrong(data):
    assert data != b"whole"


def readers(folder):
    reads = (crash, hang, swell, be_wrong)
    return [Reader(read.__name__, [b"whole"], read) for read in reads]
