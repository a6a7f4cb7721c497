"""What the names of images say: UTKFace's age, gender and race, LFW's persons."""

import posixpath
import re
from collections.abc import Sequence

import numpy as np

from facevae.data.sources.tables import LabelTable
from facevae.errors import UserError

UTKFACE = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+\.")
"""[age]_[gender]_[race]_[date].jpg, as UTKFace's page has it"""
NO_UTKFACE = "the name does not say age_gender_race_date, as UTKFace's do"
NO_PERSON = "the image is in no person's folder"
RACES = ("White", "Black", "Asian", "Indian", "Other_Race")
UTKFACE_NAMES = ("Male", "Under_18", "Over_40", "Over_60", *RACES)


def utkface_labels(uri: str, files: Sequence[str]) -> LabelTable:
    """Returns the labels that UTKFace's file names state, of the images whose names do.

    `Male` is gender 0; ages are counted in full years, and each race is a label of its own.

    Raises:
        UserError: no name does.
    """
    ids: list[str] = []
    labels: list[list[bool]] = []
    for file in files:
        if said := UTKFACE.match(posixpath.basename(file)):
            age, gender, race = map(int, said.groups())
            ids.append(file)
            ages = [age < 18, age > 40, age > 60]
            labels.append([gender == 0, *ages, *(race == each for each in range(len(RACES)))])
    if not ids:
        raise UserError(
            f"no image in {uri} is called age_gender_race_date, as UTKFace's are (the first is "
            f"'{files[0]}'): leave --file_names utkface out"
        )
    signed = np.where(np.array(labels), np.int8(1), np.int8(-1))
    return LabelTable(UTKFACE_NAMES, tuple(ids), signed)


def persons(uri: str, files: Sequence[str]) -> dict[str, str]:
    """Returns the person on each image that lies in a folder: the folder, as in LFW.

    Raises:
        UserError: no image does.
    """
    found = {file: folder for file in files if (folder := posixpath.dirname(file))}
    if not found:
        raise UserError(
            f"no image in {uri} is in a folder of its person, as LFW's are (the first is "
            f"'{files[0]}'): leave --file_names lfw out"
        )
    return found
