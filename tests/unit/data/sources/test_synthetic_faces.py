from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facevae.data.sources.synthetic import (
    ATTRIBUTE_NAMES,
    BEARD_STYLES,
    EXCLUSIVE_GROUPS,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    draw_face,
    drawn_attributes,
    encode_jpeg,
    sample_attributes,
    synthetic_face,
    with_attribute,
    write_celeba_layout,
)

INDEX = {name: i for i, name in enumerate(ATTRIBUTE_NAMES)}


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.stack([drawn_attributes(0, i) for i in range(2000)])


def column(samples: np.ndarray, name: str) -> np.ndarray:
    return samples[:, INDEX[name]] > 0


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def pair(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same face without and with an attribute."""
    attributes = sample_attributes(np.random.default_rng(seed))
    without, with_it = (
        draw_face(with_attribute(attributes, name, value), np.random.default_rng(seed))
        for value in (False, True)
    )
    return pixels(without), pixels(with_it)


def test_names_are_celebas() -> None:
    assert len(set(ATTRIBUTE_NAMES)) == 40
    # CelebA lists them in ASCII order.
    assert list(ATTRIBUTE_NAMES) == sorted(ATTRIBUTE_NAMES)


def test_face_has_celebas_size_and_labels() -> None:
    image, attributes = synthetic_face(3, 14)
    assert image.size == (IMAGE_WIDTH, IMAGE_HEIGHT) == (178, 218)
    assert image.mode == "RGB"
    assert attributes.dtype == np.int8
    assert attributes.shape == (40,)
    np.testing.assert_array_equal(attributes, drawn_attributes(3, 14))


def test_face_is_a_pure_function_of_seed_and_index() -> None:
    forwards = {i: synthetic_face(5, i) for i in range(6)}
    for i in reversed(range(6)):
        image, attributes = synthetic_face(5, i)
        assert image.tobytes() == forwards[i][0].tobytes()
        np.testing.assert_array_equal(attributes, forwards[i][1])
    assert len({image.tobytes() for image, _ in forwards.values()}) == 6
    assert synthetic_face(6, 0)[0].tobytes() != forwards[0][0].tobytes()


def test_labels_are_signs(samples: np.ndarray) -> None:
    assert set(np.unique(samples)) == {-1, 1}


@pytest.mark.parametrize("group", EXCLUSIVE_GROUPS, ids="-".join)
def test_exclusions_hold(samples: np.ndarray, group: tuple[str, ...]) -> None:
    assert (sum(column(samples, name).astype(int) for name in group) <= 1).all()


def test_no_beard_is_the_complement_of_beard_styles(samples: np.ndarray) -> None:
    bearded = np.any([column(samples, name) for name in BEARD_STYLES], axis=0)
    np.testing.assert_array_equal(column(samples, "No_Beard"), ~bearded)


def test_marginals_leave_both_signs_in_plenty(samples: np.ndarray) -> None:
    share = (samples > 0).mean(axis=0)
    out_of_bounds = {
        n: s for n, s in zip(ATTRIBUTE_NAMES, share, strict=True) if not 0.05 < s < 0.9
    }
    assert not out_of_bounds


@pytest.mark.parametrize(
    ("one", "other", "sign"),
    [
        *(("Male", name, 1) for name in (*BEARD_STYLES, "Bald", "Receding_Hairline")),
        *(("Male", name, 1) for name in ("Wearing_Necktie", "Bushy_Eyebrows", "Big_Nose")),
        *(("Male", name, -1) for name in ("Wearing_Lipstick", "Heavy_Makeup", "Wavy_Hair")),
        *(("Male", name, -1) for name in ("Arched_Eyebrows", "Wearing_Earrings", "Rosy_Cheeks")),
        ("Male", "Wearing_Necklace", -1),
        ("Smiling", "High_Cheekbones", 1),
        ("Smiling", "Mouth_Slightly_Open", 1),
        *(("Young", name, -1) for name in ("Gray_Hair", "Bald", "Bags_Under_Eyes", "Double_Chin")),
        ("Chubby", "Double_Chin", 1),
    ],
)
def test_correlations_have_celebas_sign(
    samples: np.ndarray, one: str, other: str, sign: int
) -> None:
    correlation = np.corrcoef(column(samples, one), column(samples, other))[0, 1]
    assert sign * correlation > 0.05


@pytest.mark.parametrize("name", ATTRIBUTE_NAMES)
def test_every_attribute_changes_pixels_where_training_looks(name: str) -> None:
    for seed in range(2):
        without, with_it = pair(name, seed)
        change = np.abs(with_it - without)[40:188, 15:163].max(axis=2)
        assert (change > 12).sum() > 60, f"seed {seed}"


@pytest.mark.parametrize("name", ATTRIBUTE_NAMES)
@pytest.mark.parametrize("value", [False, True])
def test_with_attribute_keeps_labels_drawable(samples: np.ndarray, name: str, value: bool) -> None:
    for attributes in samples[:15]:
        changed = with_attribute(attributes, name, value)
        assert (changed[INDEX[name]] > 0) == value or name in BEARD_STYLES
        bearded = any(changed[INDEX[style]] > 0 for style in BEARD_STYLES)
        assert (changed[INDEX["No_Beard"]] > 0) != bearded
        for group in EXCLUSIVE_GROUPS:
            assert sum(changed[INDEX[member]] > 0 for member in group) <= 1


def test_with_attribute_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown attribute 'Smile'.*Smiling"):
        with_attribute(drawn_attributes(0, 0), "Smile", True)


def test_contradicting_labels_are_refused() -> None:
    attributes = drawn_attributes(0, 0)
    attributes[[INDEX["Black_Hair"], INDEX["Blond_Hair"]]] = 1
    with pytest.raises(ValueError, match="Black_Hair"):
        draw_face(attributes, np.random.default_rng(0))


def test_planted_hair_colour_and_smile_are_in_the_pixels() -> None:
    crown, teeth, labels = [], [], []
    for i in range(100):
        image, attributes = synthetic_face(21, i)
        face = pixels(image)
        crown.append(face[52:60, 74:104].mean())
        teeth.append(face[140:154, 76:102].min(axis=2).max())
        labels.append(attributes)
    samples, crowns, whites = np.stack(labels), np.array(crown), np.array(teeth)
    sharp = ~column(samples, "Blurry")
    bare = ~column(samples, "Wearing_Hat") & sharp
    blond, black = column(samples, "Blond_Hair") & bare, column(samples, "Black_Hair") & bare
    assert crowns[blond].min() > crowns[black].max() + 20
    smiling = column(samples, "Smiling")
    assert whites[smiling & sharp].mean() > whites[~smiling & sharp].mean() + 30


def test_jpeg_is_close_to_the_image(tmp_path: Path) -> None:
    image, _ = synthetic_face(0, 0)
    path = tmp_path / "face.jpg"
    path.write_bytes(encode_jpeg(image))
    with Image.open(path) as decoded:
        assert np.abs(pixels(decoded) - pixels(image)).mean() < 4


@pytest.mark.parametrize("processes", [1, 2])
def test_celeba_layout_is_read_back(tmp_path: Path, processes: int) -> None:
    count, seed = 20, 9
    write_celeba_layout(tmp_path, count, seed, processes=processes)
    first, header, *rows = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()
    assert int(first) == count
    assert tuple(header.split()) == ATTRIBUTE_NAMES
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    assert [row.split()[0] for row in rows] == names
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(
            np.array(row.split()[1:], dtype=int), drawn_attributes(seed, i)
        )

    splits = [line.split() for line in (tmp_path / "list_eval_partition.txt").open()]
    assert [name for name, _ in splits] == names
    assert [int(part) for _, part in splits] == [0] * 16 + [1] * 2 + [2] * 2
    people = [line.split() for line in (tmp_path / "identity_CelebA.txt").open()]
    assert [(name, int(person)) for name, person in people] == list(
        zip(names, range(1, count + 1), strict=True)
    )
    files = sorted((tmp_path / "img_align_celeba").iterdir())
    assert [path.name for path in files] == names
    for i in (0, count - 1):
        assert files[i].read_bytes() == encode_jpeg(synthetic_face(seed, i)[0])


@pytest.mark.parametrize(("count", "processes"), [(0, 1), (3, 0)])
def test_celeba_layout_refuses_empty_sets(tmp_path: Path, count: int, processes: int) -> None:
    with pytest.raises(ValueError, match=f"count={count}, processes={processes}"):
        write_celeba_layout(tmp_path, count, 0, processes=processes)
