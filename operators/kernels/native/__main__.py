"""``python -m operators.kernels.native``: compiles the native kernels and says what is in use."""

from operators.kernels.native import backends

for name, what in backends().items():
    print(f"{name}: {what}")
