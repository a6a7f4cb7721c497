"""The source of raw faces that a configuration names."""

from facevae.config import ShardingConfig, SourceConfig
from facevae.data.sources import FaceSource
from facevae.data.sources.folder import ImageFolderSource
from facevae.data.sources.synthetic.source import SyntheticSource
from facevae.runs import storage


def make_source(config: SourceConfig, sharding: ShardingConfig) -> FaceSource:
    """The raw faces that a configuration names.

    Raises:
        UserError: a folder or table is missing, empty or wrong.
    """
    if config.images is None:
        return SyntheticSource(config.drawn.count, config.drawn.seed)
    assert config.attributes is not None, "SourceConfig checks it"
    return ImageFolderSource(
        storage.absolute(config.images),  # since Ray's tasks run in another folder
        storage.absolute(config.attributes),
        config.partition and storage.absolute(config.partition),
        config.identities and storage.absolute(config.identities),
        sharding.label_encoding,
    )
