"""Backbones: which networks can be had, from where, under which licence.

Torch and timm take seconds to import, so they are only where a network is built.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import families

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Hub models that are looked for in the local hub cache when nothing is asked for by name.
HUB_DEFAULTS = (
    "mobilenetv3_small_100.lamb_in1k",
    "mobilenetv4_conv_small.e2400_r224_in1k",
    "mobilenetv2_100.ra_in1k",
    "tf_efficientnet_lite0.in1k",
    "efficientnet_b0.ra_in1k",
    "resnet18.a1_in1k",
    "convnext_atto.d2_in1k",
)


#: Architectures of timm's that :func:`search_spaces.convert.convert` knows.
_CONVERTIBLE = re.compile(r"(tf_|test_)?(resnet\d|mobilenetv[123]|efficientnet|convnext_|vit_|deit_)")
#: Transformers of timm's that take images of other sizes than they were trained on once they are asked to, and how; what
#: turns positions (rope) is left out, as it cannot be exported.
_RESIZABLE = re.compile(r"(test_)?(vit|deit|flexivit|beit3)(?!.*(relpos|rope|_pe_|sapiens))")
RESIZED = "dynamic_img_size"
#: Family of a subnet that was taken out of a supernet (:meth:`search_spaces.stored.Stored.backbone`).
SUBNET = "subnet"


class BackboneError(ValueError):
    """A backbone cannot be had or built; the message says what to do."""


@dataclass(frozen=True)
class Backbone:
    """One network.

    Attributes:
        name: shown to the user and part of a candidate's id.
        source: ``local-dir:PATH``, a timm tag, or ``scratch``.
        architecture: timm's or a family's name of it.
        pretrained: whether weights come with it.
        mean, std: normalisation of inputs in 0..1.
        licence: of the weights, as they state it.
        num_features: width of the pooled features; None where unknown.
        family: ``timm``, a name of :data:`search_spaces.families.FAMILIES`, or :data:`SUBNET`.
        arguments: what its settings give to its architecture's function (``model_args``), such as the kind of padding.
    """

    name: str
    source: str
    architecture: str
    pretrained: bool
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    licence: str = "unknown"
    num_features: int | None = None
    family: str = "timm"
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Backbone:
        """Rebuild from :meth:`to_dict`."""
        known = {k: values[k] for k in cls.__dataclass_fields__ if k in values}
        return cls(**{**known, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def find_backbones(
    weights_dirs: Sequence[str | os.PathLike[str]] = (), names: Sequence[str] = ()
) -> tuple[list[Backbone], list[str]]:
    """Return the backbones that can be had and, for each that cannot, one line that says what to do.

    Args:
        weights_dirs: folders whose sub-folders are models (``config.json`` and ``model.safetensors``).
        names: models asked for: ``local-dir:PATH``, a timm tag, or the name of a folder below a weights
            folder; empty for all folders and whatever of :data:`HUB_DEFAULTS` the local hub cache holds, or, where
            that is nothing, for what the package carries (:mod:`search_spaces.carried`).

    Networks for training from scratch come last and are always there unless names are given.
    """
    found: dict[str, Backbone] = {}
    skipped: list[str] = []
    local: dict[str, Path] = {}
    for directory in weights_dirs:
        folder = Path(directory)
        models = [folder] if (folder / "config.json").exists() else []
        models += sorted(folder.iterdir()) if folder.is_dir() else []
        models = [entry for entry in models if entry.is_dir() and not entry.name.startswith(".")]
        if not models:
            skipped.append(
                f"{folder} holds no model; a model is a folder NAME with config.json and model.safetensors"
            )
        for entry in models:
            local.setdefault(entry.name, entry)
    wanted = list(names) or [*local, *HUB_DEFAULTS]
    carried = _carried()
    for name in wanted:
        try:
            if name.startswith("local-dir:"):
                backbone = _local(Path(name.removeprefix("local-dir:")))
            elif name in local:
                backbone = _local(local[name])
            elif families.family_of(name) is not None:
                backbone = scratch(name)
            elif name in carried:
                backbone = carried[name]
            else:
                backbone = _hub(name, download=bool(names), others=tuple(local))
        except BackboneError as error:
            if names or name in local:
                skipped.append(f"backbone {name} is left out: {error}")
            continue
        found.setdefault(backbone.name, backbone)
    if not names:
        if not found:
            found.update(carried)
        for name in families.architectures():
            found.setdefault(name, scratch(name))
    return list(found.values()), skipped


def _carried() -> dict[str, Backbone]:
    from search_spaces import carried

    return {backbone.name: backbone for backbone in carried.backbones()}


def may_convert(architecture: str) -> bool:
    """Whether an architecture of timm's is of a kind that becomes a supernet, as far as its name tells."""
    return _CONVERTIBLE.match(architecture) is not None


def usual_arguments(architecture: str) -> dict[str, Any]:
    """What we give to an architecture's function, so that every side can be tried, where its settings say nothing of it."""
    return {RESIZED: True} if _RESIZABLE.match(architecture) else {}


def scratch(name: str) -> Backbone:
    """A network of one of the families, without pretrained weights."""
    family = families.family_of(name)
    if family is None:
        raise BackboneError(f"no family has {name!r}")
    return Backbone(name, "scratch", name, False, licence="none needed (trained from scratch)", family=family)


def _local(folder: Path) -> Backbone:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = str(config["architecture"])
        settings = config.get("pretrained_cfg") or config
        arguments = {**usual_arguments(architecture), **_arguments(config)}
        mean, std = (
            tuple(float(value) for value in settings.get(name, default))
            for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean)) or not min(std) > 0:
            raise ValueError("mean needs three numbers, std three above 0")
    except FileNotFoundError:
        raise BackboneError(
            f"{folder} has no config.json; a model folder holds config.json and model.safetensors"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"{folder}/config.json cannot be used ({_line(error)}); copy the model again"
        ) from None
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise BackboneError(
            f"{folder} has no model.safetensors; other formats are not read because they can run code"
        )
    try:
        from safetensors import safe_open

        with safe_open(weights, framework="np") as handle:
            if not list(handle.keys()):
                raise ValueError("no tensors")
    except Exception as error:
        raise BackboneError(f"{weights} cannot be read ({_line(error)}); copy the model again") from None
    if not _timm_has(architecture):
        import timm

        hint = _did_you_mean(architecture, timm.list_models())
        raise BackboneError(f"timm has no architecture {architecture!r}{hint} — or install a newer timm")
    return Backbone(
        folder.name,
        f"local-dir:{folder.resolve()}",
        architecture,
        True,
        mean,
        std,
        _licence(folder, settings),
        config.get("num_features"),
        arguments=arguments,
    )


def _timm_has(architecture: str) -> bool:
    """Whether timm registers it: read from timm's source, and asked of timm only where it isn't found there."""
    spec = importlib.util.find_spec("timm")
    if spec is not None and spec.origin is not None and architecture.isidentifier():
        registered = re.compile(rf"^@register_model\s+def {architecture}\(", re.MULTILINE)
        for path in sorted((Path(spec.origin).parent / "models").glob("*.py")):
            if registered.search(path.read_text(encoding="utf-8")):
                return True
    import timm

    return bool(timm.is_model(architecture))


def _licence(folder: Path, settings: Mapping[str, Any]) -> str:
    stated = settings.get("license") or settings.get("licence")
    if stated:
        return str(stated)
    files = sorted(p.name for p in folder.iterdir() if p.name.upper().startswith(("LICENSE", "LICENCE")))
    return files[0].split("-", 1)[-1].removesuffix(".txt") if files and "-" in files[0] else "unknown"


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(repr(one) for one in close)}?" if close else ""


def _hub(name: str, *, download: bool, others: Sequence[str]) -> Backbone:
    if not download and not _in_hub_cache(f"timm/{name}"):
        raise BackboneError("not in the local hub cache")
    import timm

    plain = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    base = plain.split("/")[-1].split(".")[0]
    if not timm.is_model(base):
        hint = _did_you_mean(base, [*others, *families.architectures(), *timm.list_models()])
        raise BackboneError(f"timm has no model {name!r}{hint} — or give local-dir:PATH")
    try:
        config = timm.get_pretrained_cfg(plain.split("/")[-1], allow_unregistered=False)
    except RuntimeError:
        tags = timm.list_pretrained(f"{base}.*")
        hint = _did_you_mean(plain.split("/")[-1], tags) or f"; known: {', '.join(tags[:6]) or 'none'}"
        raise BackboneError(f"timm has no weights {name!r}{hint}") from None
    if config is None or not config.has_weights:
        raise BackboneError("timm lists no weights for it; choose a tag from timm.list_pretrained()")
    hub_id = (plain if "/" in plain else config.hf_hub_id) or ""
    if hub_id.endswith("/"):
        hub_id += plain
    backbone = Backbone(
        plain.split("/")[-1],
        f"hf-hub:{hub_id}",
        config.architecture or base,
        True,
        tuple(config.mean),
        tuple(config.std),
        str(config.license or "unknown"),
    )
    if download:
        try:
            create_backbone(backbone)  # which fetches its settings too
        except Exception as error:
            raise BackboneError(
                f"its weights cannot be fetched ({_line(error)}); connect once, or put the folder "
                "below --weights-dir"
            ) from None
    return replace(backbone, arguments={**usual_arguments(backbone.architecture), **_hub_arguments(hub_id)})


def _in_hub_cache(hub_id: str) -> bool:
    return _cached(hub_id, "model.safetensors") is not None


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """What settings give to the architecture's function."""
    given = config.get("model_args") or {}
    if not isinstance(given, dict):
        raise TypeError("model_args is no table of names and values")
    return given


def _hub_arguments(hub_id: str) -> dict[str, Any]:
    settings = _cached(hub_id, "config.json")
    try:
        config = json.loads(settings.read_text(encoding="utf-8")) if settings else {}
        return _arguments(config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BackboneError(f"its settings cannot be used ({_line(error)}); fetch them again") from None


def _cached(hub_id: str, name: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub_id, name)
    except Exception:
        return None
    return Path(found) if isinstance(found, str) else None


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def create_backbone(backbone: Backbone, *, num_classes: int = 0, pretrained: bool | None = None) -> nn.Module:
    """Build the network.

    Args:
        backbone: which.
        num_classes: 0 for pooled features ``[N, F]``; otherwise logits of a new head.
        pretrained: False leaves the weights out, for measuring; None takes them where there are any.

    Raises:
        BackboneError: it cannot be built.
    """
    if backbone.family != "timm":
        if num_classes:
            raise BackboneError("a family's network has no head of its own; put one on its features")
        if backbone.family == SUBNET and backbone.pretrained and pretrained is not False:
            from search_spaces import carried

            return carried.network(backbone)
        if backbone.family == SUBNET:
            from search_spaces.stored import plain_network

            try:
                return plain_network(backbone)
            except ValueError as error:
                raise BackboneError(f"{backbone.name} cannot be built ({_line(error)})") from error
        return families.create(backbone.architecture)
    import timm

    with_weights = backbone.pretrained if pretrained is None else pretrained and backbone.pretrained
    # The rest of the arguments timm reads from the settings itself.
    ours = {name: value for name, value in backbone.arguments.items() if name == RESIZED}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = timm.create_model(
                backbone.source, pretrained=with_weights, num_classes=num_classes, **ours
            )
    except Exception as error:
        raise BackboneError(f"{backbone.name} cannot be built ({_line(error)})") from error
    return model.float()
