"""Names as MLflow takes them: what it would refuse is spelled so that it can still be read.

Names of metrics come from label tables, where anything may stand. The run folder keeps the true
ones.
"""

import hashlib
import re

LONGEST = 250
"""characters of a name of a metric, a parameter or a tag in MLflow"""
DIGEST_DIGITS = 12
_REFUSED = re.compile(r"[^\w.\- :/]")
_NOT_IN_A_PATH = ("", ".", "..")
"""parts of a name that MLflow refuses, since some of its stores make paths of names"""


def mlflow_name(name: str) -> str:
    """The name itself if MLflow takes it; else one of the same look that no other name has.

    Each character that MLflow refuses becomes `_`, a long name is cut, and the first digits of the
    true name's SHA-256 follow: `auc/Age>50` becomes `auc/Age_50-661cf1875190`.
    """
    parts = _REFUSED.sub("_", name).split("/")
    readable = "/".join("_" if part in _NOT_IN_A_PATH else part for part in parts)
    if readable == name and len(name) <= LONGEST:
        return name
    # A name may hold half of a surrogate pair, which UTF-8 has no bytes for.
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:DIGEST_DIGITS]
    return f"{readable[: LONGEST - DIGEST_DIGITS - 1]}-{digest}"
