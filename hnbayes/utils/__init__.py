"""The documented module names: each re-exports what lives elsewhere in the package."""
