"""The source of raw faces that a configuration names."""

from pathlib import Path

from facevae.config import ImagesConfig, LabelEncoding, ShardingConfig, SourceConfig
from facevae.data.aligned_files import PARTS, SUMMARY
from facevae.data.downloads import kind_of_content, no_data, read_head
from facevae.data.sources import FaceSource
from facevae.data.sources.archive import TarFiles, ZipFiles
from facevae.data.sources.folder import FolderFiles
from facevae.data.sources.image_files import IMAGE_EXTENSIONS, ImageFiles, extension_of
from facevae.data.sources.image_source import ImageSource
from facevae.data.sources.merged import MergedSource
from facevae.data.sources.parquet import EXTENSION, ParquetFiles, parquet_paths
from facevae.data.sources.synthetic.source import SyntheticSource
from facevae.errors import UserError
from facevae.runs import storage

ENDINGS: dict[str, type[ImageFiles]] = {
    ".zip": ZipFiles,
    EXTENSION: ParquetFiles,
    **dict.fromkeys((".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"), TarFiles),
    ".tar.zst": TarFiles,
}
CONTENTS: dict[str, type[ImageFiles]] = {
    "zip": ZipFiles,
    "parquet": ParquetFiles,
    "tar": TarFiles,
    "compressed": TarFiles,
}
OWN_SHARDS = "manifest.json"


def make_source(config: SourceConfig, sharding: ShardingConfig) -> FaceSource:
    """The raw faces that a configuration names.

    Raises:
        UserError: a folder or table is missing, empty or wrong.
    """
    encoding = sharding.label_encoding
    if config.sources:
        return MergedSource(
            {each.name: _images(each, each.label_encoding or encoding) for each in config.sources}
        )
    if config.images is None:
        return SyntheticSource(config.drawn.count, config.drawn.seed)
    return _images(config, encoding)


def _images(config: SourceConfig | ImagesConfig, encoding: LabelEncoding) -> ImageSource:
    assert config.images is not None
    # Absolute, since Ray's tasks run in another folder.
    return ImageSource(
        open_images(storage.absolute(config.images)),
        config.attributes and storage.absolute(config.attributes),
        config.partition and storage.absolute(config.partition),
        config.identities and storage.absolute(config.identities),
        encoding,
        config.file_names,
    )


def open_images(uri: str) -> ImageFiles:
    """Returns the images in a place: by what a local file holds, else by how its name ends.

    Args:
        uri: of a folder or file, absolute.

    Raises:
        UserError: there is nothing, or what is there is no data.
    """
    if not (storage.is_local(uri) and Path(uri).is_dir()):
        kind = next((ENDINGS[end] for end in ENDINGS if uri.lower().endswith(end)), None)
        if storage.is_local(uri) and Path(uri).is_file():
            head = read_head(uri)
            if found := no_data(head):
                raise UserError(f"{uri} is {found}")
            kind = CONTENTS.get(kind_of_content(head) or "", kind)
        if kind is not None:
            return kind(uri)
    folder = FolderFiles(uri)
    if SUMMARY in folder.paths:  # that of `align`, beside a sheet of those without a face
        return ParquetFiles(storage.join(uri, PARTS))
    has_images = any(extension_of(path) in IMAGE_EXTENSIONS for path in folder.paths)
    if has_images and parquet_paths(folder.paths):
        raise UserError(
            f"{uri} holds images and Parquet files, such as {parquet_paths(folder.paths)[0]}: give "
            "the folder or the file that the faces are in, or take the others out"
        )
    if not has_images:
        if OWN_SHARDS in folder.paths and parquet_paths(folder.paths):
            raise UserError(f"{uri} holds shards that facevae made already: give it as --shards")
        if parquet_paths(folder.paths):
            return ParquetFiles(uri)
    return folder
