"""From an image file to the model's input, with the steps of the original's evaluation.

The short side is scaled to size / 0.875 (256 for 224) by bicubic interpolation, the middle is cut out, and
values of 0 to 1 are normalized by ImageNet's mean and standard deviation.
"""

import warnings

from answers import Refusal

CROP = 0.875
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def read(path, size, upright=True, normalized=None):
    """An image as (3, size, size), normalized.

    Args:
        normalized: makes the result of the cut image: `normalize`, by default, or `normalize_array`
        upright: whether to rotate the image as its camera recorded, and to draw transparent images on
            white. The original does neither.

    Raises:
        Refusal: the file is no image, is damaged, or is too large.
    """
    from PIL import Image, ImageOps

    # Pillow only warns up to twice its limit, which is too late for a small device.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with Image.open(path) as stored:
            _bounded(path, *stored.size, Image.MAX_IMAGE_PIXELS)
            stored.load()
            image = _visible(ImageOps.exif_transpose(stored)) if upright else stored
            return (normalized or normalize)(cut(image.convert("RGB"), path, size))
    except Image.DecompressionBombError as fault:
        raise _huge(path, str(fault)) from None
    except Image.UnidentifiedImageError:
        raise Refusal(
            "run",
            f"{path} is not an image",
            found="no format that Pillow knows",
            expected="a JPEG, PNG, WebP, TIFF, BMP or PPM file",
            hint="`file` names the format; a HEIC photograph has to be converted first",
        ) from None
    except FileNotFoundError:
        raise Refusal("usage", f"There is no image {path}", hint="check the path") from None
    except (IsADirectoryError, PermissionError) as fault:
        raise Refusal(
            "usage",
            f"The image cannot be read: {path}",
            fault.strerror,
            hint="check the path of --image: a file that this user may read",
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as fault:  # what Pillow raises for damaged files
        raise Refusal(
            "run",
            f"{path} is not a whole image",
            found=str(fault),
            expected="a file that can be decoded to its end",
            hint="copy or fetch the file again",
        ) from None


def _bounded(path, width, height, most):
    if most is not None and width * height > most:
        raise _huge(path, f"{width} x {height} pixels")


def _huge(path, found):
    return Refusal(
        "run",
        f"{path} is too large to decode safely",
        found=found,
        expected="fewer pixels than Pillow's limit of 89 million",
        hint="scale the image down first, for example: convert IN -resize 2048x2048 OUT",
    )


def _visible(image):
    """The image as a viewer shows it: transparent parts on white, 16-bit greys as 8-bit greys."""
    from PIL import Image

    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def cut(image, path, size):
    """The middle of a scaled image: size x size pixels, RGB."""
    from PIL import Image

    short = int(size / CROP)
    least = min(image.size)
    width, height = (short if side == least else int(short * side / least) for side in image.size)
    # A narrow strip would become very long when scaled.
    _bounded(path, width, height, Image.MAX_IMAGE_PIXELS)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def normalize(image):
    """An RGB image as a tensor (3, height, width), float32."""
    import torch

    width, height = image.size
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    values = values.view(height, width, 3).permute(2, 0, 1).contiguous().float().div_(255)
    mean, deviation = torch.tensor(MEAN)[:, None, None], torch.tensor(DEVIATION)[:, None, None]
    return values.sub_(mean).div_(deviation)


def normalize_array(image):
    """The same as :func:`normalize`, as an array of numpy."""
    import numpy as np

    values = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, deviation = (np.array(numbers, dtype=np.float32)[:, None, None] for numbers in (MEAN, DEVIATION))
    return (values - mean) / deviation
