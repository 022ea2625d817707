"""Follow a list of torchvision's transforms, written as JSON: `[{"Resize": 256}, {"CenterCrop": 224}, "ToTensor", ...]`."""

import re
from collections.abc import Callable
from typing import Any

from engine.pictures.preprocessing import Preprocessing
from engine.pictures.resizing import WITHOUT_ANTIALIAS
from export.errors import ExportError
from export.processor_values import per_channel, pillow_filter, shown, side, sides, truth

RANDOM_TRANSFORMS = re.compile(r"Random|Jitter|AutoAugment|RandAugment|TrivialAugment|AugMix|MixUp|CutMix")
"""Names of transforms that training has and evaluation has not."""


def from_torchvision(transforms: list[Any]) -> Preprocessing:
    """Return what transforms do to a Pillow picture, or to a uint8 tensor if the list begins with PILToTensor or ToImage.

    transforms: each a name, or {name: arguments}; arguments: the first one alone, or a dictionary of them by name
    Raises ExportError that names a transform or an argument that the engine cannot follow.
    """
    if not isinstance(transforms, list) or not transforms:
        raise ExportError(f"torchvision's transforms must be a list of them, got {shown(transforms)}")
    reader = _Reader()
    for number, entry in enumerate(transforms, 1):
        if isinstance(entry, str):
            name, arguments = entry, None
        elif isinstance(entry, dict) and len(entry) == 1:
            ((name, arguments),) = entry.items()
        else:
            raise ExportError(f'transform {number} must be "Name" or {{"Name": arguments}}, got {shown(entry)}')
        reader.follow(name, arguments)
    return reader.preprocessing()


class _Reader:
    """Follows one transform after the other; what a picture is by then decides which may come next.

    stage: "picture" (Pillow), "tensor" (uint8), "floats", "normalised"; fields: of `Preprocessing`
    """

    def __init__(self) -> None:
        self.stage = "picture"
        self.fields: dict[str, Any] = {}
        self.resized: tuple[int, ...] | None = None
        self.cropped: tuple[int, int] | None = None
        self.steps: dict[str, Callable[[Any], None]] = {
            "Resize": self.resize,
            "CenterCrop": self.crop,
            "Grayscale": self.grey,
            "ToTensor": self.to_tensor,
            "PILToTensor": self.to_bytes,
            "ToImage": self.to_bytes,
            "ConvertImageDtype": self.convert,
            "ToDtype": self.to_dtype,
            "Normalize": self.normalise,
            "RGB": lambda arguments: None,
        }

    def follow(self, name: str, arguments: Any) -> None:
        if name in self.steps:
            self.steps[name](arguments)
        elif RANDOM_TRANSFORMS.search(name):
            raise ExportError(f"{name} changes pictures at random: give the transforms of evaluation, not of training")
        else:
            raise ExportError(f"{name} is not a transform that can be followed; these are: {', '.join(self.steps)}")

    def resize(self, arguments: Any) -> None:
        given = _named("Resize", arguments, "size", "interpolation", "max_size", "antialias")
        if given.get("max_size") is not None:
            raise ExportError("Resize: max_size cannot be followed: leave it out")
        if self.stage not in ("picture", "tensor") or self.resized is not None or self.cropped is not None:
            raise ExportError("Resize can be followed once only, before CenterCrop and before pixels become floats")
        size = given["size"]
        if isinstance(size, list | tuple) and len(size) == 1:
            (size,) = size
        self.resized = sides("Resize: size", size) if isinstance(size, list | tuple) else (side("Resize: size", size),)
        interpolation = given.get("interpolation", "bilinear")
        exact = isinstance(interpolation, str) and re.search(r"nearest[-_]exact$", interpolation, re.IGNORECASE) is not None
        name = "nearest" if exact else pillow_filter("Resize: interpolation", interpolation)
        antialias = truth("Resize: antialias", given.get("antialias", True))
        if self.stage == "picture" and not antialias:
            raise ExportError(
                "Resize: torchvision ignores antialias false for Pillow pictures: leave it out, or begin the list with "
                '"PILToTensor" if your pictures are tensors'
            )
        if self.stage == "tensor":
            if name not in WITHOUT_ANTIALIAS:
                raise ExportError(
                    f"Resize: torchvision has no interpolation {name} for tensors: {', '.join(WITHOUT_ANTIALIAS)}"
                )
            antialias = exact if name == "nearest" else antialias  # torch's older "nearest" takes another pixel
        self.fields |= {"interpolation": name, "antialias": antialias}

    def crop(self, arguments: Any) -> None:
        if self.stage == "normalised" or self.cropped is not None:
            raise ExportError("CenterCrop can be followed once only, before Normalize")
        self.cropped = sides("CenterCrop: size", _named("CenterCrop", arguments, "size")["size"])

    def grey(self, arguments: Any) -> None:
        channels = 1 if arguments is None else _named("Grayscale", arguments, "num_output_channels")["num_output_channels"]
        if channels != 1:
            raise ExportError(f"Grayscale: num_output_channels {shown(channels)} cannot be followed, only 1")
        if self.stage != "picture" or self.resized is not None:
            raise ExportError("Grayscale can be followed at the beginning of the list only: move it there")
        self.fields["channels"] = 1

    def to_tensor(self, arguments: Any) -> None:
        if self.stage != "picture":
            raise ExportError("ToTensor takes Pillow's pictures: for tensors, use ToDtype with scale true")
        self.stage, self.fields["scale"] = "floats", 255.0

    def to_bytes(self, arguments: Any) -> None:
        if self.stage != "picture":
            raise ExportError("PILToTensor and ToImage can be followed once only, before pixels become floats")
        self.stage = "tensor"

    def convert(self, arguments: Any) -> None:
        given = _named("ConvertImageDtype", arguments, "dtype")
        self.to_dtype({**given, "scale": True})

    def to_dtype(self, arguments: Any) -> None:
        given = _named("ToDtype", arguments, "dtype", "scale")
        if given["dtype"] not in ("float32", "torch.float32"):
            raise ExportError(f"ToDtype: dtype must be float32, got {shown(given['dtype'])}")
        if self.stage != "tensor":
            raise ExportError("ToDtype can be followed once only, after PILToTensor or ToImage")
        scaled = truth("ToDtype: scale", given.get("scale", False))
        self.stage, self.fields["scale"] = "floats", 255.0 if scaled else 1.0

    def normalise(self, arguments: Any) -> None:
        given = _named("Normalize", arguments, "mean", "std")
        if self.stage != "floats":
            raise ExportError("Normalize can be followed once only, after ToTensor or ToDtype")
        channels = self.fields.get("channels", 3)
        self.fields |= {name: per_channel(f"Normalize: {name}", given.get(name), channels) for name in ("mean", "std")}
        self.stage = "normalised"

    def preprocessing(self) -> Preprocessing:
        if self.stage not in ("floats", "normalised"):
            raise ExportError("the list must have ToTensor, or PILToTensor and ToDtype: it ends with whole numbers")
        if self.fields.get("channels") == 1 and self.stage == "floats":
            self.fields |= {"mean": (0.0,), "std": (1.0,)}
        if self.cropped is not None:
            height, width = self.cropped
            return Preprocessing(height, width, resize=() if self.resized is None else self.resized, **self.fields)
        if self.resized is None or len(self.resized) == 1:
            found = "there is no Resize" if self.resized is None else f"Resize {self.resized[0]} sets the shorter side alone"
            raise ExportError(
                f"pictures come in different sizes, because {found}: add CenterCrop, or Resize to [height, width]"
            )
        height, width = self.resized
        return Preprocessing(height, width, fit="stretch", **self.fields)


def _named(transform: str, arguments: Any, *names: str) -> dict[str, Any]:
    """Return a transform's arguments by their names; the first of `names` is what may stand alone, and must be there."""
    given = arguments if isinstance(arguments, dict) else {names[0]: arguments}
    for name in given:
        if name not in names:
            raise ExportError(f"{transform}: {name} cannot be followed; the arguments that can are {', '.join(names)}")
    if given.get(names[0]) is None:
        raise ExportError(f"{transform} needs {names[0]}")
    return given
