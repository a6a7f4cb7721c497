"""The photographs in which a benchmark has faces found, and the plain loop that finds them."""

import torch

from facevae.benchmark import alignment_rate
from facevae.benchmark.alignment_rate import Photographs, plain_loop, write_photographs
from facevae.config import AlignmentConfig
from facevae.data.align import align
from facevae.data.detector import MtcnnDetector
from facevae.data.images import decode_image


def test_each_photograph_has_a_face_and_the_loop_takes_some(tmp_path, monkeypatch):
    monkeypatch.setattr(alignment_rate, "SIZE", (480, 360))
    monkeypatch.setattr(alignment_rate, "FACE_HEIGHT", 260)
    monkeypatch.setattr(alignment_rate, "DIFFERENT", 3)
    threads = torch.get_num_threads()
    write_photographs(tmp_path, 5)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    assert len({path.stat().st_ino for path in files}) == 3
    detector = MtcnnDetector(AlignmentConfig())
    for path in files[:3]:
        image = decode_image(path.read_bytes())
        assert image.size == (480, 360)
        assert align(image, detector, AlignmentConfig()).status == "ok"
    assert plain_loop(Photographs(str(tmp_path), 2, 1)) > 0
    torch.set_num_threads(threads)
