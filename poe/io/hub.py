"""Compositions on the Hugging Face Hub: pushed and pulled like any model, and never pickled.

Needs huggingface_hub, which `import poe` does not: `pip install "product-of-experts[hub]"`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from poe import io
from poe.core.errors import StorageError
from poe.density.conditional import Conditional
from poe.density.expert import Expert
from poe.files.atomic import write_bytes

try:
    from huggingface_hub import ModelCard, ModelHubMixin, constants, snapshot_download
except ImportError as error:
    raise ImportError(
        'poe.hub needs huggingface_hub: pip install "product-of-experts[hub]"'
    ) from error

LIBRARY = "product-of-experts"
FILES = (io.DESCRIPTION, "weights-*.safetensors")
CARD = """---
{{ card_data }}
---

A composition of experts, an unnormalised density on `{{ space }}`, as
[safetensors](https://github.com/huggingface/safetensors) and JSON:

```
{{ tree }}
```

```python
import experts  # registers the classes that it is made of
from poe.hub import HubExpert

expert = HubExpert.from_pretrained("<this repository>").expert
```
"""


def _is_own(config: Path) -> bool:
    try:
        told = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("library_name") == LIBRARY


class HubExpert(  # type: ignore[call-arg]
    ModelHubMixin,
    library_name=LIBRARY,
    tags=["product-of-experts", "energy-based-model"],
    model_card_template=CARD,
):
    """An expert, any composition or a conditional, with huggingface_hub's methods.

    ``HubExpert(joint).save_pretrained(folder)`` and ``.push_to_hub("user/joint")`` write the files
    of ``poe.save`` and a model card; ``HubExpert.from_pretrained(folder_or_name).expert`` is the
    expert again, bit for bit, on the CPU. Only classes registered here are ever built.

    Args:
        expert: What is shared.

    Raises:
        StorageError: Where there is no expert, or its files were altered, or it holds a class that
            nobody registered (as ``poe.save`` and ``poe.load`` do); from a hub also what
            huggingface_hub raises.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = HubExpert(experts.Gaussian([0.0], scale=[1.0]) ** 2).save_pretrained(folder)
        >>> HubExpert.from_pretrained(folder).expert(torch.zeros(1, 1))
        tensor([-1.8379])
    """

    def __init__(self, expert: nn.Module) -> None:
        if not isinstance(expert, nn.Module):
            raise StorageError(
                f"expected an expert to share, got {type(expert).__name__}; what is on a hub or in "
                "a folder is read by HubExpert.from_pretrained(name)"
            )
        self.expert = expert

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card with the tree of the composition in it.

        Args:
            *args: Those of huggingface_hub's ``ModelHubMixin.generate_model_card``, which passes
                them.
            **kwargs: Those of the same, as values of the card's template.

        Returns:
            The card.
        """
        space = self.expert.space if isinstance(self.expert, Expert | Conditional) else None
        return super().generate_model_card(*args, tree=self.expert, space=space, **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write the files of ``poe.save`` and a model card into a folder.

        Args:
            save_directory: The folder; an expert that was saved there is replaced.
            **kwargs: Those of huggingface_hub's ``ModelHubMixin.save_pretrained``.

        Returns:
            As that: None, or where it was pushed to.

        Raises:
            StorageError: As ``poe.save``, and where the folder has another program's
                ``config.json``, which huggingface_hub would remove.
        """
        config = Path(save_directory) / constants.CONFIG_NAME
        if config.exists() and not _is_own(config):
            raise StorageError(
                f"expected nothing at {config} or that of an expert, got another model's: give "
                "another folder"
            )
        pushed: str | None = super().save_pretrained(save_directory, **kwargs)
        return pushed

    def _save_pretrained(self, save_directory: Path) -> None:
        io.save(self.expert, save_directory)
        # The mixin looks for this file first, and the hub counts downloads by it.
        config = json.dumps({"library_name": LIBRARY})
        write_bytes(save_directory / constants.CONFIG_NAME, config.encode())

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> HubExpert:
        if model_kwargs:
            raise StorageError(
                "expected no settings beside those of huggingface_hub, got "
                f"{sorted(model_kwargs)}: an expert comes with its own"
            )
        if Path(model_id).is_dir():
            return cls(io.load(model_id))
        folder = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=list(FILES),
        )
        return cls(io.load(folder))
