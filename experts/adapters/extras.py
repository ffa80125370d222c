"""What an adapter says where its library is not there."""

from __future__ import annotations


def missing_extra(library: str, extra: str) -> ImportError:
    """The error that names the library and the command that installs it.

    >>> missing_extra("zuko", "zuko")
    ImportError('adapting models of zuko needs zuko: pip install "product-of-experts[zuko]"')
    """
    return ImportError(
        f'adapting models of {library} needs {library}: pip install "product-of-experts[{extra}]"'
    )
