"""Mutants of networks by name, losses and metrics of segmentation, patches and configurations."""

from tests.mutants.mutant import in_file

_NAMED = "tests/models/test_named_networks.py::test_"
_SAME = _NAMED + "outputs_are_those_of_torchvision"
_CBAM = _NAMED + "cbam_weighs_channels_and_then_pixels"

MUTANTS = (
    *in_file(
        "fedrecon/models/residual_networks.py",
        ("return ((window // 2, window // 2),) * (x.ndim - 2)", 'return "SAME"', _SAME),
        ("y = convolve(nn.relu(y) if i else y, features", "y = convolve(y, features", _SAME),
        (
            "if kind is InstanceNorm and max(x.shape[1:-1]) == 1:",
            "if False:",
            _NAMED + "refusals",
        ),
    ),
    *in_file(
        "fedrecon/models/dense_networks.py",
        (
            "x = nn.avg_pool(y, (2,) * axes, (2,) * axes)",
            "x = nn.max_pool(y, (2,) * axes, (2,) * axes)",
            _SAME,
        ),
    ),
    *in_file(
        "fedrecon/models/attention.py",
        (
            "pooled = (x.mean(spatial",
            "pooled = (x.min(spatial",
            _CBAM,
        ),
        ("/ jnp.sqrt(query.shape[-1])", "/ jnp.sqrt(channels)", _SAME),
    ),
    *in_file(
        "fedrecon/models/windows.py",
        ("rows * (2 * window - 1) + columns", "columns * (2 * window - 1) + rows", _SAME),
        ("(np.arange(padded) >= padded - shift)", "(np.arange(padded) > padded - shift)", _SAME),
    ),
)
