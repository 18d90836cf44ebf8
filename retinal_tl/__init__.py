"""Outline the lesions of diabetic retinopathy in fundus photographs: a classifier's encoder, reused.

`segment`, `classify` and `load_run` can be taken from here; they are loaded when they are first asked for."""
__version__ = "0.1.0"

__all__ = ["segment", "classify", "load_run"]


def __getattr__(name):
    if name not in __all__: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import inference
    return getattr(inference, name)


def __dir__():
    return sorted([*globals(), *__all__])
